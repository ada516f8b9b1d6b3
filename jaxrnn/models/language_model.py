"""What comes next in a text: logits of the next token at every step, and the state to go on from."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn.dropout import Dropout, check_masks
from jaxrnn.init import torch_embedding, torch_linear
from jaxrnn.models.parts import LayerClass, embed


class LanguageModel(nnx.Module):
    """Embedding, recurrent layers, and a readout at every step::

        logits_t = W h_t + b,    P(token_{t+1} | token_1 ... token_t) = softmax(logits_t)

    In training mode a fraction `dropout` of the numbers in embeddings, between layers and in outputs is dropped,
    but not from one step to the next (Zaremba et al., 2014, https://arxiv.org/abs/1409.2329). The state goes in and
    comes out, so that a text can be read in pieces: truncated backpropagation through time.
    """

    def __init__(
        self,
        layer: LayerClass,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        made: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.embedding = torch_embedding(vocabulary_size, embedding_size, **made)
        between = dropout if num_layers > 1 else 0.0
        self.rnn = layer(embedding_size, hidden_size, num_layers, batch_first=True, dropout=between, **made)
        self.fc = torch_linear(hidden_size, vocabulary_size, **made)
        self.embedding_dropout = Dropout(dropout, rngs=rngs)
        self.output_dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "B T"], hx: Any = None, *, dropout_masks: Mapping[str, Any] | None = None
    ) -> tuple[Float[Array, "B T V"], Any]:
        """Return the logits and the state after the last step; `hx` is one that came back, or None for zeros.

        `dropout_masks`: what "embedding_dropout" [B, T, E] and "output_dropout" [B, T, H] keep, and "rnn", a list
        of [B, T, H] for each layer but the last; in place of draws.
        """
        masks = check_masks(self, dropout_masks)
        x = self.embedding_dropout(embed(self.embedding, tokens), masks.get("embedding_dropout"))
        output, state = self.rnn(x, hx, dropout_masks=masks.get("rnn"))
        return self.fc(self.output_dropout(output, masks.get("output_dropout"))), state

    def start(self, batch_size: int) -> Any:
        """Return the state in front of a text, batch first on every leaf: zeros."""
        shape = (batch_size, self.rnn.num_layers, self.rnn.hidden_size)
        h = jnp.zeros(shape, self.fc.kernel.dtype)
        return (h, h) if "c" in self.rnn.cell.state._fields else h

    def step(self, tokens: Int[Array, " B"], state: Any) -> tuple[Float[Array, "B V"], Any]:
        """Return the logits of what follows the tokens, and the state behind them, batch first like `start`'s."""
        swapped = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), state)
        logits, after = self(tokens[:, None], swapped)
        return logits[:, 0], jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), after)
