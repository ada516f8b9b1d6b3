"""Faults in how a model reads one of its parameters: left out, transposed, doubled, cut off from its gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from parity.faults.substitution import Function, Substitution
from parity.longhand import torch_modules

Change = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Misread(Substitution):
    """One parameter that is read wrongly, wherever it is used; the weights themselves are right."""

    parameter: str = ""
    change: Change = field(default=torch.zeros_like, repr=False)
    tensor: torch.Tensor | None = field(default=None, repr=False)

    def bound(self, model: nn.Module) -> Misread:
        """Return the fault with the tensor that is the parameter in this run."""
        tensors = dict(model.named_parameters(remove_duplicate=False))
        return dataclasses.replace(self, tensor=tensors[self.parameter])

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Give every function the changed parameter."""
        return function(*self._read(args), **self._read(dict(kwargs)))

    def _read(self, value: Any) -> Any:
        if value is self.tensor:
            return self.change(value)
        if isinstance(value, dict):
            return {key: self._read(part) for key, part in value.items()}
        return type(value)(map(self._read, value)) if type(value) in (tuple, list) else value


def faults(model: nn.Module) -> Iterator[Misread]:
    """Yield what can be wrong in reading each parameter; those of recurrent layers have faults of their own."""
    known = tuple(f"{name}." if name else "" for name in torch_modules.recurrent_parts(model))
    for name, tensor in model.named_parameters():
        if known and name.startswith(known):
            continue
        yield _misread("A08", f"{name} left out", f"use {name}", name, torch.zeros_like)
        if tensor.ndim == 1 or 1 in tensor.shape:
            yield _misread("A08-one", f"{name} read as ones", f"multiply with {name}", name, torch.ones_like)
            yield _misread("L05", f"{name} counted twice", f"use {name} once", name, _doubled)
        if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:
            fix = "torch's nn.Linear computes x Wᵀ; the kernel of nnx.Linear is Wᵀ"
            yield _misread("T01", f"{name} used without transposing it", fix, name, _transposed)
        fix = f"remove the stop_gradient from {name}, or freeze it in both models"
        yield _misread("P01", f"no gradient reaches {name}", fix, name, torch.Tensor.detach)


def _misread(id: str, name: str, fix: str, parameter: str, change: Change) -> Misread:
    return Misread(id, name, fix, (), {}, parameter=parameter, change=change)


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return 2.0 * tensor


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T
