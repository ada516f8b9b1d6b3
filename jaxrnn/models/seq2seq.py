"""Many to many, of unequal lengths: an encoder reads the source, a decoder writes the target.

Sutskever et al. (2014), https://arxiv.org/abs/1409.3215, without attention; with it Bahdanau et al. (2015),
https://arxiv.org/abs/1409.0473.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.dropout import Dropout, check_masks
from jaxrnn.init import torch_embedding, torch_linear
from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.models.parts import LayerClass, embed
from jaxrnn.single_head_attention import Attention


class Memory(NamedTuple):
    """What a decoder looks at in every step."""

    projected: jax.Array  # [B, S, P], what attention needs of the keys
    values: jax.Array  # [B, S, F]
    padding: jax.Array  # bool [B, S], True where nothing may be looked at


class DecoderState(NamedTuple):
    """What a decoder goes on from; every leaf has the batch first, so that rows can be chosen."""

    hx: Any  # of the recurrent layer: [B, L, H], or (h, c)
    memory: Memory | None


def shift_right(targets: Int[Array, "B T"], bos: int) -> Int[Array, "B T"]:
    """Return what a decoder is given to predict `targets`: the token `bos`, and all targets but the last."""
    return jnp.concatenate([jnp.full_like(targets[:, :1], bos), targets[:, :-1]], 1)


class Encoder(nnx.Module):
    """Embeds tokens, drops, and applies a recurrent layer, in one or both directions."""

    def __init__(
        self,
        layer: LayerClass,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        self.embedding = torch_embedding(vocabulary_size, embedding_size, rngs=rngs, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.rnn = layer(
            embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, rngs=rngs,
            param_dtype=param_dtype,
        )  # fmt: skip

    def __call__(
        self,
        source: Int[Array, "B S"],
        lengths: Any = None,
        *,
        dropout_mask: Bool[Array, "B S E"] | None = None,
    ) -> tuple[Float[Array, "B S F"], Any]:
        """Return the last layer's outputs, zero in the padding, and all final states, as layers do."""
        return self.rnn(
            self.dropout(embed(self.embedding, source, "source [B, S]"), dropout_mask), lengths=lengths
        )


class Decoder(nnx.Module):
    """Predicts the next token from those before it and, with attention, from a memory::

        c_t = attention(h_{t-1}, memory)            h of the last layer
        h_t = layer([embedding(y_{t-1}), c_t], h_{t-1})
        logits_t = W [h_t, c_t] + b

    as Bahdanau et al. (2015), whose readout is a deeper one. Without attention there is no c, and all steps are one
    call of the layer: a language model that starts from a given state.

    `layer` and `attention` are classes, for example `jaxrnn.GRU` and `jaxrnn.AdditiveAttention`; `memory_size`
    says how many features has what attention looks at.
    """

    def __init__(
        self,
        layer: LayerClass,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: Callable[..., Attention] | None = None,
        memory_size: int = 0,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        if (attention is None) == (memory_size > 0):
            raise ValueError(
                f"attention={attention} and memory_size={memory_size}: attention looks at a memory, so give both "
                "or neither."
            )
        given: Any = {"rngs": rngs, "param_dtype": param_dtype}
        self.embedding = torch_embedding(vocabulary_size, embedding_size, **given)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.attention = None if attention is None else attention(hidden_size, memory_size, **given)
        self.rnn = layer(embedding_size + memory_size, hidden_size, num_layers, batch_first=True, **given)
        self.readout = torch_linear(hidden_size + memory_size, vocabulary_size, **given)

    def begin(
        self,
        hx: Any,
        memory: Float[Array, "B S F"] | None = None,
        padding: Bool[Array, "B S"] | None = None,
    ) -> DecoderState:
        """Return the state in front of the first token: `hx` [B, L, H], or (h, c), and the memory to look at.

        `padding` is True where the memory holds nothing.
        """
        if (memory is None) != (self.attention is None):
            raise ValueError(
                "a decoder without attention has no use for a memory."
                if self.attention is None
                else f"{type(self.attention).__name__} needs a memory [B, S, features] to look at."
            )
        if memory is None or self.attention is None:
            return DecoderState(hx, None)
        if padding is None:
            padding = jnp.zeros(memory.shape[:2], bool)
        return DecoderState(hx, Memory(self.attention.project_keys(memory), memory, padding))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        *,
        dropout_mask: Bool[Array, "B T E"] | None = None,
    ) -> tuple[Float[Array, "B T V"], DecoderState]:
        """Return the logits of what follows each token, and the state behind the last."""
        features, _, state = self._run(tokens, state, dropout_mask)
        return self.readout(features), state

    def attention_weights(
        self,
        tokens: Int[Array, "B T"],
        state: DecoderState,
        *,
        dropout_mask: Bool[Array, "B T E"] | None = None,
    ) -> Float[Array, "B T S"]:
        """Return how much each step looks at each place of the memory."""
        if self.attention is None:
            raise ValueError("a decoder without attention has no weights; construct it with attention=....")
        return self._run(tokens, state, dropout_mask)[1]

    def step(self, tokens: Int[Array, " B"], state: DecoderState) -> tuple[Float[Array, "B V"], DecoderState]:
        """Return the logits of what follows the tokens, and the state behind them."""
        logits, state = self(tokens[:, None], state)
        return logits[:, 0], state

    def _run(self, tokens: Array, state: DecoderState, mask: Array | None) -> tuple[Array, Any, DecoderState]:
        """Return the features that are read out [B, T, F], the weights [B, T, S] or None, and the final state."""
        x = self.dropout(embed(self.embedding, tokens), mask)
        hx = _layers_first(state.hx)
        if self.attention is None:
            features, hx = self.rnn(x, hx)
            return features, None, state._replace(hx=_batch_first(hx))
        attention, memory = self.attention, state.memory
        assert memory is not None

        def advance(hx: Any, x: Array) -> Any:
            last = jax.tree.leaves(hx)[0][-1]
            context, weights = attention.attend(last, memory.projected, memory.values, memory.padding)
            h, hx = self.rnn(jnp.concatenate([x, context], -1)[:, None], hx)
            return hx, (jnp.concatenate([h[:, 0], context], -1), weights)

        hx, outputs = lax.scan(advance, hx, jnp.swapaxes(x, 0, 1))
        features, weights = (jnp.swapaxes(each, 0, 1) for each in outputs)
        return features, weights, state._replace(hx=_batch_first(hx))


