"""Mistakes in the search for a decoder's best sequence: their lengths, their ends, what they attend to."""

from __future__ import annotations

from typing import Any

import torch

from parity.faults.functions.called import CLAMP, POWER, WHERE
from parity.faults.substitution import Substitution

Tensor = torch.Tensor


def _no_penalty(input: Any, exponent: Any, **options: Any) -> Any:
    """Read a fractional power as 1."""
    fractional = isinstance(exponent, float) and 0.0 < exponent < 1.0 and isinstance(input, Tensor)
    return torch.ones_like(input) if fractional else torch.pow(input, exponent, **options)


def _unforced(condition: Tensor, input: Any, other: Any) -> Tensor:
    """Leave log-probabilities as they are where one token is forced: the only one that is not -inf."""
    forced = isinstance(input, Tensor) and isinstance(other, Tensor) and torch.isneginf(input).sum(-1).max()
    return other if forced and forced == input.shape[-1] - 1 else torch.where(condition, input, other)


def _all_covered(input: Tensor, min: Any = None, max: Any = None, **options: Any) -> Tensor:
    """Read what is cut off at 1 as 1."""
    cut = min is None and max == 1.0
    return torch.ones_like(input) if cut else torch.clamp(input, min, max, **options)


FAULTS: tuple[Substitution, ...] = (
    Substitution(
        "A14",
        "length penalty left out: a fractional power read as 1",
        "divide the sum of a sequence's log-probabilities by its length penalty, in ranking and at the end",
        POWER,
        _no_penalty,
    ),
    Substitution(
        "A14-end",
        "sequences that have ended go on",
        "after the end token only the end token follows, at no cost",
        WHERE,
        _unforced,
    ),
    Substitution(
        "A14-coverage",
        "coverage left out: what is cut off at 1 read as 1",
        "add beta times the sum of log(min(coverage, 1)) to a sequence's score",
        CLAMP,
        _all_covered,
    ),
)
