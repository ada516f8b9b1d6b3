"""What the models of this room share: tokens looked up, and states read out."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn import checks
from jaxrnn.layers.recurrent import RecurrentLayer

LayerClass: TypeAlias = Callable[..., RecurrentLayer]  # say, `jaxrnn.LSTM`


def embed(table: nnx.Embed, tokens: Int[Array, "*S"], form: str = "tokens [B, T]") -> Float[Array, "*S E"]:
    """Return the rows of a table that tokens name; `check_tokens` says what becomes of others."""
    return table(check_tokens(form, tokens, table))


def check_tokens(form: str, tokens: Any, table: nnx.Embed | None) -> Int[Array, "*S"]:
    """Return tokens as an array of the form "name [axes]"; with a table, `checks.check_rows` looks at them."""
    name, axes = form.split(" ", 1)
    array = checks.check_array(name, tokens)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, the numbers of tokens, but got dtype {array.dtype}.")
    if array.ndim != 1 + axes.count(","):
        raise ValueError(
            f"{name} should be of shape {axes}, got {array.shape}. A single row is a batch of one."
        )
    if table is None:
        return array
    return checks.check_rows(name, tokens, table.num_embeddings, table="vocabulary", unit="tokens")


def last_features(rnn: RecurrentLayer, x: Float[Array, "B T I"], **options: Any) -> Float[Array, "B F"]:
    """Return the last layer's hidden state at the end, both directions side by side.

    Each direction's has read the whole sequence; of the output at the last step, the reverse half has read one.
    """
    _, state = rnn(x, **options)
    h: jax.Array = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return jnp.concatenate(h[-2:], axis=-1) if rnn.bidirectional else h[-1]
