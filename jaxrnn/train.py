"""Training: ``fit`` runs to the end, ``Epochs`` hands out epoch by epoch; both resume bit for bit."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxrnn import training_state
from jaxrnn.training_checkpoints import Checkpoints, Position, Restored
from jaxrnn.training_state import PyTree

__all__ = ["Checkpoints", "Epoch", "Epochs", "History", "Restored", "fit"]


class Epoch(NamedTuple):
    """What one epoch gave."""

    epoch: int  # counted from 0
    loss: float  # mean of the batches' losses, each batch with the same weight
    validation: float | None  # None without `validate`
    seconds: (
        float  # training and validation, without the checkpoint after it; since a resume, if there was one
    )


class History(NamedTuple):
    """What a run gave, one entry per epoch, epochs before a resume included."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]  # empty without `validate`
    best_epoch: int | None  # the epoch the parameters come from; None without `validate`: the last one
    stopped_early: bool  # patience ran out before the last epoch
    seconds: tuple[float, ...]


def fit(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    loss: Callable[..., Any],
    batches: Callable[[int], Iterable[Any]],
    *,
    epochs: int,
    carry: PyTree = None,
    validate: Callable[[Any], Any] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
    description: str = "training",
) -> History:
    """Train ``model`` in place and return the history; ``Epochs`` describes the arguments.

    ``progress`` shows a bar with ``description``, the losses and the time left, on a terminal or in a notebook;
    elsewhere nothing is printed. Example::

        optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)
        data = forecast_dataset(closes, 20, 0.2)
        history = fit(
            model, optimizer,
            lambda model, batch: jnp.mean((model(batch[0])[0] - batch[1]) ** 2),
            lambda epoch: batches(data.train, 64, shuffle_seed=0, epoch=epoch),
            epochs=100,
        )
    """
    run = Epochs(
        model,
        optimizer,
        loss,
        batches,
        epochs=epochs,
        carry=carry,
        validate=validate,
        patience=patience,
        min_delta=min_delta,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    with _bar(progress) as bar:
        done = len(run.history.train_loss)
        task = bar.add_task(description, total=max(epochs, done), completed=done, losses="")
        for epoch in run:
            losses = f"loss {epoch.loss:.4g}"
            if epoch.validation is not None:
                losses += f"  validation {epoch.validation:.4g}"
            bar.update(task, advance=1, losses=losses)
    return run.history


class Epochs:
    """A training run, to be iterated: every turn trains one epoch and gives an ``Epoch``.

    Two runs go side by side with ``for a, b in zip(Epochs(...), Epochs(...), strict=True)``.

    Args:
        model: trained in place, in the mode it is in: ``model.train()`` first if it was in ``eval()``.
        optimizer: an ``nnx.Optimizer`` of this model; what is differentiated is its ``wrt``.
        loss: ``loss(model, batch) -> scalar``, or with a carry
            ``loss(model, batch, carry) -> (scalar, carry)``. It is compiled once per shape of a batch.
        batches: ``batches(epoch)`` gives an epoch's batches, the same ones whenever it is asked.
        epochs: how many in all, those before a resume included.
        carry: initial state handed from each batch to the next, also from an epoch's last batch to the
            next epoch's first. No gradient flows through it: a hidden state as carry is truncated
            backpropagation through time (Williams & Peng, 1990), one batch long. A loss that wants to
            start afresh resets it itself. The latest one is the attribute ``carry``.
        validate: ``validate(model) -> float``, lower is better, called after each epoch with the model in
            ``eval()``. The parameters of the best epoch (and all other state but random streams) are put
            back before the last ``Epoch`` is handed out; a loop broken off earlier keeps the latest.
        patience: stop once this many epochs in a row were not better than the best before them.
        min_delta: by how much an epoch must lower the best validation to count as better.
        checkpoint: a directory of `Checkpoints`, written after every epoch. If it holds one, model, optimizer,
            carry and history are restored from it at construction, and the run goes on bit for bit as if it
            had never been interrupted.
        checkpoint_every: write one every so many steps too, beside the training, for epochs that take long. A
            run that resumes within an epoch leaves out the batches that it has had: at once where the iterator
            of ``batches(epoch)`` can say where it is and go there (``get_state``, ``set_state``: grain's can),
            else by reading them.

    Raises:
        FloatingPointError: a loss is NaN or infinite. The model has then taken that step; the checkpoint
            stays that of the epoch before.
        ValueError: the checkpoint is of a different model, optimizer or carry; an epoch has no batches.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: nnx.Optimizer,
        loss: Callable[..., Any],
        batches: Callable[[int], Iterable[Any]],
        *,
        epochs: int,
        carry: PyTree = None,
        validate: Callable[[Any], Any] | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = None,
    ):
        _check(optimizer, batches, epochs, validate, patience, min_delta, checkpoint, checkpoint_every)
        self.model = model
        self.optimizer = optimizer
        self.carry = _strong(carry)
        self._step = _compile(loss, carries=carry is not None)
        self._batches = batches
        self._epochs = epochs
        self._validate = validate
        self._patience = patience
        self._min_delta = min_delta
        self._checkpoints = None if checkpoint is None else Checkpoints(checkpoint)
        self._every = checkpoint_every
        self._records: list[Epoch] = []
        self._under_way = _UnderWay()
        self._position = Position()  # of a run that resumes within an epoch
        self._steps = 0  # of the optimizer, in all epochs
        self._best_epoch: int | None = None
        self._best_validation = math.inf
        self._best = None if validate is None else training_state.pure(model, training_state.NOT_RANDOM)
        if self._checkpoints is not None:
            self._resume(self._checkpoints)

    @property
    def history(self) -> History:
        """What the run gave so far."""
        return History(
            train_loss=tuple(record.loss for record in self._records),
            validation_loss=tuple(r.validation for r in self._records if r.validation is not None),
            best_epoch=self._best_epoch,
            stopped_early=self._out_of_patience and len(self._records) < self._epochs,
            seconds=tuple(record.seconds for record in self._records),
        )

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left to run."""
        return len(self._records) >= self._epochs or self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        if self._patience is None or self._best_epoch is None:
            return False
        return len(self._records) - 1 - self._best_epoch >= self._patience

    def __iter__(self) -> Iterator[Epoch]:
        with self._checkpoints or nullcontext():
            while not self.finished:
                epoch = self._run()
                if self.finished:
                    self._put_best_back()
                yield epoch

    def _run(self) -> Epoch:
        epoch = len(self._records)
        start = time.perf_counter()
        loss = self._train(epoch)
        validation = None if self._validate is None else self._validated(self._validate, epoch)
        if validation is not None and validation < self._best_validation - self._min_delta:
            self._best_epoch, self._best_validation = epoch, validation
            self._best = training_state.pure(self.model, training_state.NOT_RANDOM)
        record = Epoch(epoch, loss, validation, time.perf_counter() - start)
        self._records.append(record)
        self._under_way = _UnderWay()
        self._save(Position())
        if self._checkpoints is not None:
            self._checkpoints.wait()  # An epoch handed out is on the disk.
        return record

    def _train(self, epoch: int) -> float:
        """Run what is left of the epoch's steps; return the mean of the losses of all of them."""
        batches = self._rest_of(epoch)
        pending = None  # A loss is looked at one step late, so that the device need not wait for Python.
        step: Callable[..., Any] = partial(self._step, self.model, self.optimizer)
        for number, batch in enumerate(batches):
            if (
                number == 1
            ):  # The model's structure stays from here on: Flax need not go through it every time.
                step = nnx.cached_partial(self._step, self.model, self.optimizer)
            loss, self.carry = step(batch, self.carry)
            self._look_at(pending, epoch)
            pending = loss
            self._steps += 1
            if self._every is not None and self._steps % self._every == 0:
                self._look_at(pending, epoch)
                pending = None
                self._save(Position.of(batches))
        self._look_at(pending, epoch)
        total, steps = self._under_way
        if steps == 0:
            raise ValueError(f"epoch {epoch}: batches({epoch}) gave no batch; expected at least one.")
        return total / steps

    def _rest_of(self, epoch: int) -> Iterator[Any]:
        """Return the epoch's batches without those that it has had before it was resumed."""
        batches = iter(self._batches(epoch))
        had, position, self._position = self._under_way.steps, self._position.state, Position()
        if had > 0 and position is not None and hasattr(batches, "set_state"):
            batches.set_state(position)
        elif had > 0:
            next(islice(batches, had, had), None)
        return batches

    def _look_at(self, loss: jax.Array | None, epoch: int) -> None:
        """Add a step's loss to those of the epoch under way."""
        if loss is not None:
            total, steps = self._under_way
            value = self._finite(loss, f"epoch {epoch}, step {steps}: the loss")
            self._under_way = _UnderWay(total + value, steps + 1)

    def _validated(self, validate: Callable[[Any], Any], epoch: int) -> float:
        with _evaluating(self.model):
            return self._finite(validate(self.model), f"epoch {epoch}: validate(model)")

    def _finite(self, value: Any, what: str) -> float:
        number = float(value)
        if math.isfinite(number):
            return number
        remedy = "lower the learning rate, or clip the gradient's norm"
        if self._checkpoints is not None and self._checkpoints.steps:
            remedy += f"; {self._checkpoints.directory} holds the state at its last checkpoint"
        raise FloatingPointError(f"{what} is {number}: {remedy}.")

    def _put_best_back(self) -> None:
        if self._best_epoch is not None:
            training_state.replace(self.model, self._best, training_state.NOT_RANDOM)

    # Checkpoints

    def _parts(self, position: Position) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "carry": self.carry, "best": self._best}
        return {**parts, "batches": position}

    def _save(self, position: Position) -> None:
        if self._checkpoints is not None:
            facts = {
                "steps": self._steps,
                "under_way": self._under_way,
                "records": self._records,
                "best_epoch": self._best_epoch,
            }
            # After an epoch's last step there may be two, with and without its record: that counts as well.
            self._checkpoints.save(self._steps + len(self._records), self._parts(position), facts)

    def _resume(self, checkpoints: Checkpoints) -> None:
        _, parts, facts = checkpoints.resume(self._parts(self._position))
        if not facts:
            return
        self._steps = facts["steps"]
        self.carry, self._best = parts["carry"], parts["best"]
        self._records = [Epoch(*record) for record in facts["records"]]
        self._under_way = _UnderWay(*facts["under_way"])
        if facts["best_epoch"] is not None:
            self._best_epoch = facts["best_epoch"]
            self._best_validation = facts["records"][self._best_epoch][2]
        if self.finished:
            self._put_best_back()


