"""The unroll of linear cells: one projection and one associative scan for all steps.

The scan composes ``h' = keep h + add`` directly. The paper's scan in log space, ``cumsum(log keep)`` and a
cumulative logsumexp, adds up logarithms that grow with T, and cannot hold negative numbers. Measured in float32
against float64 (keep = σ of normal numbers, add > 0, T = 131 072, largest relative error): the loop 3e-7, the
direct scan 4e-7, in log space 2e-2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Parameters, State, add_bias, matmul
from jaxrnn.linear_cells import LinearCell
from jaxrnn.ops.affine import linear_recurrence
from jaxrnn.ops.reference import layer_by_layer, restart_marks, without_padding


def unroll(
    cell: LinearCell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer and direction
    valid: jax.Array | None,  # bool [T, B, 1]
    resets: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, D*H] of the last layer and all final states, as `reference.unroll` does."""
    if not isinstance(x.shape[0], int):
        raise NotImplementedError(
            f"{cell.name} is computed by an associative scan, whose program depends on the number of steps: export "
            "it for a number, not for a symbol."
        )

    def layer(reverse, params, x, state):
        keep, add = _coefficients(cell, params, x, precision, valid, restart_marks(resets, reverse))
        h = _states(keep, add, state.h, reverse)
        return h, cell.state(state.h if not len(h) else h[0] if reverse else h[-1])

    return layer_by_layer(layer, layers, x, states, reverse=reverse, bidirectional=bidirectional)


def _coefficients(cell, params, x, precision, valid, restart):
    """Return `keep` and `add` of all steps, [T, B, H]: padding keeps all of the state, a new sequence nothing."""
    sums = add_bias(matmul(without_padding(valid, x), params["weight_ih"], precision), params.get("bias_ih"))
    keep, add = cell.coefficients(tuple(jnp.split(sums, cell.gates, axis=-1)))
    if restart is not None:
        keep = jnp.where(restart, 0, keep)
    if valid is not None:
        keep = jnp.where(valid, keep, 1)
    return keep, without_padding(valid, add)


def _states(keep, add, initial, reverse):
    if reverse:
        keep, add = jnp.flip(keep, 0), jnp.flip(add, 0)
    if len(add):
        h = linear_recurrence(keep, add.at[0].add(keep[0] * initial))
    else:
        h = add
    return jnp.flip(h, 0) if reverse else h
