"""Many to one: what follows a window of a series."""

from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.dropout import Dropout, Masks, check_masks
from torch_ref.models.parts import LayerClass, last_features


class Forecaster(nn.Module):
    """Predict what follows a window from the output of its last step::

        y = W_fc h[T-1] + b_fc

    `layer` is the class of the recurrent layer, of `torch_ref` or of `torch.nn`; the attributes are `rnn` and
    `fc`.
    """

    def __init__(
        self,
        layer: LayerClass,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 1,
    ) -> None:
        super().__init__()
        self.rnn = layer(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return the prediction [B, output_size] for ``x`` [B, T, I], and the final state, to go on from."""
        output, state = self.rnn(x, hx)
        return self.fc(output[:, -1]), state


class GaussianForecaster(nn.Module):
    """Predict a normal distribution of what follows a window::

    features = dropout(h[T-1])
    mean = W_mean features + b_mean
    variance = softplus(W_spread features + b_spread) + minimum_variance
    """

    def __init__(
        self,
        layer: LayerClass,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 1,
        *,
        dropout: float = 0.0,
        minimum_variance: float = 1e-6,
    ) -> None:
        super().__init__()
        self.rnn = layer(input_size, hidden_size, num_layers, batch_first=True)
        self.mean = nn.Linear(hidden_size, output_size)
        self.spread = nn.Linear(hidden_size, output_size)
        self.minimum_variance = minimum_variance
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, *, dropout_masks: Masks | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and variance [B, output_size]; the mask is for "dropout" [B, H]."""
        masks = check_masks(self, dropout_masks)
        features = self.dropout(last_features(self.rnn, x), masks.get("dropout"))
        spread = self.spread(features)
        variance = torch.logaddexp(spread, torch.zeros_like(spread)) + self.minimum_variance
        return self.mean(features), variance
