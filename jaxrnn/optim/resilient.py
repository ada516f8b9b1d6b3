"""Rprop: steps that know the gradient's sign only."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxrnn.optim._common import as_scalar, at_least_zero, check_flags, map_leaves, negate, number


class RpropState(NamedTuple):
    """The gradient before this one, and how far each element goes."""

    step: Int[Array, ""]  # updates made so far
    before: optax.Updates  # torch's prev: 0 where the sign has just changed
    step_size: optax.Updates


def rprop(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50),
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Resilient propagation (Riedmiller & Braun, 1993) as `torch.optim.Rprop` computes it, for whole batches::

        same sign as before:     size = min(size etas[1], step_sizes[1]),   p = p - size sign(g)
        the other sign:          size = max(size etas[0], step_sizes[0]),   p stays, and g counts as 0
        one of the two is 0:     size stays,                                p = p - size sign(g)

    The learning rate is every element's first size and has no effect after the first update: of a
    schedule, the value at 0 counts. `optax.rprop` lags one step behind: its first update is 0.

    torch looks at the sign of the product of the two gradients, which in float32 is 0 where both are below
    some 1e-23; here the signs themselves are compared.
    """
    shrink, grow = _pair("etas", etas)
    smallest, largest = _pair("step_sizes", step_sizes)
    if not 0 < shrink < 1 < grow:
        raise ValueError(f"Invalid eta values: {shrink}, {grow}. Expected 0 < etas[0] < 1 < etas[1].")
    if not 0 <= smallest <= largest:
        raise ValueError(f"step_sizes={step_sizes}: expected the smallest, at least 0, and the largest.")
    check_flags(maximize=maximize)
    if isinstance(learning_rate, int | float):
        at_least_zero("learning_rate", learning_rate, "learning rate")

    def init(params: optax.Params) -> RpropState:
        return RpropState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(
        grads: optax.Updates, state: RpropState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, RpropState]:
        del params
        first = learning_rate(state.step) if callable(learning_rate) else learning_rate

        def rule(g: Array, before: Array, size: Array) -> tuple[Array, ...]:
            size = jnp.where(state.step == 0, as_scalar(first, g.dtype), size)
            agreement = jnp.sign(g) * jnp.sign(before)
            factor = jnp.where(agreement > 0, grow, jnp.where(agreement < 0, shrink, 1.0)).astype(g.dtype)
            size = jnp.clip(size * factor, smallest, largest)
            g = jnp.where(agreement < 0, 0, g)
            return -jnp.sign(g) * size, g, size

        updates, before, sizes = map_leaves(rule, grads, state.before, state.step_size)
        return updates, RpropState(optax.safe_increment(state.step), before, sizes)

    direction = optax.GradientTransformation(init, update)
    return optax.chain(negate(), direction) if maximize else direction


def _pair(name: str, values: tuple[float, float]) -> tuple[float, float]:
    if not (isinstance(values, tuple | list) and len(values) == 2):
        raise TypeError(f"{name}: expected two numbers, got {values!r}.")
    for value in values:
        number(name, value)
    return values[0], values[1]
