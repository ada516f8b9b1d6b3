"""Faults of functions: another computation in the place of one of torch's, wherever a model calls it.

A model need not be written for it. torch passes every call of its functions, also those that `nn.LayerNorm` and its
like make, through a `TorchFunctionMode`, and there one is exchanged.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from parity.longhand import surface

Function = Callable[..., Any]

_STEPS = frozenset((torch.gru_cell, torch.lstm_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell))


@dataclass(frozen=True)
class Substitution:
    """One mistake in a function.

    functions: what is exchanged, under all names that a model may call it by (`F.softmax`, `torch.softmax`,
    `torch.Tensor.softmax`). instead: what is called in its place, with the same arguments; where the mistake
    looks different in each of the functions, by function. gate: the one that is meant to find it. variant: it is
    one of many of its kind, tried in a diagnosis. within_layers: it is made in the equations of recurrent layers
    too; otherwise these are left to the faults that speak of them.
    """

    id: str
    name: str
    fix: str
    functions: tuple[Function, ...] = field(repr=False)
    instead: Function | Mapping[Function, Function] = field(repr=False)
    gate: str = "semantic"
    variant: bool = False
    within_layers: bool = False

    def possible(self, model: nn.Module) -> bool:
        """Tell whether a model that calls one of the functions can have this fault."""
        return True

    def bound(self, model: nn.Module) -> Substitution:
        """Return the fault as it is in one run of a model."""
        return self

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a function that the model calls, or of what is called in its place."""
        if function not in self.functions or not (self.within_layers or is_own_call(function)):
            return function(*args, **kwargs)
        instead = self.instead[function] if isinstance(self.instead, Mapping) else self.instead
        return instead(*args, **kwargs)

    def plant(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model that makes the mistake; its weights stay."""
        model = copy.deepcopy(model)
        kind: Any = type(model)
        substitution: Any = self
        model.substitution = substitution
        model.__class__ = _substituting(kind)
        return model


def is_own_call(function: Function) -> bool:
    """Tell whether the model being computed calls a function itself, rather than a recurrent layer of it.

    A whole step of a cell, which torch has as one function, is the model's affair.
    """
    if function in _STEPS:
        return True
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and surface.recurrent_name(module) is not None:
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return True


def functions_called(call: Callable[[], Any]) -> set[Function]:
    """Return the functions of torch that are called on the way, those in the equations of layers left out."""
    seen: set[Function] = set()

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if is_own_call(func):
                seen.add(func)
            return func(*args, **(kwargs or {}))

    with Recorder():
        call()
    return seen


class exchanging(TorchFunctionMode):
    """A context in which a function of torch is exchanged."""

    def __init__(self, substitution: Substitution) -> None:
        self.substitution = substitution

    def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Inside, the mode is off: what stands in for a function may call it.
        return self.substitution.call(func, args, kwargs or {})


@functools.cache
def _substituting(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass that computes under its substitution; cached, so that copies are of the same class."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with exchanging(self.substitution.bound(self)):
            return kind.forward(self, *args, **kwargs)

    return type(f"Substituting{kind.__name__}", (kind,), {"forward": forward, "__module__": __name__})
