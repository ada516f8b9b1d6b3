"""The sizes of the models in the table of cases, and the numbers that are drawn for them."""

from __future__ import annotations

import numpy as np

from parity.gates import Array

# Pairwise different, so that no two axes can be taken for one another.
BATCH, STEPS, FEATURES, HIDDEN, PROJECTED, PREDICTED = 5, 9, 3, 7, 6, 4
KEYS, HEADS, EMBEDDED, WIDE = 8, 2, 12, 10
WORDS, TARGET_WORDS, WORD_SIZE, CLASSES = 11, 13, 4, 6
IMAGE, CONVOLVED = (10, 14), (4, 6)
DROPOUT = 0.4


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """Draw normal numbers of this standard deviation, in float32."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def masks(rng: np.random.Generator, sizes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Draw what dropout keeps at each place, for a batch."""
    return {name: rng.random((BATCH, *size)) >= DROPOUT for name, size in sizes.items()}
