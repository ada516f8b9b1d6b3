"""Mistakes in embeddings and in what is joined: the plumbing of encoders and decoders."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from parity.faults.functions.called import CONCATENATE, EMBEDDING, Function
from parity.faults.substitution import Substitution

Tensor = torch.Tensor


def _shifted(by: int) -> Function:
    def embedding(input: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
        return F.embedding(input.roll(by, -1), weight, *args, **options)

    return embedding


def _learned_padding(
    input: Tensor, weight: Tensor, padding_idx: Any = None, *args: Any, **options: Any
) -> Tensor:
    return F.embedding(input, weight, None, *args, **options)


def _zero_padding(
    input: Tensor, weight: Tensor, padding_idx: Any = None, *args: Any, **options: Any
) -> Tensor:
    found = F.embedding(input, weight, padding_idx, *args, **options)
    return found if padding_idx is None else found * (input != padding_idx)[..., None]


def _row_before(input: Tensor, weight: Tensor, *args: Any, **options: Any) -> Tensor:
    return F.embedding((input - 1) % len(weight), weight, *args, **options)


def _without(number: int) -> Function:
    def concatenate(tensors: Any, dim: int = 0, **options: Any) -> Tensor:
        parts = list(tensors)
        if number < len(parts):
            parts[number] = torch.zeros_like(parts[number])
        return torch.cat(parts, dim)

    return concatenate


def _backwards(tensors: Any, dim: int = 0, **options: Any) -> Tensor:
    return torch.cat(list(tensors)[::-1], dim)


_SHIFT = "feed target[:, :-1], predict target[:, 1:]"
_JOIN = "join the same parts in the same order as the reference"
_PADDING = "the row padding_idx is used as it is, and receives no gradient from the lookup"

FAULTS: tuple[Substitution, ...] = (
    Substitution("A11-late", "tokens rolled one step later", _SHIFT, EMBEDDING, _shifted(1)),
    Substitution("A11-early", "tokens rolled one step earlier", _SHIFT, EMBEDDING, _shifted(-1)),
    *(
        Substitution(
            f"A10-{number}" if number != 1 else "A10",
            f"part {number} of what is joined is zero (input feeding left out)",
            _JOIN,
            CONCATENATE,
            _without(number),
            variant=number != 1,
        )
        for number in range(3)
    ),
    Substitution(
        "A10-order", "parts joined in the opposite order", _JOIN, CONCATENATE, _backwards, variant=True
    ),
    Substitution(
        "S19", "padding row of the embedding receives a gradient", _PADDING, EMBEDDING, _learned_padding
    ),
    Substitution(
        "S19-first",
        "tokens counted from one: the row before is read",
        "token k is row k of the embedding, counted from zero",
        EMBEDDING,
        _row_before,
    ),
    Substitution("S19-zero", "padding row of the embedding read as zero", _PADDING, EMBEDDING, _zero_padding),
)