class _UnderWay(NamedTuple):
    """What the epoch that is being trained has given so far."""

    loss: float = 0.0  # the sum of its steps' losses
    steps: int = 0


def _compile(loss: Callable[..., Any], *, carries: bool) -> Callable[..., Any]:
    """One compiled optimizer step ``(model, optimizer, batch, carry) -> (loss, carry)``."""

    def objective(model: nnx.Module, batch: PyTree, carry: PyTree) -> tuple[jax.Array, PyTree]:
        if not carries:
            return loss(model, batch), None
        result = loss(model, batch, carry)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"loss: with a carry, expected (scalar, new carry), got {type(result).__name__}.")
        value, new_carry = result[0], _strong(result[1])
        came, expected = training_state.describe(new_carry), training_state.describe(carry)
        if came != expected:
            raise ValueError(
                f"loss: the new carry is not like the one given. {training_state.differences(came, expected)}"
            )
        return value, new_carry

    @nnx.jit
    def step(
        model: nnx.Module, optimizer: nnx.Optimizer, batch: PyTree, carry: PyTree
    ) -> tuple[jax.Array, PyTree]:
        differentiated = nnx.DiffState(0, optimizer.wrt)
        value_and_grad = nnx.value_and_grad(objective, argnums=differentiated, has_aux=True)
        (value, carry), grads = value_and_grad(model, batch, carry)
        optimizer.update(model, grads)
        return value, carry

    return step


