"""Many to many, in step: a label for every step."""

from torch import Tensor, nn

from torch_ref.models.parts import LayerClass


class Tagger(nn.Module):
    """Score the classes at every step::

    logits[t] = W_fc output[t] + b_fc
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
    ) -> None:
        super().__init__()
        self.rnn = layer(input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear((1 + bidirectional) * hidden_size, num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits [B, T, C] for ``x`` [B, T, I]; those of padding say nothing."""
        output, _ = self.rnn(x) if lengths is None else self.rnn(x, lengths=lengths)
        return self.fc(output)
