"""Mistakes in learning rate schedules, as the rates that they lead to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.gates import Array


@dataclass(frozen=True)
class Schedule:
    """A torch scheduler: its class's name and options, the rate it starts from, what is measured, which value."""

    kind: str
    options: Mapping[str, Any]
    base: float
    metrics: Array
    key: str = "lr"


@dataclass(frozen=True)
class ScheduleFault:
    """One mistake; `rates` are what it makes of a scheduler whose own rates are given."""

    id: str
    name: str
    fix: str
    rates: Callable[[Schedule, Array], Array] = field(repr=False)
    possible: Callable[[Schedule], bool] = field(default=lambda schedule: True, repr=False)
    gate: str = "semantic"


def _before(schedule: Schedule, rates: Array) -> Array:
    return np.concatenate([rates[:1], rates[:-1]])


def _late_from(first: float) -> Callable[[Schedule, Array], Array]:
    return lambda schedule, rates: np.concatenate([[first * schedule.base], rates[:-1]])


def _cosine(first: Any, last: Any, share: Any) -> Any:
    return last + (first - last) * (1 + np.cos(np.pi * share)) / 2


def _long_phases(schedule: Schedule, rates: Array) -> Array:
    """One cycle, with its top at `pct_start total_steps` and its end at `total_steps`."""
    options = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4, **schedule.options}
    total, high = options["total_steps"], options["max_lr"]
    low, top = high / options["div_factor"], int(options["pct_start"] * options["total_steps"])
    k = np.arange(len(rates))
    rising = _cosine(low, high, k / top)
    falling = _cosine(high, low / options["final_div_factor"], (k - top) / (total - top))
    return np.where(k < top, rising, falling)


def _stays_down(schedule: Schedule, rates: Array) -> Array:
    end, bottom = schedule.options["T_max"], schedule.options.get("eta_min", 0.0)
    k = np.minimum(np.arange(len(rates)), end)
    return _cosine(schedule.base, bottom, k / end)


def _as_fraction(schedule: Schedule, rates: Array) -> Array:
    """`eta_min` as optax's `alpha`, and down for ever."""
    end, alpha = schedule.options["T_max"], schedule.options.get("eta_min", 0.0)
    k = np.minimum(np.arange(len(rates)), end)
    return schedule.base * _cosine(1.0, alpha, k / end)


def _plateau(at_once: bool) -> Callable[[Schedule, Array], Array]:
    """Return a plateau's rates, dropped by the metric that is `patience` after the best, not the one after it.

    at_once: the update that the metric is of has the lower rate already.
    """

    def rates(schedule: Schedule, rates: Array) -> Array:
        options = {"factor": 0.1, "patience": 10, "threshold": 1e-4, **schedule.options}
        rate, best, bad, found = schedule.base, np.inf, 0, []
        for metric in schedule.metrics:
            before = rate
            better = metric < best * (1 - options["threshold"])
            best, bad = (metric, 0) if better else (best, bad + 1)
            if bad >= options["patience"]:
                rate, bad = rate * options["factor"], 0
            found.append(rate if at_once else before)
        return np.array(found)

    return rates


def _constant_momentum(schedule: Schedule, rates: Array) -> Array:
    return np.full_like(rates, rates[0])


def _of(*kinds: str) -> Callable[[Schedule], bool]:
    return lambda schedule: schedule.kind in kinds


_COUNT = "a schedule receives 0 at the first update"

SCHEDULES: tuple[ScheduleFault, ...] = (
    ScheduleFault(
        "O20",
        "the cycle's phases are one update too long (optax.cosine_onecycle_schedule)",
        "jaxrnn.optim.one_cycle_lr",
        _long_phases,
        lambda schedule: schedule.kind == "OneCycleLR" and schedule.key == "lr",
    ),
    ScheduleFault(
        "O20-momentum",
        "the momentum is not cycled",
        "adam(one_cycle_lr(...), b1=one_cycle_momentum(...))",
        _constant_momentum,
        lambda schedule: schedule.key == "momentum",
    ),
    ScheduleFault(
        "O21",
        "the cosine stays at the bottom after T_max (optax.cosine_decay_schedule)",
        "jaxrnn.optim.cosine_annealing_lr",
        _stays_down,
        _of("CosineAnnealingLR"),
    ),
    ScheduleFault(
        "O21-alpha",
        "eta_min taken for optax's alpha, a fraction of the learning rate",
        "alpha=eta_min / learning_rate, or jaxrnn.optim.cosine_annealing_lr",
        _as_fraction,
        lambda schedule: schedule.kind == "CosineAnnealingLR" and bool(schedule.options.get("eta_min")),
    ),
    ScheduleFault(
        "O22",
        "the rate drops after `patience` bad metrics, not after one more",
        "jaxrnn.optim.reduce_on_plateau",
        _plateau(at_once=False),
        _of("ReduceLROnPlateau"),
    ),
    ScheduleFault(
        "O22-optax",
        "the rate drops after `patience` bad metrics, and at once (optax.contrib.reduce_on_plateau)",
        "jaxrnn.optim.reduce_on_plateau",
        _plateau(at_once=True),
        _of("ReduceLROnPlateau"),
    ),
    ScheduleFault("O23", "the rate of the update before", _COUNT, _before),
    ScheduleFault(
        "O24",
        "the warm-up starts from 0: k / n instead of (k + 1) / n",
        "jaxrnn.optim.lambda_lr(rate, lambda k: jnp.minimum(1.0, (k + 1) / n))",
        _late_from(0.0),
        _of("LambdaLR", "LinearLR"),
    ),
)
