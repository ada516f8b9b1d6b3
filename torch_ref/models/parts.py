"""What the models of this room share: states read out, and a dropout whose mask may be given."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref import checks

LayerClass = Callable[..., nn.Module]  # of `torch_ref` or, where no batch is ragged, of `torch.nn`
Masks = Mapping[str, Any] | None  # of dropout, by the names that a model gives its places


def last_features(rnn: nn.Module, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return the last layer's hidden state at the end, both directions side by side."""
    _, state = rnn(x) if lengths is None else rnn(x, lengths=lengths)
    h = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return torch.cat((h[-2], h[-1]), dim=-1) if rnn.bidirectional else h[-1]


class MaskedDropout(nn.Dropout):
    """`torch.nn.Dropout`, in training mode with what a mask keeps where one is given."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what is left of x."""
        if mask is None:
            return super().forward(x)
        if not (self.training and self.p):
            raise ValueError(
                "A dropout mask was given, but nothing is dropped: that needs p > 0 and training mode "
                "(call .train())."
            )
        checks.check_mask("a dropout mask", mask, x.shape)
        return x * mask / (1 - self.p)
