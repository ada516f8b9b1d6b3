"""Many to one: what kind of sequence it was."""

from torch import Tensor, nn

from torch_ref.dropout import Dropout, Masks, check_masks
from torch_ref.models.parts import LayerClass, last_features


class Classifier(nn.Module):
    """Score the classes by what the recurrent layer holds at the end::

        logits = W_fc h[T-1] + b_fc

    A bidirectional layer's two last states stand side by side: that of the forward direction after the last step,
    that of the reverse one after the first.
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
        """Return the logits [B, C] for ``x`` [B, T, I]."""
        return self.fc(last_features(self.rnn, x, lengths))


class TextClassifier(nn.Module):
    """Score the classes of a sequence of tokens [B, T]: `Classifier` of their embeddings, with dropout."""

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
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.rnn = layer(
            embedding_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional
        )
        self.fc = nn.Linear((1 + bidirectional) * hidden_size, num_classes)
        self.embedding_dropout = Dropout(dropout)
        self.state_dropout = Dropout(dropout)

    def forward(
        self, tokens: Tensor, lengths: Tensor | None = None, *, dropout_masks: Masks | None = None
    ) -> Tensor:
        """Return the logits [B, C]; masks are for "embedding_dropout" [B, T, E] and "state_dropout" [B, D*H]."""
        masks = check_masks(self, dropout_masks)
        x = self.embedding_dropout(self.embedding(tokens), masks.get("embedding_dropout"))
        h = last_features(self.rnn, x, lengths)
        return self.fc(self.state_dropout(h, masks.get("state_dropout")))
