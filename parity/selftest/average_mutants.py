"""Exponential averages of parameters in JAX, each with one mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parity.gates import Array
from parity.running.jax_side import in_float64

DECAY = 0.9
Average = Callable[[Any], Any]  # values [updates, ...] -> their average after every update


def run(average: Average, values: Array, dtype: str) -> Array:
    """Return what an average makes of values, computed in `dtype`."""
    with in_float64() if dtype == "float64" else contextlib.nullcontext():
        return np.asarray(jax.jit(average)(jnp.asarray(values, dtype)))


def _of_optax(debias: bool) -> Average:
    def average(values: Any) -> Any:
        ema = optax.ema(DECAY, debias)

        def step(state: Any, value: Any) -> Any:
            shown, state = ema.update(value, state)
            return state, shown

        return jax.lax.scan(step, ema.init(values[0]), values)[1]

    return average


def incremental(share: Callable[[Any], Any]) -> Average:
    """Return an average by `optax.incremental_update` that begins with the first values."""

    def average(values: Any) -> Any:
        def step(before: Any, arrived: Any) -> Any:
            value, t = arrived
            after = optax.incremental_update(value, before, jnp.where(t == 1, 1.0, share(t)))
            return after, after

        return jax.lax.scan(step, values[0], (values, jnp.arange(1, len(values) + 1)))[1]

    return average


MUTANTS: dict[str, Average] = {
    "O27": _of_optax(debias=True),
    "O27-biased": _of_optax(debias=False),
    "O27-exchanged": incremental(lambda t: DECAY),
    "O27-warm-up": incremental(lambda t: 1.0 - jnp.minimum(DECAY, (1.0 + t) / (10.0 + t))),
}
