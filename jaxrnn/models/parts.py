"""What the models of this room share: tokens looked up, states read out, masks handed on."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn import checks
from jaxrnn.layers.recurrent import RecurrentLayer

LayerClass: TypeAlias = Callable[..., RecurrentLayer]  # say, `jaxrnn.LSTM`
Masks: TypeAlias = Mapping[str, Any] | None  # of dropout, by the names that a model gives its places


def embed(table: nnx.Embed, tokens: Int[Array, "*S"]) -> Float[Array, "*S E"]:
    """Return the rows of a table that tokens name.

    A token that names no row is an IndexError, as in torch; where values are not known yet, in compiled code, its
    row is NaN. (Left to JAX, -1 would name the last row.)
    """
    tokens = checks.check_array("tokens", tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(
            f"tokens should be integers, got {tokens.dtype}. They are numbers of words; features go to a layer "
            "directly."
        )
    rows = table.num_embeddings
    if not isinstance(tokens, jax.core.Tracer):
        known = np.asarray(tokens)
        wrong = known[(known < 0) | (known >= rows)]
        if wrong.size:
            raise IndexError(
                f"index out of range in self: token {wrong.flat[0]}, but the vocabulary has {rows}, counted from 0."
            )
    return table(jnp.where(tokens < 0, rows, tokens))


def last_features(rnn: RecurrentLayer, x: Float[Array, "B T I"], **options: Any) -> Float[Array, "B F"]:
    """Return the last layer's hidden state at the end, both directions side by side.

    Each direction's has read the whole sequence; of the output at the last step, the reverse half has read one.
    """
    _, state = rnn(x, **options)
    h: jax.Array = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return jnp.concatenate(h[-2:], axis=-1) if rnn.bidirectional else h[-1]


def check_masks(masks: Masks, places: Mapping[str, bool]) -> Mapping[str, Any]:
    """Return masks that were injected; raise unless they are for all places where something is dropped, or none.

    `places` maps the names of a model's places to whether something is dropped there now.
    """
    if masks is None:
        return {}
    expected = sorted(name for name, drops in places.items() if drops)
    if sorted(masks) != expected:
        raise ValueError(
            f"dropout_masks: expected masks for {expected}, got {sorted(masks)}. Masks are for every place where "
            "something is dropped, which takes a dropout above 0 and training mode (train())."
        )
    return masks
