"""The meaning of an unroll: layer by layer, `lax.scan` of one whole step, and nothing clever.

Every other implementation must return what this one returns, gradients included.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State, advance


def unroll(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer
    valid: jax.Array | None,  # bool [T, B, 1]
    restart: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, R] of the last layer, and all final states.

    Each layer runs on the outputs of the one below. Where `restart` is set, a step starts from zeros. Where `valid`
    is not set, the step leaves the state alone, so a reversed sequence needs no re-indexing: it waits at its
    padding, then runs. What `x` holds there, even NaN, reaches nothing.
    """
    finals = []
    for params, state in zip(layers, states, strict=True):

        def step(state, inputs, params=params):
            x, valid, restart = inputs
            x = without_padding(valid, x)
            before = select(restart, jax.tree.map(jnp.zeros_like, state), state)
            after = select(valid, advance(cell, params, x, before, precision), state, default=True)
            return after, after.h

        final, x = lax.scan(step, state, (x, valid, restart), reverse=reverse)
        finals.append(final)
    return x, tuple(finals)


def in_both_directions(
    run: Callable[..., tuple[jax.Array, tuple[State, ...]]],
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return the last layer's outputs [T, B, 2*R] and all final states of a bidirectional stack.

    `layers` and `states` hold two for each layer, the forward direction's first.
    ``run(layers, x, states, reverse=)`` runs one direction of one layer, and returns zeros in the padding.
    """
    finals: tuple[State, ...] = ()
    for first in range(0, len(layers), 2):
        outputs = []
        for index, reverse in ((first, False), (first + 1, True)):
            h, final = run([layers[index]], x, [states[index]], reverse=reverse)
            outputs.append(h)
            finals += final
        x = jnp.concatenate(outputs, axis=-1)
    return x, finals


def select(condition: jax.Array | None, chosen: State, otherwise: State, *, default: bool = False) -> State:
    """Return `chosen` where the condition holds; no condition means `default` everywhere."""
    if condition is None:
        return chosen if default else otherwise
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)


def without_padding(valid: jax.Array | None, x: jax.Array) -> jax.Array:
    """Return `x` with zeros in the padding: a product with zero would let NaN through."""
    return x if valid is None else jnp.where(valid, x, 0)
