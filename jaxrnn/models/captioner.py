"""One to many: describe an image in words."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn import checks
from jaxrnn.dropout import check_masks
from jaxrnn.init import torch_conv, torch_linear
from jaxrnn.models.parts import LayerClass
from jaxrnn.models.seq2seq import Decoder, DecoderState
from jaxrnn.single_head_attention import Attention


class ImageEncoder(nnx.Module):
    """Convolutions of 3 by 3, each followed by a rectifier and halving height and width.

    `features` are those of each convolution.
    """

    def __init__(
        self,
        channels: int,
        features: Sequence[int],
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        self.channels = channels
        self.convs = nnx.List(
            [
                torch_conv(*pair, (3, 3), strides=2, padding=1, rngs=rngs, param_dtype=param_dtype)
                for pair in pairwise((channels, *features))
            ]
        )

    def __call__(self, images: Float[Array, "B C H W"]) -> Float[Array, "B S F"]:
        """Return the features of S places, row by row."""
        images = checks.check_array("images", images)
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images should be [B, {self.channels}, height, width], channels first as in torch, got "
                f"{images.shape}."
            )
        x = jnp.moveaxis(images, 1, -1)  # Flax has channels last
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x.reshape(x.shape[0], -1, x.shape[-1])


class Captioner(nnx.Module):
    """Writes captions: a language model whose first state is a linear map of what convolutions see::

        h_0 = W mean(features) + b

    As Vinyals et al. (2015), https://arxiv.org/abs/1411.4555, who show the image as the first input instead; with
    `attention` every step looks at the places of the image, as Xu et al. (2015), https://arxiv.org/abs/1502.03044.
    An LSTM's h comes from `bridge.0`, its c from `bridge.1`, for all layers at once.

    `layer` and `attention` are classes, for example `jaxrnn.LSTM` and `jaxrnn.AdditiveAttention`. Dropout is of
    embeddings.
    """

    def __init__(
        self,
        layer: LayerClass,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        channels: int = 3,
        features: Sequence[int] = (16, 32, 64),
        attention: Callable[..., Attention] | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        given: Any = {"rngs": rngs, "param_dtype": param_dtype}
        self.encoder = ImageEncoder(channels, features, **given)
        seen = features[-1]
        self.decoder = Decoder(
            layer, vocabulary_size, embedding_size, hidden_size, num_layers, attention=attention,
            memory_size=seen if attention else 0, dropout=dropout, **given,
        )  # fmt: skip
        fields = len(self.decoder.rnn.cell.state._fields)
        self.bridge = nnx.List([torch_linear(seen, num_layers * hidden_size, **given) for _ in range(fields)])

    def __call__(
        self,
        images: Float[Array, "B C H W"],
        target: Int[Array, "B T"],
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of what follows each token of `target`, which begins with BOS: see `shift_right`.

        `dropout_masks`: which numbers of the embeddings to keep, in place of draws: "decoder.dropout" [B, T, E].
        """
        mask = check_masks(self, dropout_masks).get("decoder.dropout")
        return self.decoder(target, self.start(images), dropout_mask=mask)[0]

    def attention_weights(
        self,
        images: Float[Array, "B C H W"],
        target: Int[Array, "B T"],
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T S"]:
        """Return how much each step looks at each place of the image, row by row."""
        mask = check_masks(self, dropout_masks).get("decoder.dropout")
        return self.decoder.attention_weights(target, self.start(images), dropout_mask=mask)

    def start(self, images: Float[Array, "B C H W"]) -> DecoderState:
        """Return the state in front of the first token, for `step` and `jaxrnn.models.decoding`."""
        features = self.encoder(images)
        layers = self.decoder.rnn.num_layers
        states = [bridge(features.mean(1)) for bridge in self.bridge]
        hx = tuple(state.reshape(state.shape[0], layers, -1) for state in states)
        return self.decoder.begin(
            hx if len(hx) > 1 else hx[0], None if self.decoder.attention is None else features
        )

    def step(self, tokens: Int[Array, " B"], state: DecoderState) -> tuple[Float[Array, "B V"], DecoderState]:
        """Return the logits of what follows the tokens, and the state behind them."""
        return self.decoder.step(tokens, state)
