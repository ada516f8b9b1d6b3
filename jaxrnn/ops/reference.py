"""The meaning of an unroll: `lax.scan` of one whole step, and nothing clever.

Every other implementation must return what this one returns, gradients included.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State, advance


def unroll(
    cell: Cell,
    params: Parameters,
    x: jax.Array,  # [T, B, I]
    state: State,
    valid: jax.Array | None,  # bool [T, B, 1]
    restart: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, State]:
    """Return every step's ``h`` [T, B, R] and the final state.

    Where `restart` is set, the step starts from zeros. Where `valid` is not set, the step leaves the state
    alone, so a reversed sequence needs no re-indexing: it waits at its padding, then runs.
    """

    def step(state, inputs):
        x, valid, restart = inputs
        before = select(restart, jax.tree.map(jnp.zeros_like, state), state)
        after = select(valid, advance(cell, params, x, before, precision), state, default=True)
        return after, after.h

    final, h = lax.scan(step, state, (x, valid, restart), reverse=reverse)
    return h, final


def select(condition: jax.Array | None, chosen: State, otherwise: State, *, default: bool = False) -> State:
    """Return `chosen` where the condition holds; no condition means `default` everywhere."""
    if condition is None:
        return chosen if default else otherwise
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)
