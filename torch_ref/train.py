"""Training in plain PyTorch, epoch by epoch, with the names and the order of `jaxrnn.train`.

Two runs, one of them in JAX, go in lock-step with ``for a, b in zip(ours, theirs, strict=True)``.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Epoch(NamedTuple):
    """What one epoch gave."""

    epoch: int  # counted from 0
    loss: float  # mean of the batches' losses, each batch with the same weight
    validation: float | None  # None without `validate`
    seconds: float  # training and validation


class History(NamedTuple):
    """What a run gave, one entry per epoch."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]  # empty without `validate`
    best_epoch: int | None  # the epoch the parameters come from; None without `validate`: the last one
    seconds: tuple[float, ...]


class Epochs:
    """A training run, to be iterated: every turn trains one epoch and gives an ``Epoch``.

    Args:
        model: trained in place, in the mode it is in.
        optimizer: a `torch.optim` optimizer of its parameters.
        loss: ``loss(model, batch) -> scalar``, or with a carry
            ``loss(model, batch, carry) -> (scalar, carry)``.
        batches: ``batches(epoch)`` gives an epoch's batches.
        epochs: how many.
        carry: initial state handed from each batch to the next, also from an epoch's last batch to the next
            epoch's first; a tensor or a tuple of tensors. It is detached, so that no gradient flows through
            it. The latest one is the attribute ``carry``.
        validate: ``validate(model) -> float``, lower is better, called after each epoch with the model in
            ``eval()`` and without gradients. The parameters of the best epoch are put back before the last
            ``Epoch`` is handed out.

    Raises:
        FloatingPointError: a loss is NaN or infinite.
        ValueError: ``epochs`` is less than 1, or an epoch has no batches.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Any],
        batches: Callable[[int], Iterable[Any]],
        *,
        epochs: int,
        carry: Any = None,
        validate: Callable[[Any], float] | None = None,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: expected at least 1.")
        self.model = model
        self.optimizer = optimizer
        self.carry = carry
        self._loss = loss
        self._batches = batches
        self._epochs = epochs
        self._validate = validate
        self._records: list[Epoch] = []
        self._best_epoch: int | None = None
        self._best_validation = math.inf
        self._best: dict[str, Any] = {}

    @property
    def history(self) -> History:
        """What the run gave so far."""
        return History(
            train_loss=tuple(record.loss for record in self._records),
            validation_loss=tuple(r.validation for r in self._records if r.validation is not None),
            best_epoch=self._best_epoch,
            seconds=tuple(record.seconds for record in self._records),
        )

    def __iter__(self) -> Iterator[Epoch]:
        while len(self._records) < self._epochs:
            record = self._run(len(self._records))
            self._records.append(record)
            if len(self._records) == self._epochs and self._best_epoch is not None:
                self.model.load_state_dict(self._best)
            yield record

    def _run(self, epoch: int) -> Epoch:
        start = time.perf_counter()
        losses = [_finite(self._step(batch), epoch) for batch in self._batches(epoch)]
        if not losses:
            raise ValueError(f"epoch {epoch}: batches({epoch}) gave no batch; expected at least one.")
        validation = None
        if self._validate is not None:
            with _evaluating(self.model):
                validation = _finite(self._validate(self.model), epoch)
            if validation < self._best_validation:
                self._best_epoch, self._best_validation = epoch, validation
                self._best = copy.deepcopy(self.model.state_dict())
        return Epoch(epoch, sum(losses) / len(losses), validation, time.perf_counter() - start)

    def _step(self, batch: Any) -> Tensor:
        """Take one step of the optimizer; return the loss before it."""
        self.optimizer.zero_grad()
        if self.carry is None:
            value = self._loss(self.model, batch)
        else:
            value, carry = self._loss(self.model, batch, self.carry)
            self.carry = _detached(carry)
        value.backward()
        self.optimizer.step()
        return value.detach()


def _detached(carry: Any) -> Any:
    return carry.detach() if isinstance(carry, Tensor) else tuple(_detached(part) for part in carry)


def _finite(value: Any, epoch: int) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise FloatingPointError(
            f"epoch {epoch}: a loss is {number}: lower the learning rate, or clip the gradient's norm."
        )
    return number


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into ``eval()`` without gradients, and every module's own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
