"""Stacks of LSTMs for the tests of cuDNN: drawn, and run layer by layer as the reference says."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrnn import cells, ops
from tests.jaxrnn.common import draw, draw_cell


def draw_stack(
    layers: int, directions: int, rows: int, steps: int, features: int, hidden: int,
    *, scale: Callable[[int], float], bias: bool, dtype,
):  # fmt: skip
    """Return parameters per layer and direction, the n-th times `scale(n)`, x [B, T, I] and states [L*D, B, H]."""
    count = layers * directions
    params = [
        draw_cell(
            cells.LSTM, rows, steps, features if n < directions else directions * hidden, hidden,
            bias=bias, dtype=dtype,
        )[0]
        for n in range(count)
    ]  # fmt: skip
    params = [jax.tree.map(lambda a, n=n: a * scale(n), each) for n, each in enumerate(params)]
    state = cells.LSTMState(*(jnp.asarray(draw(50 + n, count, rows, hidden), dtype) for n in (0, 1)))
    return params, jnp.asarray(draw(60, rows, steps, features), dtype), state


def layer_by_layer(params, x, state, lengths, directions, precision=None):
    """Return the last layer's outputs [B, T, D*H] and all final states [L*D, B, H]."""
    options = {"lengths": lengths, "precision": precision, "implementation": "reference"}
    finals = []
    for first in range(0, len(params), directions):
        outputs = []
        for n in range(first, first + directions):
            at = jax.tree.map(lambda s, n=n: s[n], state)
            h, final = ops.unroll(cells.LSTM, params[n], x, at, reverse=n > first, **options)
            outputs.append(h)
            finals.append(final)
        x = jnp.concatenate(outputs, -1)
    return x, jax.tree.map(lambda *s: jnp.stack(s), *finals)
