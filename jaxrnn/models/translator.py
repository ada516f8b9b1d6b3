"""From one sequence of tokens to another: the Transformer with embeddings, positions and a readout."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.dropout import Dropout, check_masks, dropping, masks_for
from jaxrnn.init import torch_linear
from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.models.parts import check_tokens
from jaxrnn.models.transformer import Transformer
from jaxrnn.models.transformer_layers import Activation, LayerCache


def sinusoidal_positions(
    length: int, features: int, dtype: Any = jnp.float32
) -> Float[Array, "length features"]:
    """Return what is added to embeddings, so that a Transformer knows their positions t::

        p[t, 2i] = sin(t / 10000^(2i / features)),    p[t, 2i + 1] = cos(t / 10000^(2i / features))

    as Vaswani et al. (2017) define it, rounded once. `features` may be odd.
    """
    feature = np.arange(features)
    angles = np.arange(length)[:, None] / 10000 ** ((feature - feature % 2) / features)
    return jnp.asarray(np.where(feature % 2, np.cos(angles), np.sin(angles)), dtype)


class TranslatorState(NamedTuple):
    """What a translation keeps between steps; the batch is the first axis of every leaf."""

    caches: tuple[LayerCache, ...]
    source_padding: jax.Array  # [B, S], True where the source is padding
    position: jax.Array  # [B], how many tokens of the target there have been


class TransformerTranslator(nnx.Module):
    """A Transformer from source tokens to target tokens (Vaswani et al., 2017)::

        x = dropout(sqrt(E) source_embedding[source] + positions)
        y = dropout(sqrt(E) target_embedding[target] + positions)
        logits = fc(transformer(x, y))

    Each position of the target sees the source and the target up to itself. `max_length` bounds the targets that
    `step` can make, and is the length of its caches; a call with a whole target is not bound by it.
    """

    def __init__(
        self,
        source_tokens: int,
        target_tokens: int,
        *,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        norm_first: bool = False,
        max_length: int = 256,
        rngs: nnx.Rngs,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        if max_length < 1:
            raise ValueError(
                f"max_length must be greater than zero, the longest target to make; got {max_length}."
            )
        given: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.source_embedding = nnx.Embed(source_tokens, d_model, **given)  # of variance 1 / E
        self.target_embedding = nnx.Embed(target_tokens, d_model, **given)
        self.source_dropout, self.target_dropout = (Dropout(dropout, rngs=rngs) for _ in range(2))
        self.transformer = Transformer(
            d_model,
            nhead,
            num_encoder_layers,
            num_decoder_layers,
            dim_feedforward,
            dropout,
            activation,
            batch_first=True,
            norm_first=norm_first,
            precision=precision,
            **given,
        )
        self.fc = torch_linear(d_model, target_tokens, precision=precision, **given)
        self.max_length, self.dtype = max_length, dtype

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        lengths: Any = None,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of what follows each token of `target`, which starts with the token for the start.

        `lengths` [B] are those of the sources; nothing behind them reaches a result. `dropout_masks` go by name:
        "source_dropout" [B, S, E], "target_dropout" [B, T, E], and the rest as for `Transformer`, below
        "transformer.".
        """
        masks = check_masks(self, dropout_masks)
        target = check_tokens("target [B, T]", target, self.target_embedding)
        source, padding = self._masked(source, lengths)
        if target.shape[0] != source.shape[0]:
            raise ValueError(
                f"source and target must have one batch size, but are of shapes {source.shape} and {target.shape}."
            )
        x = self.source_dropout(self._positioned(self.source_embedding, source), masks.get("source_dropout"))
        y = self.target_dropout(self._positioned(self.target_embedding, target), masks.get("target_dropout"))
        causal = jnp.triu(jnp.ones((target.shape[1], target.shape[1]), bool), 1)
        output = self.transformer(
            x,
            y,
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            **masks_for("transformer", masks),
        )
        return self.fc(output)

    def encode(self, source: Int[Array, "B S"], lengths: Any = None) -> Float[Array, "B S E"]:
        """Return the memory of the sources; what is behind their `lengths` is of no meaning."""
        return self._encode(*self._masked(source, lengths))

    def start(self, source: Int[Array, "B S"], lengths: Any = None) -> TranslatorState:
        """Return the state from which `step` makes targets; the sources are encoded here, once."""
        self._check_calm()
        source, padding = self._masked(source, lengths)
        decoder: Any = self.transformer.decoder
        caches = decoder.start(self._encode(source, padding), self.max_length)
        return TranslatorState(caches, padding, jnp.zeros(len(source), jnp.int32))

    def step(
        self, tokens: Int[Array, " B"], state: TranslatorState
    ) -> tuple[Float[Array, "B V"], TranslatorState]:
        """Return the logits of what follows the tokens, one a row, and the state with them in it.

        Equal to what a call returns for the last token of the target so far. It works in a `lax.scan`, and rows of
        the state can be gathered, as a beam search does. After `max_length` steps the logits are NaN, since there
        is no room in the caches.
        """
        self._check_calm()
        tokens = check_tokens("tokens [B]", tokens, self.target_embedding)
        x = self._embedded(self.target_embedding, tokens)
        x += sinusoidal_positions(self.max_length, x.shape[-1], x.dtype)[state.position]
        decoder: Any = self.transformer.decoder
        output, caches = decoder.step(x[:, None], state.caches, state.position, state.source_padding)
        logits = jnp.where(state.position[:, None] < self.max_length, self.fc(output[:, 0]), jnp.nan)
        return logits, TranslatorState(caches, state.source_padding, state.position + 1)

    def _masked(self, source: Any, lengths: Any) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
        """Return the source with token 0 in its padding, whatever is there, and where that is."""
        if lengths is None:
            source = check_tokens("source [B, S]", source, self.source_embedding)
            return source, jnp.zeros(source.shape, bool)
        source = check_tokens("source [B, S]", source, None)
        padding = ~length_mask(check_lengths(lengths, *source.shape), source.shape[1])
        return check_tokens("source [B, S]", jnp.where(padding, 0, source), self.source_embedding), padding

    def _encode(self, source: Int[Array, "B S"], padding: Bool[Array, "B S"]) -> Float[Array, "B S E"]:
        x = self.source_dropout(self._positioned(self.source_embedding, source))
        return self.transformer.encoder(x, src_key_padding_mask=padding)

    def _positioned(self, embedding: nnx.Embed, tokens: Int[Array, "B T"]) -> Float[Array, "B T E"]:
        embedded = self._embedded(embedding, tokens)
        _, length, features = embedded.shape
        return embedded + sinusoidal_positions(length, features, embedded.dtype)

    def _embedded(self, embedding: nnx.Embed, tokens: Int[Array, "..."]) -> Float[Array, "... E"]:
        """Return ``sqrt(E) embedding[token]``, in the dtype that the weights have now; Flax keeps their first."""
        weights = jnp.take(embedding.embedding[...], tokens, axis=0)
        weights = weights if self.dtype is None else weights.astype(self.dtype)
        return math.sqrt(weights.shape[-1]) * weights

    def _check_calm(self) -> None:
        if dropping(self):
            raise ValueError(
                "start and step translate, and dropout would make that random. Call eval() first, and train() to "
                "go on training."
            )
