"""What comes next in a text."""

from typing import Any

from torch import Tensor, nn

from torch_ref.dropout import Dropout, Masks, check_masks
from torch_ref.models.parts import LayerClass


class LanguageModel(nn.Module):
    """Score the next token at every step::

        logits[t] = W_fc output[t] + b_fc

    Embeddings, the outputs of every layer but the last, and the output are dropped out in training.
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
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        between = dropout if num_layers > 1 else 0.0
        self.rnn = layer(embedding_size, hidden_size, num_layers, batch_first=True, dropout=between)
        self.fc = nn.Linear(hidden_size, vocabulary_size)
        self.state_shape = num_layers, hidden_size
        self.two_states = type(self.rnn).__name__ in ("LSTM", "PeepholeLSTM")  # h and c
        self.embedding_dropout = Dropout(dropout)
        self.output_dropout = Dropout(dropout)

    def forward(
        self, tokens: Tensor, hx: Any = None, *, dropout_masks: Masks | None = None
    ) -> tuple[Tensor, Any]:
        """Return the logits [B, T, V] for ``tokens`` [B, T], and the final state, to go on from.

        Masks are for "embedding_dropout" [B, T, E], "output_dropout" [B, T, H] and "rnn", a list of [B, T, H].
        """
        masks = check_masks(self, dropout_masks)
        x = self.embedding_dropout(self.embedding(tokens), masks.get("embedding_dropout"))
        given = {"dropout_masks": masks["rnn"]} if "rnn" in masks else {}
        output, state = self.rnn(x, hx, **given)
        return self.fc(self.output_dropout(output, masks.get("output_dropout"))), state

    def start(self, batch_size: int) -> Any:
        """Return the state in front of a text, batch first: zeros."""
        h = self.fc.weight.new_zeros(batch_size, *self.state_shape)
        return (h, h) if self.two_states else h

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits [B, V] of what follows ``tokens`` [B], and the state behind them."""
        logits, after = self(tokens[:, None], _swapped(state))
        return logits[:, 0], _swapped(after)


def _swapped(state: Any) -> Any:
    """Exchange the axes of layers and batch."""
    if isinstance(state, tuple):
        return tuple(part.transpose(0, 1).contiguous() for part in state)
    return state.transpose(0, 1).contiguous()
