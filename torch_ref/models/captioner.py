"""One to many: describe an image in words."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from torch_ref.dropout import Masks, check_masks
from torch_ref.models.seq2seq import Decoder, DecoderState
from torch_ref.single_head_attention import Attention


class ImageEncoder(nn.Module):
    """Convolutions of 3 by 3, each followed by a rectifier and halving height and width."""

    def __init__(self, channels: int, features: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(*pair, kernel_size=3, stride=2, padding=1) for pair in pairwise([channels, *features])
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features [B, S, F] of S places, row by row, for images [B, C, H, W]."""
        for conv in self.convs:
            images = conv(images).relu()
        return images.flatten(2).transpose(1, 2)


class Captioner(nn.Module):
    """Writes captions: a language model whose first state is a linear map of what convolutions see::

        h_0 = W mean(features) + b

    As Vinyals et al. (2015), https://arxiv.org/abs/1411.4555, who show the image as the first input instead; with
    `attention` every step looks at the places of the image, as Xu et al. (2015), https://arxiv.org/abs/1502.03044.
    An LSTM's h comes from `bridge.0`, its c from `bridge.1`, for all layers at once.
    """

    def __init__(
        self,
        layer: type[Any],
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        channels: int = 3,
        features: Sequence[int] = (16, 32, 64),
        attention: Callable[..., Attention] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(channels, features)
        seen = features[-1]
        self.decoder = Decoder(
            layer, vocabulary_size, embedding_size, hidden_size, num_layers, attention=attention,
            memory_size=0 if attention is None else seen, dropout=dropout,
        )  # fmt: skip
        fields = len(self.decoder.rnn.cell.state._fields)  # h, or h and c
        self.bridge = nn.ModuleList([nn.Linear(seen, num_layers * hidden_size) for _ in range(fields)])
        self.num_layers = num_layers

    def forward(self, images: Tensor, target: Tensor, *, dropout_masks: Masks | None = None) -> Tensor:
        """Return the logits [B, T, V] of what follows each token of `target` [B, T], which begins with BOS.

        `dropout_masks` say what to keep of the embeddings: "decoder.dropout" [B, T, E].
        """
        mask = check_masks(self, dropout_masks).get("decoder.dropout")
        return self.decoder(target, self.start(images), dropout_mask=mask)[0]

    def attention_weights(self, images: Tensor, target: Tensor) -> Tensor:
        """Return how much each step looks at each place of the image: [B, T, S]."""
        return self.decoder.attention_weights(target, self.start(images))

    def start(self, images: Tensor) -> DecoderState:
        """Return the state in front of the first token."""
        features = self.encoder(images)
        states = (bridge(features.mean(1)) for bridge in self.bridge)
        return self.decoder.begin(tuple(s.unflatten(1, (self.num_layers, -1)) for s in states), features)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Return the logits [B, V] of what follows the tokens [B], and the state behind them."""
        return self.decoder.step(tokens, state)
