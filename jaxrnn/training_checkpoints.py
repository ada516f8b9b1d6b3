"""Checkpoints of a training run: written beside it, whole or not at all, and read onto the devices there are."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx
from jax.experimental import multihost_utils

from jaxrnn import training_files, training_state
from jaxrnn.training_state import PyTree


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
                if checkpoints.preempted:
                    break

    A run is a dictionary of parts, each of one of three kinds:

    * an ``nnx.Module``, ``nnx.Optimizer`` or ``nnx.Rngs``, random streams and counters included: restored in
      place, as ``truncated_bptt`` trains them in place;
    * a position in the data, anything with ``get_state()`` and ``set_state(state)`` whose state JSON can hold,
      like grain's iterators: set in place, so that the next batch is the one that would have come;
    * a tree of arrays, like a carry: returned.

    Everything is restored bit for bit, and onto the devices and shardings of the run that is given, however the one
    that was saved was sharded: build the run for the mesh at hand, then resume. On as many devices, training goes
    on bit for bit as if it had never been interrupted; on others to rounding, as sums are taken in another order.

    Saving returns as soon as the arrays are copied out of the devices' reach; they are written in the background,
    and the end of ``with`` waits for them. A checkpoint appears as a whole, under its step: a process killed while
    it saves leaves the one before.

    In a run of several processes, all call `save` and `restore` at the same steps, with a directory that all see.
    Where `save` is called after every step, a SIGTERM at one of the processes (of `jax.distributed`), which is how
    machines are taken back, saves the run at a step that all of them reach, due or not, and sets `preempted`.

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
        self._entered = False
        self._writer: Any = None
        self._saved: int | None = None
        self.preempted = False

    def __enter__(self) -> "Checkpoints":
        self._entered = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered = False
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints there are, the latest last."""
        self.wait()
        with training_files.reader(self.directory) as reader:
            return tuple(sorted(reader.all_steps())) if reader else ()

    def save(
        self,
        step: int,
        run: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
    ) -> bool:
        """Save the run after `step` steps if it is due, by `every`, `force` or preemption; return whether it was.

        `facts` is what JSON can hold, and comes back as it is. An earlier save that failed raises here.

        Raises:
            RuntimeError: outside of ``with``, at whose end the last one is waited for.
            ValueError: the directory holds this or a later step, of a run that was not resumed; no array in `run`.
            TypeError: a part of the run, or a fact, is of no kind that can be saved.
        """
        if not self._entered:
            raise RuntimeError(
                "save: write `with Checkpoints(...) as checkpoints:` around the loop. Its end waits for the last "
                "checkpoint, which a program that just ends would lose."
            )
        self.preempted = self.preempted or _preempted(step)
        if step == self._saved or not (force or self.preempted or step % self._every == 0):
            return False
        arrays, positions = _sorted_out(run)
        if not arrays:
            raise ValueError("run: no part of it holds an array, so there is nothing to save.")
        if self._writer is None:
            self._writer = training_files.open_writer(self.directory, self._keep)
        latest = self._writer.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"{self.directory} holds step {latest} already, and step {step} was to be saved: resume from it, "
                "or give a new run a directory of its own."
            )
        states = {name: iterator.get_state() for name, iterator in positions.items()}
        training_files.write(self._writer, step, arrays, states, facts or {})
        self._saved = step
        if self.preempted:
            self.wait()
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
                version cannot read. The run is as it was.
        """
        arrays, positions = _sorted_out(run)
        step = self._there(step)
        with training_files.reader(self.directory) as reader:
            described, facts = training_files.read_facts(reader, self.directory, step)
            self._check_alike(described, arrays)
            states = training_files.read_positions(self.directory, step)
            for name in positions.keys() - states.keys():
                raise ValueError(
                    f"checkpoint {self.directory} holds no position of {name!r}, only {sorted(states)}."
                )
            restored = training_files.read_arrays(reader, step, arrays)
        for name, part in run.items():
            if isinstance(part, nnx.Pytree):
                training_state.replace(part, restored[name])
            elif name in positions:
                part.set_state(states[name])
        self._saved = step
        return Restored(step, {n: restored[n] if _is_tree(part) else part for n, part in run.items()}, facts)

    def wait(self) -> None:
        """Return when everything is written; raise what went wrong with it."""
        if self._writer is not None:
            self._writer.wait_until_finished()

    def _there(self, step: int | None) -> int:
        """Return the step that is meant, if there is one."""
        steps = self.steps
        if not steps or step not in (None, *steps):
            wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            found = f"only those of {list(steps)}" if steps else "none"
            raise FileNotFoundError(f"{self.directory}: expected {wanted}, found {found}. Check the path.")
        return steps[-1] if step is None else step

    def _check_alike(self, came: Mapping[str, str], arrays: Mapping[str, PyTree]) -> None:
        came = {name: kind for name, kind in came.items() if name.partition(".")[0] in arrays}
        expected = training_state.describe(arrays)
        if came != expected:
            raise ValueError(
                f"checkpoint {self.directory} is of another run. {training_state.differences(came, expected)} "
                "Build the model, optimizer, carry and validation of that run, or give another directory."
            )


def _preempted(step: int) -> bool:
    try:
        return multihost_utils.reached_preemption_sync_point(step)
    except RuntimeError:  # a process by itself
        return False


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