def _strong(carry: PyTree) -> PyTree:
    """Make arrays of all leaves; a weakly typed one, as from a Python number, would compile the step twice."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), carry)


@contextmanager
def _evaluating(model: nnx.Module) -> Iterator[None]:
    """Put the model into ``eval()``, and every module's own mode back afterwards."""
    modes = [
        (module, name, getattr(module, name))
        for _, module in nnx.iter_modules(model)
        for name in ("deterministic", "use_running_average")
        if hasattr(module, name)
    ]
    model.eval()
    try:
        yield
    finally:
        for module, name, mode in modes:
            setattr(module, name, mode)


def _bar(progress: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not progress or not (console.is_terminal or console.is_jupyter),
    )


def _check(
    optimizer: Any,
    batches: Any,
    epochs: int,
    validate: Any,
    patience: int | None,
    min_delta: float,
    checkpoint: Any,
    checkpoint_every: int | None,
) -> None:
    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(
            f"optimizer: expected an nnx.Optimizer, got {type(optimizer).__name__}; pass "
            "nnx.Optimizer(model, jaxrnn.optim.adam(1e-3), wrt=nnx.Param)."
        )
    if not callable(batches):
        raise TypeError(
            f"batches: expected a function of the epoch, got {type(batches).__name__}; "
            "pass for example lambda epoch: batches."
        )
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected at least 1.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience}: expected at least 1 epoch, or None to run them all.")
    if min_delta < 0:
        raise ValueError(f"min_delta={min_delta}: expected at least 0.")
    if validate is None and (patience is not None or min_delta):
        raise ValueError("patience and min_delta watch the validation: pass validate as well.")
    if checkpoint_every is not None and (checkpoint_every < 1 or checkpoint is None):
        raise ValueError(
            f"checkpoint_every={checkpoint_every}: expected at least 1 step, and a directory as checkpoint."
        )
