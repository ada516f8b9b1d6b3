"""Mistakes in embeddings, in slices and indices, and in what is joined: the plumbing of encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from parity.faults.functions.called import CONCATENATE, EMBEDDING, INDEX, Function
from parity.faults.substitution import Substitution

Tensor = torch.Tensor
_INPUTS, _LABELS = slice(None, -1), slice(1, None)


def _indexed(change: Callable[[Any, int], Any]) -> Function:
    """Exchange what a tensor is indexed with: `change(index, size of the axis)`."""

    def getitem(input: Tensor, index: Any) -> Tensor:
        if not isinstance(index, tuple):
            return input[change(index, input.shape[0] if input.ndim else 0)]
        if any(part is None or part is Ellipsis for part in index) or len(index) > input.ndim:
            return input[index]
        return input[tuple(change(part, input.shape[axis]) for axis, part in enumerate(index))]

    return getitem


def _other_slice(index: Any, size: int) -> Any:
    if not isinstance(index, slice):
        return index
    return {(None, -1, None): _LABELS, (1, None, None): _INPUTS}.get(
        (index.start, index.stop, index.step), index
    )


def _renumbered(numbers: dict[int, int], smallest: int = 2) -> Callable[[Any, int], Any]:
    """Exchange indices; in a shorter axis two of them are one, and the mistake is another's."""

    def change(index: Any, size: int) -> Any:
        wanted = isinstance(index, int) and not isinstance(index, bool) and size >= smallest
        return numbers.get(index, index) if wanted else index

    return change


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
_STATE = "h_n[-1] is the last layer's reverse direction, h_n[-2] its forward one"
_JOIN = "join the same parts in the same order as the reference"
_PADDING = "the row padding_idx is used as it is, and receives no gradient from the lookup"

FAULTS: tuple[Substitution, ...] = (
    Substitution(
        "A11",
        "teacher forcing off by one: [:, :-1] and [:, 1:] exchanged",
        _SHIFT,
        INDEX,
        _indexed(_other_slice),
    ),
    Substitution("A11-late", "tokens rolled one step later", _SHIFT, EMBEDDING, _shifted(1)),
    Substitution("A11-early", "tokens rolled one step earlier", _SHIFT, EMBEDDING, _shifted(-1)),
    Substitution(
        "A12",
        "states [-1] and [-2] exchanged (directions)",
        _STATE,
        INDEX,
        _indexed(_renumbered({-1: -2, -2: -1})),
    ),
    Substitution("A12-forward", "index -1 read as -2", _STATE, INDEX, _indexed(_renumbered({-1: -2}))),
    Substitution("A12-reverse", "index -2 read as -1", _STATE, INDEX, _indexed(_renumbered({-2: -1}))),
    Substitution(
        "A12-first",
        "index -1 read as 0",
        _STATE,
        INDEX,
        _indexed(_renumbered({-1: 0}, smallest=3)),
        variant=True,
    ),
    Substitution(
        "A12-last",
        "index 0 read as -1",
        _STATE,
        INDEX,
        _indexed(_renumbered({0: -1}, smallest=3)),
        variant=True,
    ),
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
