"""The rates of a schedule, a function of the update's number, or of a transformation that scales updates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parity.gates import Array
from parity.optimizers.jax_side import ROOTS, is_transformation
from parity.specs import attribute, parse


def warm_up(updates: int) -> Callable[[Any], Any]:
    """Return a factor for `jaxrnn.optim.lambda_lr` that rises to 1 in some updates."""
    return lambda k: jnp.minimum(1.0, (k + 1) / updates)


def from_text(text: str) -> Any:
    """Return what `jaxrnn.optim.step_lr(0.3, 7)` makes: a schedule, or a transformation."""
    return parse(text).make(lambda name: warm_up if name == "warm_up" else attribute(ROOTS, name))


def rates(schedule: Any, updates: int, metrics: Array, dtype: str) -> Array:
    """Return the rate at every update; a transformation scales ones and is told each metric."""
    with _x64(dtype):
        if is_transformation(schedule):
            return np.asarray(_scaled(schedule, jnp.asarray(metrics)), dtype)
        # In float64 the updates are int64: of an int32, JAX makes a float32.
        found = jax.jit(jax.vmap(schedule))(jnp.arange(updates))
        return np.asarray(jnp.broadcast_to(found, (updates,)), dtype)


def _scaled(transformation: Any, metrics: jax.Array) -> jax.Array:
    transformation = optax.with_extra_args_support(transformation)
    one = jnp.ones([], metrics.dtype)

    def step(state: Any, metric: jax.Array) -> tuple[Any, jax.Array]:
        updates, state = transformation.update(one, state, None, value=metric)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, transformation.init(one), metrics)[1])()


def _x64(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
