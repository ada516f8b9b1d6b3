"""Mistakes in a matrix that is both the embedding and what stands before the softmax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from parity.faults.functions.called import EMBEDDING, LINEAR
from parity.faults.substitution import Function, Substitution

Tables = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Tying(Substitution):
    """A function reads another matrix in the place of its weight: `change(weight, the model's embeddings)`."""

    change: Callable[[torch.Tensor, Tables], torch.Tensor] = field(default=lambda w, _: w, repr=False)
    tables: Tables = field(default=(), repr=False)

    def bound(self, model: nn.Module) -> Tying:
        """Return the fault with the embeddings of this run."""
        tables = tuple(part.weight for part in model.modules() if isinstance(part, nn.Embedding))
        return dataclasses.replace(self, tables=tables)

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Exchange the weight, the second argument of embeddings and linear maps alike."""
        if function in self.functions and len(args) > 1:
            args = (args[0], self.change(args[1], self.tables), *args[2:])
        return function(*args, **kwargs)


def _cut(weight: torch.Tensor, tables: Tables) -> torch.Tensor:
    return weight.detach() if any(weight is table for table in tables) else weight


def _shared(weight: torch.Tensor, tables: Tables) -> torch.Tensor:
    same = [table for table in tables if table.shape == weight.shape]
    return same[0] if same and not any(weight is table for table in tables) else weight


_TIED = "a tied embedding gathers two gradients, of the lookup and of the softmax: use one parameter in both places"

FAULTS: tuple[Substitution, ...] = (
    Tying("S21", "tied softmax passes no gradient to the embedding", _TIED, LINEAR, {}, change=_cut),
    Tying("S21-lookup", "lookup passes no gradient to the embedding", _TIED, EMBEDDING, {}, change=_cut),
    Tying(
        "S21-shared",
        "softmax reads the embedding in the place of a matrix of its own",
        "the reference does not tie the two: give the softmax its own parameter",
        LINEAR,
        {},
        change=_shared,
    ),
)
