"""Exponential averages of parameters written out as equations, in NumPy, with every part exchangeable.

`FAITHFUL` is torch's `AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))`: it takes the first values as
they are, and from then on ``avg' = decay avg + (1 - decay) value``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.gates import Array


def start(decay: float, first: Array) -> Array:
    """Return the average after the first update."""
    return first


def share(decay: float, t: int) -> float:
    """Return what the values of update t, counted from 1, add to the average."""
    return 1.0 - decay


def show(decay: float, average: Array, t: int) -> Array:
    """Return what is given out for the average after update t."""
    return average


@dataclass(frozen=True)
class Recipe:
    """How an average is computed, part by part; `dataclasses.replace` exchanges one."""

    start: Callable[..., Any] = start
    share: Callable[..., Any] = share
    show: Callable[..., Any] = show


FAITHFUL = Recipe()


def run(series: Array, decay: float, recipe: Recipe = FAITHFUL) -> Array:
    """Return the average after every update `[updates, ...]` of values `[updates, ...]`."""
    average = recipe.start(decay, series[0])
    shown = [recipe.show(decay, average, 1)]
    for t, value in enumerate(series[1:], start=2):
        part = recipe.share(decay, t)
        average = (1.0 - part) * average + part * value
        shown.append(recipe.show(decay, average, t))
    return np.stack(shown)
