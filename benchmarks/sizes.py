"""Sizes: by name, in numbers, at random, and along an axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

GATES = {"rnn": 1, "relu": 1, "gru": 3, "lstm": 4, "peephole": 4}  # blocks of H rows, by kind of network
KINDS = tuple(GATES)
MODES = ("forward", "train")


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a recurrent network and its input are."""

    name: str
    batch: int  # B
    steps: int  # T
    input_features: int  # I
    hidden_features: int  # H
    layers: int = 1  # L
    directions: int = 1  # D
    _: dataclasses.KW_ONLY
    calls: int = 1  # more than 1: a stream, so many calls in a row, between which the caller holds the state
    axis: str = ""  # of the sweep that this size belongs to: "T", "B" or "H"

    @property
    def shape(self) -> tuple[int, ...]:
        """B, T, I, H, L, D."""
        return (
            self.batch,
            self.steps,
            self.input_features,
            self.hidden_features,
            self.layers,
            self.directions,
        )

    @property
    def output_features(self) -> int:
        """D H."""
        return self.directions * self.hidden_features


class Entry(NamedTuple):
    """A size of the grid, the networks it is measured for, and what is done with them."""

    size: Size
    kinds: tuple[str, ...] = ("rnn", "gru", "lstm")
    modes: tuple[str, ...] = MODES


_GATED = ("gru", "lstm")

GRID: dict[str, tuple[Entry, ...]] = {
    "course": (Entry(Size("course", 1026, 19, 1, 32, layers=2)),),  # the lecture's notebook
    "charlm": (Entry(Size("charlm", 64, 100, 128, 256, layers=2), _GATED),),
    "medium": (Entry(Size("medium", 32, 128, 128, 256)),),
    "large": (Entry(Size("large", 64, 100, 256, 512)),),
    "long": (Entry(Size("long", 4, 2048, 64, 128)),),
    "bidirectional": (Entry(Size("bidirectional", 32, 128, 128, 256, layers=2, directions=2), _GATED),),
    "stream": (
        Entry(Size("stream", 1, 1000, 128, 128), _GATED, ("forward",)),
        Entry(Size("stream-step", 1, 1, 128, 128, calls=1000), _GATED, ("forward",)),
    ),
}


def parse(text: str) -> Size:
    """Read B,T,I,H[,L[,D]]."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 4 <= len(numbers) <= 6 or min(numbers) < 1 or numbers[5:] not in ([], [1], [2]):
        raise ValueError(
            f"{text!r} is not a size: expected B,T,I,H[,L[,D]], whole numbers from 1, D 1 or 2; "
            "for instance 32,128,128,256 or 32,128,128,256,2,2."
        )
    return Size(text.replace(" ", ""), *numbers)


# At random ------------------------------------------------------------------------------------------------

RANGES = {"B": (1, 512), "T": (8, 1024), "I": (1, 512), "H": (16, 512)}

# What a training step of an LSTM may take: about a second for the slowest contender on two cores of 2021, which
# reach 180 GFLOP/s in large products and a third of it here.
TRAINING_FLOPS = 5e10


def draw(count: int, seed: int) -> list[Size]:
    """Return `count` sizes, log-uniform in `RANGES`; the first of them do not depend on how many are drawn.

    Rejected are those that train too long (`TRAINING_FLOPS`), and those of the grid, on which code was tuned.
    """
    rng = np.random.default_rng(seed)
    rejected = {entry.size.shape for entries in GRID.values() for entry in entries}
    found: list[Size] = []
    while len(found) < count:
        logarithms = [rng.uniform(math.log(low), math.log(high)) for low, high in RANGES.values()]
        size = Size(f"random-{seed}-{len(found)}", *(round(math.exp(each)) for each in logarithms))
        if size.shape not in rejected and 3 * flops(size, "lstm") <= TRAINING_FLOPS:
            found.append(size)
            rejected.add(size.shape)
    return found


# Along an axis --------------------------------------------------------------------------------------------

AXES = {"T": "steps", "B": "batch", "H": "hidden_features"}
_FACTORS = (0.25, 0.5, 1, 2, 4)


def sweep(around: Size, axis: str) -> Iterator[Size]:
    """Yield sizes that differ from one another in T, B or H: from a quarter to four times that of `around`."""
    values = (max(1, round(getattr(around, AXES[axis]) * factor)) for factor in _FACTORS)
    for value in dict.fromkeys(values):
        name = f"{around.name} {axis}={value}"
        yield dataclasses.replace(around, name=name, axis=axis, **{AXES[axis]: value})


# The least work -------------------------------------------------------------------------------------------


def flops(size: Size, kind: str, projected_features: int = 0) -> int:
    """Return the floating-point operations of a forward pass's matrix products.

    A training step has three times as many: each product has two in the backward pass. Elementwise work does
    not count.
    """
    state = projected_features or size.hidden_features  # R
    features, total = size.input_features, 0
    for _ in range(size.layers):
        products = GATES[kind] * size.hidden_features * (features + state)
        products += projected_features * size.hidden_features
        total += size.directions * 2 * products
        features = size.directions * state
    return total * size.batch * size.steps * size.calls


def traffic(size: Size, kind: str) -> int:
    """Return the bytes that a forward pass must move in float32: input, outputs and weights, each once.

    A training step has twice as many: each has a gradient, or is read again.
    """
    weights, features = 0, size.input_features
    for _ in range(size.layers):
        rows = GATES[kind] * size.hidden_features
        weights += size.directions * rows * (features + size.hidden_features + 2)
        features = size.output_features
    moved = size.batch * size.steps * size.calls * (size.input_features + size.output_features)
    return 4 * (weights + moved)
