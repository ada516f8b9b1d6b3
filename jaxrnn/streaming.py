"""One time step at a time, as data arrive."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrnn.layers.recurrent import RecurrentLayer


def stream(layer: RecurrentLayer) -> Callable[..., tuple[jax.Array, Any]]:
    """Return ``y, state = step(x, state)``, a layer compiled for one time step at a time::

        step, state = jaxrnn.stream(lstm), None
        for x in arriving:              # [B, I], or [I] for a single row
            y, state = step(x, state)   # [B, R], or [R]

    A state of None begins a sequence, with zeros; the state that comes back is what the layer returns and takes as
    ``hx``. The weights are those that the layer has now, and nothing is dropped. All of the layer's checks are made
    when a shape is first seen; from then on a call costs the launching of one compiled program.

    Under `nnx.jit` the layer would be taken apart and put together at each call, which takes longer than the step
    itself. Where each result is waited for, XLA's threads are what remains: on a CPU
    ``jax.config.update("jax_cpu_enable_async_dispatch", False)``, before JAX computes anything, lets the calling
    thread do the work (`docs/performance.md` has the figures).

    A bidirectional layer is refused with `ValueError`: its second direction begins at a sequence's end.
    """
    if not isinstance(layer, RecurrentLayer):
        raise TypeError(
            f"stream takes a recurrent layer, such as RNN, GRU or LSTM, got {type(layer).__name__}. A cell is one "
            "step already: jax.jit it."
        )
    if layer.bidirectional:
        raise ValueError(
            "stream needs a layer of one direction: the reverse direction of a bidirectional layer begins at the "
            "end of a sequence, which has not arrived yet. Call the layer on whole windows instead."
        )
    structure, weights = nnx.split(layer)
    weights = jax.tree.map(lambda array: array, weights)  # as they are now: another shape is compiled later

    @jax.jit
    def step(x: jax.Array, state: Any = None) -> tuple[jax.Array, Any]:
        at_rest = nnx.merge(structure, weights)
        at_rest.eval()
        if x.ndim not in (1, 2):
            raise ValueError(
                f"a step takes one time step, [B, {layer.input_size}] or [{layer.input_size}], got {x.shape}. "
                "Whole sequences go through the layer."
            )
        time_axis = 1 if layer.batch_first and x.ndim == 2 else 0
        y, state = at_rest(jnp.expand_dims(x, time_axis), state)
        return jnp.squeeze(y, time_axis), state

    return step
