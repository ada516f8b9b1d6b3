"""What is returned for tokens that are no row of an embedding, where torch raises IndexError."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from parity.faults.functions.called import EMBEDDING, Function
from parity.faults.substitution import Substitution

Tensor = torch.Tensor


def _wrapped(tokens: Tensor, rows: int) -> Tensor:
    """Count negative tokens from the end, as NumPy does."""
    return torch.where(tokens < 0, tokens + rows, tokens)


def _as_they_are(tokens: Tensor, rows: int) -> Tensor:
    return tokens


def _reading(choose: Function, fill: float | None = None) -> Function:
    """Look up `choose(tokens, rows)`; what is no row even then becomes the last one, or the fill."""

    def embedding(input: Tensor, weight: Tensor, *args: object, **options: object) -> Tensor:
        rows = len(weight)
        chosen = choose(input, rows)
        found = F.embedding(chosen.clamp(0, rows - 1), weight, *args, **options)  # type: ignore[arg-type]
        outside = (chosen < 0) | (chosen >= rows)
        return found if fill is None else torch.where(outside[..., None], fill, found)

    return embedding


_FIX = "check tokens before they are traced, where their values are known: 0 <= token < rows"

FAULTS: tuple[Substitution, ...] = tuple(
    Substitution(id, f"tokens out of range {name}", _FIX, EMBEDDING, instead)
    for id, name, instead in (
        (
            "S20",
            "become NaN, -1 the last row (as in flax's Embed and jnp.take)",
            _reading(_wrapped, torch.nan),
        ),
        ("S20-array", "become the last row, -1 too (as in indexing a JAX array)", _reading(_wrapped)),
        ("S20-clip", "become the nearest row", _reading(_as_they_are)),
        (
            "S20-zero",
            "become zeros (as in a product with one-hot rows)",
            _reading(_as_they_are, 0.0),
        ),
    )
)
