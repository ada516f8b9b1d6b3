"""What the models of this room share: the kind of class a layer is, and states read out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LayerClass = Callable[..., nn.Module]  # of `torch_ref` or, where no batch is ragged, of `torch.nn`


def last_features(rnn: nn.Module, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Return the last layer's hidden state at the end, both directions side by side."""
    _, state = rnn(x) if lengths is None else rnn(x, lengths=lengths)
    h = state[0] if isinstance(state, tuple) else state  # [L*D, B, H]
    return torch.cat((h[-2], h[-1]), dim=-1) if rnn.bidirectional else h[-1]
