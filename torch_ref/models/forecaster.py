"""Many to one: the next value of a series."""

from typing import Any

from torch import Tensor, nn


class Forecaster(nn.Module):
    """Predict what follows a window from the output of its last step::

        y = W_fc h[T-1] + b_fc

    `layer` is the class of the recurrent layer, of `torch_ref` or of `torch.nn`; the attributes are `rnn` and
    `fc`.
    """

    def __init__(
        self,
        layer: type[nn.Module],
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
