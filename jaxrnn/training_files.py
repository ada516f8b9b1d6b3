"""Checkpoints as orbax writes and reads them: arrays, facts, and every process's positions in the data.

A checkpoint is a folder named by its step. Orbax writes it under another name and renames it when it is complete.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np

from jaxrnn import training_state
from jaxrnn.training_state import PyTree

FORMAT = 1  # of what is written here; a higher one is refused

# The items of a checkpoint: folders of these names.
_ARRAYS, _FACTS, _POSITIONS = "arrays", "facts", "positions"


def open_writer(directory: str, keep: int) -> Any:
    """Return orbax's manager for writing; what a killed process has left half-written is removed."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.LatestN(keep), cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(directory, options=options, handler_registry=_handlers())


@contextmanager
def reader(directory: str) -> Iterator[Any]:
    """Orbax's manager for reading alone, or None where there is no such directory."""
    import orbax.checkpoint as ocp
    from etils import epath

    if not epath.Path(directory).exists():
        yield None
        return
    # Writes nothing, although orbax would call only a manager that warns about it "read_only".
    options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory, options=options, handler_registry=_handlers()) as manager:
        yield manager


def write(
    writer: Any,
    step: int,
    arrays: Mapping[str, PyTree],
    positions: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Begin to write a checkpoint; what is handed over may change as soon as this returns."""
    import orbax.checkpoint as ocp

    described = {"format": FORMAT, "arrays": training_state.describe(arrays), "facts": facts}
    items = {
        _ARRAYS: ocp.args.PyTreeSave(training_state.to_store(arrays)),
        _FACTS: ocp.args.JsonSave(_copied(described)),
        _POSITIONS: ocp.args.JsonSave(_copied(positions)),
    }
    writer.save(step, args=ocp.args.Composite(**items), force=True)


def read_facts(reader: Any, directory: str, step: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Return descriptions of a checkpoint's arrays, and the facts that were given.

    Raises:
        ValueError: it is in a format that this version cannot read.
    """
    import orbax.checkpoint as ocp

    described: Any = None
    with suppress(KeyError, FileNotFoundError):
        described = reader.restore(step, args=ocp.args.Composite(**{_FACTS: ocp.args.JsonRestore()}))[_FACTS]
    form = described.get("format") if isinstance(described, dict) else None
    if not isinstance(form, int):
        raise ValueError(f"{directory}: step {step} is not a checkpoint that jaxrnn.train.Checkpoints wrote.")
    if form > FORMAT:
        raise ValueError(
            f"checkpoint {directory} is in format {form}, and this version of jaxrnn reads formats up to {FORMAT}: "
            "upgrade jaxrnn to the version that wrote it."
        )
    return described["arrays"], described["facts"]


def read_arrays(reader: Any, step: int, template: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Read arrays onto the devices and shardings of `template`, and no others."""
    import orbax.checkpoint as ocp

    leaves = training_state.to_store(template)
    if not leaves:
        return dict(template)
    # What was on no particular device must not be tied to one: beside arrays on a mesh, JAX would refuse it.
    like = {
        name: np.empty(leaf.shape, leaf.dtype) if training_state.may_be_moved(leaf) else leaf
        for name, leaf in leaves.items()
    }
    restore = ocp.args.PyTreeRestore(
        like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
    )
    stored = reader.restore(step, args=ocp.args.Composite(**{_ARRAYS: restore}))[_ARRAYS]
    return training_state.from_store(stored, template)


def read_positions(directory: str, step: int) -> dict[str, Any]:
    """Return the states of this process's iterators, by the names of their parts.

    They are this process's own if there are as many as had saved them. If not, those that saved must all have been
    at the same position, as the pipelines of `jaxrnn.pipeline` are: they count batches of the whole run.

    Raises:
        ValueError: the positions of another number of processes differ.
    """
    from etils import epath

    files = (epath.Path(directory) / str(step) / _POSITIONS).glob("process_*.json")
    texts = {file.name: file.read_text() for file in files}
    if len(texts) == jax.process_count():
        return json.loads(texts[_position_file()])
    if len(set(texts.values())) != 1:
        raise ValueError(
            f"checkpoint {directory}: its {len(texts)} processes were at different positions in the data, which "
            f"{jax.process_count()} cannot share. Resume with {len(texts)} processes, or leave the data out of "
            "the run and begin it anew."
        )
    return json.loads(next(iter(texts.values())))


def _position_file() -> str:
    return f"process_{jax.process_index()}.json"


def _handlers() -> Any:
    """Say how orbax writes each item; of the positions, every process writes its own."""
    import orbax.checkpoint as ocp

    by_all = ocp.options.MultiprocessingOptions(primary_host=None)
    handlers = {
        _ARRAYS: ocp.handlers.PyTreeCheckpointHandler(),
        _FACTS: ocp.handlers.JsonCheckpointHandler(),
        _POSITIONS: ocp.handlers.JsonCheckpointHandler(_position_file(), multiprocessing_options=by_all),
    }
    return ocp.handlers.create_default_handler_registry(**handlers)


def _copied(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what is written in the background; raise now if JSON cannot hold it."""
    return json.loads(json.dumps(facts))
