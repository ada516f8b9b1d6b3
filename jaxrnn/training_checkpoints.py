"""Checkpoints of a training run: written beside it, whole or not at all, and read onto the devices there are."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxrnn import training_state
from jaxrnn.training_state import PyTree

FORMAT = 1  # of what `Checkpoints` writes; a higher one is refused

# The items of a checkpoint, as orbax has it: folders of these names.
ARRAYS, FACTS, POSITIONS = "arrays", "facts", "positions"


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    run: dict[str, Any]  # like the run that was given; modules, optimizers and iterators are the same objects
    facts: dict[str, Any]


class Position:
    """A position in the data that was taken down: what an iterator's ``get_state()`` returned, or None."""

    def __init__(self, state: Any = None):
        self.state = state

    @classmethod
    def of(cls, iterator: Any) -> "Position":
        """Take down where an iterator is; None if it cannot say."""
        return cls(iterator.get_state() if _is_position(iterator) else None)

    def get_state(self) -> Any:
        """Return the state."""
        return self.state

    def set_state(self, state: Any) -> None:
        """Take another state."""
        self.state = state


class Checkpoints:
    """The checkpoints of one training run, in a directory of its own::

        run = {"model": model, "optimizer": optimizer, "carry": carry, "data": iter(dataset)}
        with Checkpoints("runs/17", every=1000) as checkpoints:
            step, run, _ = checkpoints.resume(run)
            while step < steps:
                loss, run["carry"] = train_step(model, optimizer, next(run["data"]), run["carry"])
                step += 1
                checkpoints.save(step, run)

    A run is a dictionary of parts, each of one of three kinds:

    * an ``nnx.Module``, ``nnx.Optimizer`` or ``nnx.Rngs``, random streams and counters included: restored in
      place, as ``truncated_bptt`` trains them in place;
    * a position in the data, anything with ``get_state()`` and ``set_state(state)`` whose state JSON can hold,
      like grain's iterators: set in place, so that the next batch is the one that would have come;
    * a tree of arrays, like a carry: returned.

    Everything is restored bit for bit, and onto the devices and shardings of the run that is given, however the one
    that was saved was sharded: build the run for the mesh at hand, then resume. On as many devices, training goes
    on bit for bit as if it had never been interrupted; on others to rounding, as sums are taken in another order.

    Saving returns as soon as the arrays are copied out of the devices' reach; they are written in the background. A
    checkpoint appears as a whole, under its step: a process killed while it saves leaves the one before. In a run
    of several processes, all call `save` and `restore`, at the same steps.

    Args:
        directory: of this run alone; ``gs://`` and the like where `etils.epath` can reach them.
        every: how many steps apart checkpoints are; other calls of `save` return at once.
        keep: how many are kept, the latest ones.
    """

    def __init__(self, directory: str | os.PathLike[str], *, every: int = 1, keep: int = 1):
        for name, count in (("every", every), ("keep", keep)):
            if count < 1:
                raise ValueError(f"{name}={count}: expected at least 1.")
        where = os.fspath(directory)
        self.directory = where if "://" in where else os.path.abspath(where)
        self._every = every
        self._keep = keep
        self._writer: Any = None
        self._saved: int | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints there are, the latest last."""
        self.wait()
        with _reader(self.directory) as reader:
            return tuple(sorted(reader.all_steps())) if reader else ()

    def save(
        self,
        step: int,
        run: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> bool:
        """Save the run after `step` steps if it is due, by `every` or by `force`; return whether it was.

        `facts` is what JSON can hold, and comes back as it is. An earlier save that failed raises here.

        Raises:
            ValueError: the directory holds this or a later step, of a run that was not resumed; no array in `run`.
            TypeError: a part of the run, or a fact, is of no kind that can be saved.
        """
        if step == self._saved or not (force or step % self._every == 0):
            return False
        import orbax.checkpoint as ocp

        arrays, positions = _sorted_out(run)
        if not arrays:
            raise ValueError("run: no part of it holds an array, so there is nothing to save.")
        writer = self._open()
        latest = writer.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"{self.directory} holds step {latest} already, and step {step} was to be saved: resume from it, "
                "or give a new run a directory of its own."
            )
        described = {**_copied(facts or {}), "format": FORMAT, "arrays": training_state.describe(arrays)}
        states = {name: iterator.get_state() for name, iterator in positions.items()}
        writer.save(
            step,
            args=ocp.args.Composite(
                **{
                    ARRAYS: ocp.args.PyTreeSave(training_state.to_store(arrays)),
                    FACTS: ocp.args.JsonSave(described),
                    POSITIONS: ocp.args.JsonSave(_copied(states)),
                }
            ),
            force=True,
        )
        self._saved = step
        return True

    def resume(self, run: Mapping[str, Any]) -> Restored:
        """Restore the latest checkpoint into `run`; where there is none, return it as it is, at step 0."""
        return self.restore(run) if self.steps else Restored(0, dict(run), {})

    def restore(self, run: Mapping[str, Any], step: int | None = None) -> Restored:
        """Restore the checkpoint of `step`, by default the latest, into `run`; parts that `run` lacks are left.

        So ``restore({"model": model})`` reads a model alone, to judge it while the training goes on elsewhere:
        nothing is written.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is of another model, optimizer or carry, lacks a part, or is in a format that this
                version cannot read.
        """
        arrays, positions = _sorted_out(run)
        self.wait()
        with _reader(self.directory) as reader:
            step, facts = _facts(reader, self.directory, step)
            _check_alike(self.directory, facts.pop("arrays"), arrays)
            restored = _arrays(reader, step, arrays)
        states = _positions(self.directory, step)
        for name in positions.keys() - states.keys():
            raise ValueError(
                f"checkpoint {self.directory} holds no position of {name!r}, only {sorted(states)}."
            )
        for name, iterator in positions.items():
            iterator.set_state(states[name])
        for name in [name for name, part in run.items() if isinstance(part, nnx.Pytree)]:
            training_state.replace(run[name], restored[name])
        self._saved = step
        return Restored(step, {n: restored[n] if _is_tree(part) else part for n, part in run.items()}, facts)

    def wait(self) -> None:
        """Return when everything is written; raise what went wrong with it."""
        if self._writer is not None:
            self._writer.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go of the threads that write."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _open(self) -> Any:
        """Open orbax's manager for writing; what a killed process has left half-written is removed."""
        if self._writer is None:
            import orbax.checkpoint as ocp
            from orbax.checkpoint import checkpoint_managers as policies

            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.LatestN(self._keep), cleanup_tmp_directories=True
            )
            self._writer = ocp.CheckpointManager(
                self.directory, options=options, handler_registry=_handlers()
            )
        return self._writer


