"""Faults at one place of a model's code: a function exchanged in one line, and a state taken one step too early."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from parity.faults.functions.called import GRU_CELL, LSTM_CELL, RNN_CELLS
from parity.faults.substitution import Function, Substitution

_CELLS = frozenset((*GRU_CELL, *LSTM_CELL, *RNN_CELLS))
_NOT_A_MODEL = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
_SUBJECTS = os.path.join(_NOT_A_MODEL[1], "subjects") + os.sep


class Site(NamedTuple):
    """A line of a model."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


def site() -> Site | None:
    """Return the line of the model that is being computed; None where no code of a model is running."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_SUBJECTS) or not name.startswith(_NOT_A_MODEL):
            return Site(name, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


@dataclass(frozen=True)
class Confined(Substitution):
    """A mistake, `of`, made in one line only."""

    of: Substitution | None = None
    at: Site | None = None

    def bound(self, model: nn.Module) -> Confined:
        """Return the fault with the mistake as it is in one run."""
        assert self.of is not None
        return dataclasses.replace(self, of=self.of.bound(model))

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Exchange the function if it is called in that line."""
        if self.of is not None and function in self.functions and site() == self.at:
            return self.of.call(function, args, kwargs)
        return function(*args, **kwargs)


@dataclass(frozen=True)
class StateBefore(Substitution):
    """A line that uses the state from before a cell's step where the model uses the one from after it."""

    at: Site | None = None

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Hand the line the older state; remember, at each step of a cell, which that is."""
        if function in _CELLS:
            return _remembering(function, args, kwargs)
        if site() == self.at:
            args = tuple(getattr(argument, "before", argument) for argument in args)
        return function(*args, **kwargs)


def faults(call: Callable[[], Any], substitutions: Iterable[Substitution]) -> list[Substitution]:
    """Return the faults that a model can have in one of its lines only; `call` runs the model."""
    called, stateful = _called(call)
    found: list[Substitution] = [
        StateBefore(
            "A09",
            f"state from before the step used in {at} (Bahdanau's h_(t-1), Luong's h_t)",
            "use the state that the reference uses there: before or after the cell's step",
            tuple(_CELLS),
            _CELLS.__class__,
            at=at,
        )
        for at in stateful
    ]
    for substitution in substitutions:
        places = dict.fromkeys(at for function, at in called if function in substitution.functions)
        if len(places) > 1:
            found += [_confined(substitution, at) for at in places]
    return found


def _confined(fault: Substitution, at: Site) -> Confined:
    words = f"{fault.name}, in {at} only"
    return Confined(
        fault.id, words, fault.fix, fault.functions, {}, fault.gate, fault.variant, of=fault, at=at
    )


def _called(call: Callable[[], Any]) -> tuple[list[tuple[Function, Site]], list[Site]]:
    """Return which functions are called in which lines, and the lines that use the state after a step."""
    called: dict[tuple[Function, Site], None] = {}
    stateful: dict[Site, None] = {}

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            at = site()
            if func in _CELLS:
                return _remembering(func, args, kwargs or {})
            if at is not None:
                called[func, at] = None
                if any(hasattr(argument, "before") for argument in args):
                    stateful[at] = None
            return func(*args, **(kwargs or {}))

    with Recorder():
        call()
    return list(called), list(stateful)


def _remembering(cell: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a cell; its new state knows the old one."""
    before, after = args[1], cell(*args, **kwargs)
    if isinstance(after, torch.Tensor):
        after.before = before  # type: ignore[attr-defined]
    else:
        for new, old in zip(after, before, strict=True):
            new.before = old
    return after
