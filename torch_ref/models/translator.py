"""From one sequence of tokens to another: the Transformer with embeddings, positions and a readout."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torch_ref.checks import check_lengths
from torch_ref.dropout import Dropout, Masks, check_masks, masks_of
from torch_ref.models.transformer import Transformer
from torch_ref.models.transformer_layers import Activation


def sinusoidal_positions(length: int, features: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what is added to embeddings, so that a Transformer knows their positions t::

    p[t, 2i] = sin(t / 10000^(2i / features)),    p[t, 2i + 1] = cos(t / 10000^(2i / features))
    """
    steps, feature = torch.arange(length, dtype=torch.float64), torch.arange(features)
    angles = steps[:, None] / 10000 ** ((feature - feature % 2).double() / features)
    return torch.where(feature % 2 == 1, angles.cos(), angles.sin()).to(dtype)


class TranslatorState(NamedTuple):
    """What a translation keeps between steps: all that there has been."""

    memory: Tensor  # [B, S, E]
    source_padding: Tensor  # [B, S], True where the source is padding
    target: Tensor  # [B, T]


class TransformerTranslator(nn.Module):
    """A Transformer from source tokens to target tokens (Vaswani et al., 2017)::

        x = dropout(sqrt(E) source_embedding[source] + positions)
        y = dropout(sqrt(E) target_embedding[target] + positions)
        logits = fc(transformer(x, y))

    Each position of the target sees the source and the target up to itself.
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
    ) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_tokens, d_model)
        self.target_embedding = nn.Embedding(target_tokens, d_model)
        self.source_dropout, self.target_dropout = Dropout(dropout), Dropout(dropout)
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
        )
        self.fc = nn.Linear(d_model, target_tokens)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=d_model**-0.5)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        lengths: Tensor | None = None,
        *,
        dropout_masks: Masks | None = None,
    ) -> Tensor:
        """Return the logits [B, T, V] of what follows each token of `target`, given sources of these lengths."""
        masks = check_masks(self, dropout_masks)
        source, padding = self._masked(source, lengths)
        x = self.source_dropout(positioned(self.source_embedding, source), masks.get("source_dropout"))
        y = self.target_dropout(positioned(self.target_embedding, target), masks.get("target_dropout"))
        output = self.transformer(
            x,
            y,
            tgt_mask=causal(target),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            dropout_masks=masks_of("transformer", masks),
        )
        return self.fc(output)

    def start(self, source: Tensor, lengths: Tensor | None = None) -> TranslatorState:
        """Return the state from which `step` makes targets."""
        source, padding = self._masked(source, lengths)
        x = positioned(self.source_embedding, source)
        memory = self.transformer.encoder(x, src_key_padding_mask=padding)
        return TranslatorState(memory, padding, source.new_zeros(len(source), 0))

    def step(self, tokens: Tensor, state: TranslatorState) -> tuple[Tensor, TranslatorState]:
        """Return the logits [B, V] of what follows the tokens [B], computing the whole target anew."""
        target = torch.cat([state.target, tokens[:, None]], 1)
        y = positioned(self.target_embedding, target)
        output = self.transformer.decoder(
            y, state.memory, tgt_mask=causal(target), memory_key_padding_mask=state.source_padding
        )
        return self.fc(output[:, -1]), state._replace(target=target)

    def _masked(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the source with token 0 in its padding, and where that is."""
        if lengths is None:
            return source, torch.zeros_like(source, dtype=torch.bool)
        rows, steps = source.shape
        check_lengths(lengths, (rows,), steps)
        padding = torch.arange(steps) >= lengths[:, None]
        return source.masked_fill(padding, 0), padding


def positioned(embedding: nn.Embedding, tokens: Tensor) -> Tensor:
    """Return ``sqrt(E) embedding[tokens] + positions``."""
    embedded = embedding(tokens)
    _, length, features = embedded.shape
    return math.sqrt(features) * embedded + sinusoidal_positions(length, features, embedded.dtype)


def causal(target: Tensor) -> Tensor:
    """Return the mask [T, T] that hides from each position those after it."""
    steps = target.shape[1]
    return torch.ones(steps, steps, dtype=torch.bool).triu(1)
