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


def embed(table: nnx.Embed, tokens: Int[Array, "*S"]) -> Float[Array, "*S E"]:
    """Return the rows of a table that tokens name; `check_tokens` says what becomes of others."""
    return table(check_tokens("tokens", tokens, table))


def check_tokens(name: str, tokens: Int[Array, "*S"], table: nnx.Embed) -> Int[Array, "*S"]:
    """Return tokens as an array; where one names no row, it is beyond the table.

    Such a token is an IndexError, as in torch; where values are not known yet, in compiled code, its row is NaN.
    (Left to JAX, -1 would name the last row.)
    """
    tokens = checks.check_array(name, tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, the numbers of tokens, but got dtype {tokens.dtype}.")
    rows = table.num_embeddings
    if not is_traced(tokens) and tokens.size and not (np.min(tokens) >= 0 and np.max(tokens) < rows):
        raise IndexError(
            f"index out of range in self: {name} has numbers from {np.min(tokens)} to {np.max(tokens)}, but the "
            f"vocabulary has {rows} tokens, counted from 0."
        )
    return jnp.where(tokens < 0, rows, tokens)


def last_features(rnn: RecurrentLayer, x: Float[Array, "B T I"], **options: Any) -> Float[Array, "B F"]:
    """Return the last layer's hidden state at the end, both directions side by side.

    Each direction's has read the whole sequence; of the output at the last step, the reverse half has read one.
    """
    _, state = rnn(x, **options)
    h: jax.Array = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return jnp.concatenate(h[-2:], axis=-1) if rnn.bidirectional else h[-1]
