"""Many to many, of unequal lengths: an encoder reads the source, a decoder writes the target, step by step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torch_ref.dropout import Dropout, Masks, check_masks
from torch_ref.ops import valid_steps
from torch_ref.single_head_attention import Attention


class Memory(NamedTuple):
    """What a decoder looks at in every step."""

    projected: Tensor  # [B, S, P]
    values: Tensor  # [B, S, F]
    padding: Tensor  # bool [B, S]


class DecoderState(NamedTuple):
    """What a decoder goes on from."""

    hx: tuple[Tensor, ...]  # h, or h and c, each [B, L, H]
    memory: Memory | None


def shift_right(targets: Tensor, bos: int) -> Tensor:
    """Return the token `bos` and all `targets` [B, T] but the last."""
    return torch.cat([torch.full_like(targets[:, :1], bos), targets[:, :-1]], 1)


class Encoder(nn.Module):
    """Embeds tokens, drops, and applies a recurrent layer of `torch_ref`, in one or both directions."""

    def __init__(
        self,
        layer: type[Any],
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.dropout = Dropout(dropout)
        self.rnn: Any = layer(
            embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional
        )

    def forward(
        self, source: Tensor, lengths: Tensor | None = None, *, dropout_mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return outputs [B, S, D*H], zero in the padding, and final states, each [B, L*D, H]."""
        outputs, hx = self.rnn(self.dropout(self.embedding(source), dropout_mask), lengths=lengths)
        states = hx if isinstance(hx, tuple) else (hx,)
        return outputs, tuple(state.transpose(0, 1) for state in states)


class Decoder(nn.Module):
    """Predicts the next token from those before it and, with attention, from a memory::

        c_t = attention(h_{t-1}, memory)            h of the last layer
        h_t = layer([embedding(y_{t-1}), c_t], h_{t-1})
        logits_t = W [h_t, c_t] + b

    as Bahdanau et al. (2015), https://arxiv.org/abs/1409.0473, whose readout is a deeper one. Without attention
    there is no c.
    """

    def __init__(
        self,
        layer: type[Any],
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: Callable[..., Attention] | None = None,
        memory_size: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.dropout = Dropout(dropout)
        self.attention = None if attention is None else attention(hidden_size, memory_size)
        self.rnn: Any = layer(embedding_size + memory_size, hidden_size, num_layers, batch_first=True)
        self.readout = nn.Linear(hidden_size + memory_size, vocabulary_size)

    def begin(
        self, hx: tuple[Tensor, ...], memory: Tensor | None = None, padding: Tensor | None = None
    ) -> DecoderState:
        """Return the state in front of the first token."""
        if memory is None or self.attention is None:
            return DecoderState(hx, None)
        if padding is None:
            padding = torch.zeros(memory.shape[:2], dtype=torch.bool)
        return DecoderState(hx, Memory(self.attention.project_keys(memory), memory, padding))

    def forward(
        self, tokens: Tensor, state: DecoderState, *, dropout_mask: Tensor | None = None
    ) -> tuple[Tensor, DecoderState]:
        """Return the logits [B, T, V] of what follows each token, and the state behind the last."""
        logits, _, state = self._run(tokens, state, dropout_mask)
        return logits, state

    def attention_weights(
        self, tokens: Tensor, state: DecoderState, *, dropout_mask: Tensor | None = None
    ) -> Tensor:
        """Return how much each step looks at each place of the memory: [B, T, S]."""
        return self._run(tokens, state, dropout_mask)[1]

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Return the logits [B, V] of what follows the tokens [B], and the state behind them."""
        logits, state = self(tokens[:, None], state)
        return logits[:, 0], state

    def _run(
        self, tokens: Tensor, state: DecoderState, dropout_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, DecoderState]:
        embedded = self.dropout(self.embedding(tokens), dropout_mask)
        logits, weights = [], []
        for x in embedded.unbind(1):
            logits_t, weights_t, state = self._advance(x, state)
            logits.append(logits_t)
            weights.append(weights_t)
        return torch.stack(logits, 1), torch.stack(weights, 1), state

    def _advance(self, x: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, DecoderState]:
        """One step on an embedding [B, E]."""
        context, weights = x[:, :0], x[:, :0]
        if self.attention is not None and state.memory is not None:
            context, weights = self.attention.attend(state.hx[0][:, -1], *state.memory)
        hx = tuple(s.transpose(0, 1).contiguous() for s in state.hx)
        h, new = self.rnn(torch.cat([x, context], -1)[:, None], hx if len(hx) > 1 else hx[0])
        new = new if isinstance(new, tuple) else (new,)
        logits = self.readout(torch.cat([h[:, 0], context], -1))
        return logits, weights, DecoderState(tuple(s.transpose(0, 1) for s in new), state.memory)


class Seq2Seq(nn.Module):
    """Encoder and decoder: logits of each token of a target, given the source and the tokens before.

    The decoder begins with the final states of the encoder, layer by layer. Those of a bidirectional encoder pass
    through a linear map that the layers share: `bridge.0` of [forward h, backward h], an LSTM's `bridge.1` of c.
    """

    def __init__(
        self,
        layer: type[Any],
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: Callable[..., Attention] | None = None,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (embedding_size, hidden_size, num_layers)
        self.encoder = Encoder(layer, source_vocabulary, *sizes, bidirectional=bidirectional, dropout=dropout)
        read = hidden_size * (1 + bidirectional)
        fields = len(self.encoder.rnn.cell.state._fields) if bidirectional else 0  # h, or h and c
        self.bridge = nn.ModuleList([nn.Linear(read, hidden_size) for _ in range(fields)])
        memory_size = 0 if attention is None else read
        self.decoder = Decoder(
            layer, target_vocabulary, *sizes, attention=attention, memory_size=memory_size, dropout=dropout
        )

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        lengths: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the logits [B, T, V] of what follows each token of `target` [B, T], which begins with BOS.

        `lengths` [B] are those of the sources [B, S]; `dropout_masks` say what to keep of the embeddings, by the
        names of the modules that drop: "encoder.dropout" and "decoder.dropout".
        """
        masks = check_masks(self, dropout_masks)
        state = self._start(source, lengths, masks.get("encoder.dropout"))
        return self.decoder(target, state, dropout_mask=masks.get("decoder.dropout"))[0]

    def attention_weights(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return how much each step of the decoder looks at each token of the source: [B, T, S]."""
        return self.decoder.attention_weights(target, self.start(source, lengths))

    def start(self, source: Tensor, lengths: Tensor | None = None) -> DecoderState:
        """Return the decoder's state in front of its first token."""
        return self._start(source, lengths, None)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Return the logits [B, V] of what follows the tokens [B], and the state behind them."""
        return self.decoder.step(tokens, state)

    def _start(self, source: Tensor, lengths: Any, dropout_mask: Tensor | None) -> DecoderState:
        outputs, hx = self.encoder(source, lengths, dropout_mask=dropout_mask)
        if self.bridge:  # index 2 * layer + direction: the directions side by side
            joined = (state.unflatten(1, (-1, 2)).flatten(2) for state in hx)
            hx = tuple(bridge(state) for bridge, state in zip(self.bridge, joined, strict=True))
        padding = None if lengths is None else ~valid_steps(torch.as_tensor(lengths), source.shape[1]).T
        return self.decoder.begin(hx, outputs, padding)
