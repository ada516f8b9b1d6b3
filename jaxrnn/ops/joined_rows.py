"""Several recurrences with the same weights, as `jax.vmap` makes them, joined to one of more rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn.ops.loop import Recurrence


class Joined(NamedTuple):
    """One recurrence in place of several."""

    whole: Recurrence
    calls: int

    def apart(self, results: Sequence[jax.Array]) -> list[jax.Array]:
        """Return what is [..., B, F] of all of them as [calls, ..., B, F]."""
        return [jnp.moveaxis(r.reshape(*r.shape[:-2], self.calls, -1, r.shape[-1]), -3, 0) for r in results]


def join(inputs: Recurrence, axes: Any) -> Joined | None:
    """Return recurrences of one layer as one, None where their weights differ.

    `axes` holds, in the place of each array, the axis along which it is batched, or None.
    """
    if jax.tree.leaves(axes.layers):
        return None
    moved = [
        (inputs.x, axes.x),
        (inputs.valid, axes.valid),
        (inputs.restart, axes.restart),
        *zip(inputs.states[0], axes.states[0], strict=True),
    ]
    count = next(array.shape[axis] for array, axis in moved if axis is not None)

    def joined(array: Any, axis: int | None, rows: int) -> Any:
        """Put what is batched before the rows, and join both."""
        if array is None:
            return None
        if axis is None:
            shape = (*array.shape[:rows], count, *array.shape[rows:])
            array = jnp.broadcast_to(jnp.expand_dims(array, rows), shape)
        else:
            array = jnp.moveaxis(array, axis, rows)
        return array.reshape(*array.shape[:rows], -1, array.shape[-1])

    (state,), (of_state,) = inputs.states, axes.states
    whole = inputs._replace(
        x=joined(inputs.x, axes.x, 1),
        states=(type(state)(*(joined(s, axis, 0) for s, axis in zip(state, of_state, strict=True))),),
        valid=joined(inputs.valid, axes.valid, 1),
        restart=joined(inputs.restart, axes.restart, 1),
    )
    return Joined(whole, count)
