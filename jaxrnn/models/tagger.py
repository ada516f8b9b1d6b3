"""Many to many, in step: a label for every step of a sequence."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn.init import torch_linear
from jaxrnn.models.parts import LayerClass


class Tagger(nnx.Module):
    """Scores the classes at every step::

        logits_t = W h_t + b               bidirectional:   logits_t = W [h_t ; h_t'] + b

    One direction has seen the steps up to t, two have seen all. `layer` is the class of the recurrent layer.
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
    ) -> Float[Array, "B T C"]:
        """Return the logits; those of padding say nothing, so mask their loss (`losses.masked_mean`)."""
        output, _ = self.rnn(x, lengths=lengths)
        return self.fc(output)
