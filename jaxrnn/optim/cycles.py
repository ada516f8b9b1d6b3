"""torch's one-cycle and cyclic policies: a schedule of the learning rate, and one of the momentum that mirrors it.

Use them in pairs; torch cycles the momentum unless told not to::

    adam(one_cycle_lr(1e-2, 1000), b1=one_cycle_momentum(1000))
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxrnn.optim._common import below_one, number
from jaxrnn.optim.schedules import (
    as_float,
    as_step,
    check_count,
    check_rate,
    half_cosine,
    is_count,
    powers,
)


class _Phase(NamedTuple):
    """From one value to another, between two points that need not be whole updates."""

    begin: float
    end: float
    first: float
    last: float


def one_cycle_lr(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> optax.Schedule:
    """Up from ``max_lr / div_factor`` to `max_lr`, then down: torch's `OneCycleLR` (Smith & Topin, 2018).

    The top is at update ``pct_start total_steps - 1`` and the end, ``max_lr / div_factor / final_div_factor``, at
    ``total_steps - 1``; with `three_phase` the way down first takes as long as the way up did. `anneal_strategy` is
    "cos" or "linear". (`optax.cosine_onecycle_schedule` has its top at ``pct_start total_steps``.)

    After ``total_steps - 1`` the last value is held. torch gives one value more, beyond the end of its formula
    (with "linear" it can be negative), then raises.
    """
    check_rate(max_lr)
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        number(name, value)
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: expected a finite number above 0.")
    low = max_lr / div_factor
    values = [low, max_lr, *([low] if three_phase else []), low / final_div_factor]
    return _one_cycle(values, total_steps, pct_start, anneal_strategy, three_phase)


def one_cycle_momentum(
    total_steps: int,
    *,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    three_phase: bool = False,
) -> optax.Schedule:
    """Down from `max_momentum` to `base_momentum` while ``one_cycle_lr`` goes up, then up again."""
    below_one("base_momentum", base_momentum, "base_momentum")
    below_one("max_momentum", max_momentum, "max_momentum")
    values = [max_momentum, base_momentum, max_momentum, *([max_momentum] if three_phase else [])]
    return _one_cycle(values, total_steps, pct_start, anneal_strategy, three_phase)


def cyclic_lr(
    base_lr: float,
    max_lr: float,
    *,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> optax.Schedule:
    """Up from `base_lr` to `max_lr` and down again, straight, for ever: torch's `CyclicLR` (Smith, 2017).

    ::

        base_lr + (max_lr - base_lr) height(k) scale(k)

    `height` goes from 0 to 1 in `step_size_up` updates and back in `step_size_down` (None: as many). `scale` is 1
    for mode "triangular", halves with each cycle for "triangular2", and is ``gammaᵏ`` for "exp_range".
    """
    check_rate(base_lr)
    check_rate(max_lr)
    height = _triangles(step_size_up, step_size_down, mode, gamma)
    return lambda k: base_lr + (max_lr - base_lr) * height(k)


def cyclic_momentum(
    *,
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> optax.Schedule:
    """Down from `max_momentum` to `base_momentum` while ``cyclic_lr`` goes up, and up again."""
    below_one("base_momentum", base_momentum, "base_momentum")
    below_one("max_momentum", max_momentum, "max_momentum")
    height = _triangles(step_size_up, step_size_down, mode, gamma)
    return lambda k: max_momentum - (max_momentum - base_momentum) * height(k)


def _one_cycle(
    values: list[float], total_steps: int, pct_start: float, anneal_strategy: str, three_phase: bool
) -> optax.Schedule:
    if not is_count(total_steps):
        raise ValueError(
            f"Expected positive integer total_steps, but got {total_steps}. It counts the updates: epochs times "
            "batches per epoch."
        )
    number("pct_start", pct_start)
    if not 0 <= pct_start <= 1:
        raise ValueError(
            f"Expected float between 0 and 1 pct_start, but got {pct_start}. torch's default is 0.3."
        )
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(
            f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}. "
            "'cos' is torch's default."
        )
    top = float(pct_start * total_steps) - 1
    if top == 0:
        raise ValueError(
            f"pct_start={pct_start} of total_steps={total_steps}: the first phase is a single update, for which "
            "torch divides by zero. Take a larger pct_start, or 0 to leave the phase out."
        )
    last = total_steps - 1
    points = [0.0, top, *([float(2 * pct_start * total_steps) - 2] if three_phase else []), float(last)]
    phases = [_Phase(*each) for each in zip(points, points[1:], values, values[1:], strict=False)]
    weight = half_cosine if anneal_strategy == "cos" else lambda from_end: from_end

    def schedule(k: Any) -> Array:
        k = jnp.minimum(as_step(k), last)
        value = _anneal(phases[-1], k, weight)
        for phase in reversed(phases[:-1]):
            value = jnp.where(k <= math.floor(phase.end), _anneal(phase, k, weight), value)
        return value

    return schedule


def _anneal(phase: _Phase, k: Array, weight: Callable[[Array], Array]) -> Array:
    """Value of the phase at update k, as a distance from its smaller end, so that nothing cancels there."""
    length = (phase.end - phase.begin) or 1.0  # a phase without length is never asked
    if phase.first >= phase.last:
        return phase.last + (phase.first - phase.last) * weight(-_distance(k, phase.end) / length)
    return phase.first + (phase.last - phase.first) * weight(_distance(k, phase.begin) / length)


def _distance(k: Array, point: float) -> Array:
    """``k - point``, the whole part in integers."""
    whole = math.floor(point)
    return as_float(k - whole) - (point - whole)


def _triangles(up: int, down: int | None, mode: str, gamma: float) -> Callable[[Any], Array]:
    """Height times scale of a cyclic policy."""
    down = up if down is None else down
    check_count("step_size_up", up)
    check_count("step_size_down", down)
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ValueError(
            f"mode is invalid and scale_fn is None: mode={mode!r} is not one of 'triangular', "
            "'triangular2', 'exp_range'."
        )
    if gamma != 1 and mode != "exp_range":
        raise ValueError(
            f"gamma={gamma} has no effect in mode {mode!r}: use mode='exp_range' or leave it out."
        )
    power = powers("gamma", gamma if mode == "exp_range" else 0.5 if mode == "triangular2" else 1.0)

    def height(k: Any) -> Array:
        k = as_step(k)
        done = k % (up + down)
        rising, falling = as_float(done) / up, as_float(up + down - done) / down
        exponent = k if mode == "exp_range" else k // (up + down)
        return jnp.where(done <= up, rising, falling) * power(exponent)

    return height
