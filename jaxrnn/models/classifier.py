"""Many to one: tell what kind of sequence it was, from what the recurrent layer holds at its end."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn.dropout import Dropout, check_masks
from jaxrnn.init import torch_embedding, torch_linear
from jaxrnn.models.parts import LayerClass, embed, last_features


class Classifier(nnx.Module):
    """Reads a sequence of features to its end and scores the classes::

        logits = W h_T + b                 bidirectional:   logits = W [h_T ; h_1'] + b

    with h_T the last layer's state after the last step, h_1' that of the reverse direction after the first.
    `layer` is the class of the recurrent layer, for example `jaxrnn.LSTM`.
    """

    def __init__(
        self,
        layer: LayerClass,
        input_size: int,
        hidden_size: int,
        num_classes: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        made: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.rnn = layer(
            input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, **made
        )
        self.fc = torch_linear((1 + bidirectional) * hidden_size, num_classes, **made)

    def __call__(
        self, x: Float[Array, "B T I"], lengths: Int[Array, " B"] | None = None
    ) -> Float[Array, "B C"]:
        """Return the logits; `lengths` tell where the rows of a ragged batch end."""
        return self.fc(last_features(self.rnn, x, lengths=lengths))


class TextClassifier(nnx.Module):
    """Reads tokens to their end and scores the classes, as `Classifier` of their embeddings.

    In training mode a fraction `dropout` of the numbers of embeddings and of last states is dropped.
    """

    def __init__(
        self,
        layer: LayerClass,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_classes: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        made: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        self.embedding = torch_embedding(vocabulary_size, embedding_size, **made)
        self.rnn = layer(
            embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, **made
        )
        self.fc = torch_linear((1 + bidirectional) * hidden_size, num_classes, **made)
        self.embedding_dropout = Dropout(dropout, rngs=rngs)
        self.state_dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, " B"] | None = None,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B C"]:
        """Return the logits.

        `dropout_masks`: what "embedding_dropout" [B, T, E] and "state_dropout" [B, D*H] keep, in place of draws.
        """
        masks = check_masks(self, dropout_masks)
        x = self.embedding_dropout(embed(self.embedding, tokens), masks.get("embedding_dropout"))
        h = last_features(self.rnn, x, lengths=lengths)
        return self.fc(self.state_dropout(h, masks.get("state_dropout")))