class Seq2Seq(nnx.Module):
    """Encoder and decoder: logits of each token of a target, given the source and the tokens before::

        model = Seq2Seq(
            jaxrnn.GRU, 32_000, 32_000, 256, 512, attention=jaxrnn.AdditiveAttention, bidirectional=True,
            rngs=nnx.Rngs(0),
        )
        logits = model(source, shift_right(target, bos=1), lengths)
        tokens, lengths, log_probs = beam_search(model, source, lengths, bos=1, eos=2, max_length=50, width=5)

    The decoder begins with the final states of the encoder, layer by layer. Those of a bidirectional encoder pass
    through a linear map that the layers share: `bridge.0` of [forward h, backward h], an LSTM's `bridge.1` of c.
    (Bahdanau et al. use the backward h alone, behind a tanh.) What is dropped, in training, are embeddings.
    """

    def __init__(
        self,
        layer: LayerClass,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: Callable[..., Attention] | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
    ):
        sizes = (embedding_size, hidden_size, num_layers)
        given: Any = {"rngs": rngs, "param_dtype": param_dtype}
        self.encoder = Encoder(
            layer, source_vocabulary, *sizes, bidirectional=bidirectional, dropout=dropout, **given
        )
        read = hidden_size * (1 + bidirectional)
        fields = len(self.encoder.rnn.cell.state._fields) if bidirectional else 0
        self.bridge = nnx.List([torch_linear(read, hidden_size, **given) for _ in range(fields)])
        self.decoder = Decoder(
            layer, target_vocabulary, *sizes, attention=attention, memory_size=read if attention else 0,
            dropout=dropout, **given,
        )  # fmt: skip

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        lengths: Any = None,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of what follows each token of `target`, which begins with BOS: see `shift_right`.

        * `lengths`: of the sources, int [B], 0 to S. A source of length 0 is read as nothing: zero states, and with
          attention a context of zeros.
        * `dropout_masks`: which numbers of the embeddings to keep, in place of draws: "encoder.dropout" [B, S, E]
          and "decoder.dropout" [B, T, E].
        """
        masks = check_masks(self, dropout_masks)
        state = self._start(source, lengths, masks.get("encoder.dropout"))
        return self.decoder(target, state, dropout_mask=masks.get("decoder.dropout"))[0]

    def attention_weights(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        lengths: Any = None,
        *,
        dropout_masks: Mapping[str, Array] | None = None,
    ) -> Float[Array, "B T S"]:
        """Return how much each step of the decoder looks at each token of the source."""
        masks = check_masks(self, dropout_masks)
        state = self._start(source, lengths, masks.get("encoder.dropout"))
        return self.decoder.attention_weights(target, state, dropout_mask=masks.get("decoder.dropout"))

    def start(self, source: Int[Array, "B S"], lengths: Any = None) -> DecoderState:
        """Return the decoder's state in front of its first token, for `step` and `jaxrnn.models.decoding`."""
        return self._start(source, lengths, None)

    def step(self, tokens: Int[Array, " B"], state: DecoderState) -> tuple[Float[Array, "B V"], DecoderState]:
        """Return the logits of what follows the tokens, and the state behind them."""
        return self.decoder.step(tokens, state)

    def _start(self, source: Array, lengths: Any, mask: Array | None) -> DecoderState:
        if lengths is not None:
            lengths = check_lengths(lengths, *source.shape)
        outputs, hx = self.encoder(source, lengths, dropout_mask=mask)
        hx = _batch_first(hx)
        if self.bridge:
            states, structure = jax.tree.flatten(hx)
            joined = [
                s.reshape(s.shape[0], -1, 2 * s.shape[-1]) for s in states
            ]  # of index 2 * layer + direction
            states = [bridge(state) for bridge, state in zip(self.bridge, joined, strict=True)]
            hx = jax.tree.unflatten(structure, states)
        if self.decoder.attention is None:
            return self.decoder.begin(hx)
        padding = None if lengths is None else ~length_mask(lengths, source.shape[1])
        return self.decoder.begin(hx, outputs, padding)


def _batch_first(hx: Any) -> Any:
    return jax.tree.map(lambda state: jnp.swapaxes(state, 0, 1), hx)


_layers_first = _batch_first  # it swaps the two
