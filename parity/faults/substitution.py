"""Faults of functions: another computation in the place of one of torch's, wherever a model calls it.

A model need not be written for it. torch passes every call of its functions, also those that `nn.LayerNorm` and its
like make, through a `TorchFunctionMode`, and there one is exchanged.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


@dataclass(frozen=True)
class Substitution:
    """One mistake in a function.

    functions: what is exchanged, under all names that a model may call it by (`F.softmax`, `torch.softmax`,
    `torch.Tensor.softmax`). instead: what is called in its place, with the same arguments; where the mistake
    looks different in each of the functions, by function. gate: the one that is meant to find it. variant: it is
    one of many of its kind, tried in a diagnosis.
    """

    id: str
    name: str
    fix: str
    functions: tuple[Function, ...] = field(repr=False)
    instead: Function | Mapping[Function, Function] = field(repr=False)
    gate: str = "semantic"
    variant: bool = False

    def bound(self, model: nn.Module) -> Substitution:
        """Return the fault as it is in one run of a model."""
        return self

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a function that the model calls, or of what is called in its place."""
        if function not in self.functions:
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


def functions_called(call: Callable[[], Any]) -> set[Function]:
    """Return the functions of torch that are called on the way."""
    seen: set[Function] = set()

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
