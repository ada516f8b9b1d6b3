"""The meaning of an unroll: layer by layer, `lax.scan` of one whole step, and nothing clever.

Every other implementation must return what this one returns, gradients included.
"""

from collections.abc import Callable, Sequence
from typing import Any

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
    resets: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, R] of the last layer, and all final states.

    Each layer runs on the outputs of the one below. Where `resets` is set, a sequence begins inside a row. Where
    `valid` is not set, the step leaves the state alone, so a reversed sequence needs no re-indexing: it waits at
    its padding, then runs. What `x` holds there, even NaN, reaches nothing; what is returned there means nothing.

    With `bidirectional`, `layers` and `states` hold two for each layer, the forward one first; h is [T, B, 2*R].
    """

    def layer(reverse, params, x, state):
        def step(state, inputs):
            x, valid, restart = inputs
            x = without_padding(valid, x)
            before = select(restart, jax.tree.map(jnp.zeros_like, state), state)
            after = select(valid, advance(cell, params, x, before, precision), state, default=True)
            return after, after.h

        final, h = lax.scan(step, state, (x, valid, restart_marks(resets, reverse)), reverse=reverse)
        return h, final

    return layer_by_layer(layer, layers, x, states, reverse=reverse, bidirectional=bidirectional)


def layer_by_layer(
    layer: Callable[..., tuple[jax.Array, State]],
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],
    *,
    reverse: bool,
    bidirectional: bool,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return what `unroll` does, given what one layer does: ``layer(reverse, params, x, state)``, h and final."""

    def direction(reverse, layers, x, states):
        finals: tuple[State, ...] = ()
        for params, state in zip(layers, states, strict=True):
            x, final = layer(reverse, params, x, state)
            finals += (final,)
        return x, finals

    if bidirectional:
        return in_both_directions(one_by_one(direction), layers, x, states)
    return direction(reverse, layers, x, states)


# Of the parameters, x and the initial states of some layers: outputs and final states.
Run = Callable[[Sequence[Parameters], jax.Array, Sequence[State]], tuple[Any, tuple[Any, ...]]]


def in_both_directions(
    run: Run,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return the last layer's outputs [T, B, 2*R] and all final states of a bidirectional stack.

    `layers` and `states` hold two for each layer, the forward direction's first. `run` is given the two of a layer,
    and returns the outputs of both and, for each, the final states of its one layer.
    """
    finals: tuple[State, ...] = ()
    for first in range(0, len(layers), 2):
        both = slice(first, first + 2)
        outputs, ends = run(layers[both], x, states[both])
        x = jnp.concatenate(outputs, axis=-1)
        finals += tuple(end for (end,) in ends)
    return x, finals


def one_by_one(direction: Callable[..., tuple[jax.Array, tuple[State, ...]]]) -> Run:
    """Return what runs both directions of a layer, given ``direction(reverse, layers, x, states)``."""

    def run(layers, x, states):
        results = [
            direction(reverse, [params], x, [state])
            for reverse, params, state in zip((False, True), layers, states, strict=True)
        ]
        outputs, ends = zip(*results, strict=True)
        return outputs, ends

    return run


def restart_marks(resets: jax.Array | None, reverse: bool) -> Any:
    """Return the steps that start from zeros, bool [T, B, 1], given those at which a sequence begins.

    A mark at t says that a sequence begins at t. Running backwards, the boundary is crossed one step later:
    on entering step t - 1.
    """
    if resets is None or not reverse:
        return resets
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


def select(condition: jax.Array | None, chosen: State, otherwise: State, *, default: bool = False) -> State:
    """Return `chosen` where the condition holds; no condition means `default` everywhere."""
    if condition is None:
        return chosen if default else otherwise
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, otherwise)


def without_padding(valid: jax.Array | None, x: jax.Array) -> jax.Array:
    """Return `x` with zeros in the padding: a product with zero would let NaN through."""
    return x if valid is None else jnp.where(valid, x, 0)
