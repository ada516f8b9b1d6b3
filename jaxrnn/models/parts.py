"""What the models of this room share: tokens looked up, and states read out."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn import checks
from jaxrnn.layers.recurrent import RecurrentLayer
from jaxrnn.lengths import is_traced

LayerClass: TypeAlias = Callable[..., RecurrentLayer]  # say, `jaxrnn.LSTM`


def embed(table: nnx.Embed, tokens: Int[Array, "*S"], form: str = "tokens [B, T]") -> Float[Array, "*S E"]:
    """Return the rows of a table that tokens name; `check_tokens` says what becomes of others."""
    return table(check_tokens(form, tokens, table))


def check_tokens(form: str, tokens: Any, table: nnx.Embed | None) -> Int[Array, "*S"]:
    """Return tokens as an array of the form "name [axes]"; with a table, where one names no row, it is beyond it.

    Such a token is an IndexError, as in torch; where values are not known yet, in compiled code, its row is NaN.
    (Left to JAX, -1 would name the last row.)
    """
    name, axes = form.split(" ", 1)
    array = checks.check_array(name, tokens)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, the numbers of tokens, but got dtype {array.dtype}.")
    if array.ndim != 1 + axes.count(","):
        raise ValueError(
            f"{name} should be of shape {axes}, got {array.shape}. A single row is a batch of one."
        )
    if table is None or not array.size:
        return array
    rows = table.num_embeddings
    if is_traced(tokens):
        return jnp.where(array < 0, rows, array)
    known = np.asarray(tokens)  # in NumPy, which `jit` does not trace
    if known.min() < 0 or known.max() >= rows:
        raise IndexError(
            f"index out of range in self: {name} has numbers from {known.min()} to {known.max()}, but the "
            f"vocabulary has {rows} tokens, counted from 0."
        )
    return array


def last_features(rnn: RecurrentLayer, x: Float[Array, "B T I"], **options: Any) -> Float[Array, "B F"]:
    """Return the last layer's hidden state at the end, both directions side by side.

    Each direction's has read the whole sequence; of the output at the last step, the reverse half has read one.
    """
    _, state = rnn(x, **options)
    h: jax.Array = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return jnp.concatenate(h[-2:], axis=-1) if rnn.bidirectional else h[-1]