def _positions(directory: str, step: int) -> dict[str, Any]:
    """Return the states of this process's iterators, by the names of their parts.

    They are this process's own if there are as many as had saved them. If not, those that saved must all have been
    at the same position, as the pipelines of `jaxrnn.pipeline` are: they count batches of the whole run.

    Raises:
        ValueError: the positions of another number of processes differ.
    """
    from etils import epath

    files = sorted((epath.Path(directory) / str(step) / POSITIONS).glob("process_*.json"))
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


# What a run is made of


def _is_position(part: Any) -> bool:
    return hasattr(part, "get_state") and hasattr(part, "set_state") and not isinstance(part, nnx.Pytree)


def _is_tree(part: Any) -> bool:
    return not isinstance(part, nnx.Pytree) and not _is_position(part)


def _sorted_out(run: Mapping[str, Any]) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """Return a run's arrays and its positions in the data, each by the name of its part."""
    for name in run:
        if "." in name:
            raise ValueError(f"run: {name!r} should be a name without dots.")
    positions = {name: part for name, part in run.items() if _is_position(part)}
    arrays = {
        name: training_state.pure(part) if isinstance(part, nnx.Pytree) else part
        for name, part in run.items()
        if name not in positions
    }
    return arrays, positions


def _copied(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what is written in the background; raise now if JSON cannot hold it."""
    return json.loads(json.dumps(facts))


def _check_alike(directory: str, came: Mapping[str, str], arrays: Mapping[str, PyTree]) -> None:
    came = {name: kind for name, kind in came.items() if name.partition(".")[0] in arrays}
    expected = training_state.describe(arrays)
    if came != expected:
        raise ValueError(
            f"checkpoint {directory} is of another run. {training_state.differences(came, expected)} "
            "Build the model, optimizer, carry and validation of that run, or give another directory."
        )


# orbax


def _position_file() -> str:
    return f"process_{jax.process_index()}.json"


def _handlers() -> Any:
    """Say how orbax writes each item; of the positions, every process writes its own."""
    import orbax.checkpoint as ocp

    by_all = ocp.options.MultiprocessingOptions(primary_host=None)
    return ocp.handlers.create_default_handler_registry(
        **{
            ARRAYS: ocp.handlers.PyTreeCheckpointHandler(),
            FACTS: ocp.handlers.JsonCheckpointHandler(),
            POSITIONS: ocp.handlers.JsonCheckpointHandler(_position_file(), multiprocessing_options=by_all),
        }
    )


class _reader:
    """orbax's manager for reading alone, or None where there is no such directory."""

    def __init__(self, directory: str):
        self._directory = directory
        self._manager: Any = None

    def __enter__(self) -> Any:
        import orbax.checkpoint as ocp
        from etils import epath

        if epath.Path(self._directory).exists():
            # Writes nothing, though orbax would call only a manager that warns about it "read_only".
            options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, handler_registry=_handlers()
            )
        return self._manager

    def __exit__(self, *exception: object) -> None:
        if self._manager is not None:
            self._manager.close()


def _facts(reader: Any, directory: str, step: int | None) -> tuple[int, dict[str, Any]]:
    """Return the step that is meant and what was noted at it."""
    import orbax.checkpoint as ocp

    steps = sorted(reader.all_steps()) if reader else []
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        there = f"only of {steps}" if steps else "none at all" if reader else "no such directory"
        raise FileNotFoundError(f"{directory}: expected {wanted}, found {there}. Check the path.")
    step = steps[-1] if step is None else step
    facts: Any = None
    with suppress(KeyError, FileNotFoundError):
        facts = reader.restore(step, args=ocp.args.Composite(**{FACTS: ocp.args.JsonRestore()}))[FACTS]
    form = facts.pop("format", None) if isinstance(facts, dict) else None
    if not isinstance(form, int):
        raise ValueError(f"{directory}: step {step} is not a checkpoint that jaxrnn.train.Checkpoints wrote.")
    if form > FORMAT:
        raise ValueError(
            f"checkpoint {directory} is in format {form}, and this version of jaxrnn reads formats up to {FORMAT}: "
            "upgrade jaxrnn to the version that wrote it."
        )
    return step, facts


def _arrays(reader: Any, step: int, template: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Read arrays onto the devices and shardings of `template`."""
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
    stored = reader.restore(step, args=ocp.args.Composite(**{ARRAYS: restore}))[ARRAYS]
    return training_state.from_store(stored, template)
