"""What the registered training runs train, in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torch_ref.models.forecaster import Forecaster


def forecaster(kind: str, sizes: tuple[int, ...], seed: int) -> nn.Module:
    """Return a forecaster with torch's own initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Forecaster(getattr(nn, kind), *sizes)


def squared_error(model: nn.Module, batch: Any) -> torch.Tensor:
    """Return the mean squared error of the prediction."""
    x, y = batch
    prediction, _ = model(x)
    return nn.functional.mse_loss(prediction, y)
