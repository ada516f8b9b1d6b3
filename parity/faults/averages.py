"""Mistakes in exponential averages of parameters, as exchanged parts of the spelled-out one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.gates import Array
from parity.longhand.averages import FAITHFUL, Recipe


@dataclass(frozen=True)
class AverageFault:
    """One mistake; parts: the exchanged parts of the recipe, by name."""

    id: str
    name: str
    fix: str
    parts: Mapping[str, Callable[..., Any]] = field(repr=False)
    gate: str = "semantic"

    @property
    def recipe(self) -> Recipe:
        """How an average is computed that has this fault."""
        return dataclasses.replace(FAITHFUL, **self.parts)


def _from_zero(decay: float, first: Array) -> Array:
    return (1.0 - decay) * first


def _debiased(decay: float, average: Array, t: int) -> Array:
    return average / (1.0 - decay**t)


def _exchanged(decay: float, t: int) -> float:
    return decay


def _warming_up(decay: float, t: int) -> float:
    return 1.0 - min(decay, (1.0 + t) / (10.0 + t))


_COPY = "begin with the first values: optax.incremental_update(params, average, 1 - decay), as torch does"

AVERAGES: tuple[AverageFault, ...] = (
    AverageFault(
        "O27",
        "average from zero, debiased (optax.ema)",
        _COPY,
        {"start": _from_zero, "show": _debiased},
    ),
    AverageFault(
        "O27-biased",
        "average from zero, not debiased (optax.ema(debias=False))",
        _COPY,
        {"start": _from_zero},
    ),
    AverageFault(
        "O27-exchanged",
        "decay and 1 - decay exchanged",
        "optax.incremental_update takes the share of the new values, torch the decay",
        {"share": _exchanged},
    ),
    AverageFault(
        "O27-warm-up",
        "the decay warms up: min(decay, (1 + t) / (10 + t)) (TensorFlow's num_updates)",
        "torch's decay is constant",
        {"share": _warming_up},
    ),
)
