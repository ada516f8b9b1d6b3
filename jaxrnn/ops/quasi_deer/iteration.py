"""A fixed-point iteration that says how far it came, and gives way to a loop over time where that is not enough."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import State


class Certificate(NamedTuple):
    """What an iteration reached, measured on the states themselves after the last correction.

    residual: the largest ``|step(s_{t-1}, x_t) - s_t|``, relative to the largest entry of the row's state up to
        then. So every step is right to within this, as it is to within its rounding in a loop.
    converged: the residual is within the tolerance. Where it is not, the result is that of the sequential loop.
    """

    iterations: jax.Array  # int32 []
    residual: jax.Array  # []
    converged: jax.Array  # bool []


class Limits(NamedTuple):
    """When an iteration ends."""

    tolerance: float  # of the residual
    iterations: int


def iterate(
    limits: Limits,
    residual: Callable[[State], tuple[State, Any]],
    correction: Callable[[Any, State], State],
    start: State,  # each field [T, B, ...]
    sequential: Callable[[], State],
    *,
    reverse: bool = False,
) -> tuple[State, Certificate]:
    """Return the states for which the residual is zero, and the certificate.

    Once the residual is within the tolerance, one more correction is made, and measured again: where it is just
    below, results have up to 8 times a loop's rounding errors, one iteration later 2 to 3 times (GRU, float32).

    `residual` also returns what `correction` is to know beside it. `reverse` says that the last step comes first.
    `sequential` is run where the iteration does not converge, or overflows; under `vmap`, XLA runs it everywhere
    and chooses afterwards.
    """

    def measured(s):
        r, known = residual(s)
        return s, r, known, _relative(r, s, reverse)

    def goes_on(carried):
        (*_, size), before, count = carried
        return ~(before <= limits.tolerance) & ~jnp.isnan(size) & (count < limits.iterations)

    def improved(carried):
        (s, r, known, size), _, count = carried
        return measured(jax.tree.map(jnp.add, s, correction(known, r))), size, count + 1

    unknown = jnp.full((), jnp.inf, start[0].dtype)
    first = (start, *residual(start), unknown)
    (s, *_, size), _, count = lax.while_loop(goes_on, improved, (first, unknown, jnp.int32(0)))
    certificate = Certificate(count, size, size <= limits.tolerance)
    return lax.cond(certificate.converged, lambda: s, sequential), certificate


def _relative(residual: State, states: State, reverse: bool) -> jax.Array:
    """Return the largest entry of the residual, relative to the largest of its row's field up to that step."""

    def of_field(r, s):
        least = jnp.finfo(s.dtype).tiny / jnp.finfo(s.dtype).eps
        largest = lax.cummax(jnp.max(jnp.abs(s), axis=-1), axis=0, reverse=reverse)
        return jnp.max(jnp.max(jnp.abs(r), axis=-1) / jnp.maximum(largest, least), initial=0)

    return jnp.max(jnp.stack([of_field(*of_both) for of_both in zip(residual, states, strict=True)]))
