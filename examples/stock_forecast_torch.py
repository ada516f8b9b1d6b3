"""The stock forecast in PyTorch; each function has a twin of the same name in `examples/stock_forecast.py`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jaxrnn.data import ForecastDataset, Windows
from torch_ref.models import Forecaster
from torch_ref.train import Epochs

LAYERS: dict[str, type[nn.Module]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def build(name: str, hidden: int, depth: int, seed: int) -> Forecaster:
    """Return the untrained forecaster that PyTorch draws after ``torch.manual_seed(seed)``."""
    torch.manual_seed(seed)
    return Forecaster(LAYERS[name], 1, hidden, depth)


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    """Return the mean squared error; every call starts from a state of zeros."""
    prediction, _ = model(batch.inputs)
    return torch.mean((prediction - batch.targets) ** 2)


def carried_squared_error(model: nn.Module, batch: Any, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared error from a given state, and the state for the next call."""
    prediction, state = model(batch.inputs, state)
    return torch.mean((prediction - batch.targets) ** 2), state


def training(
    model: Forecaster,
    data: ForecastDataset,
    *,
    epochs: int,
    learning_rate: float,
    carry: np.ndarray | None,
    judge: Windows | None,
) -> Epochs:
    """Return the training run, to be iterated: one full batch of all training windows per epoch."""
    batch = _tensors(data.train)
    judged = None if judge is None else _tensors(judge)
    return Epochs(
        model,
        torch.optim.Adam(model.parameters(), lr=learning_rate),
        squared_error if carry is None else carried_squared_error,
        lambda epoch: [batch],
        epochs=epochs,
        carry=None if carry is None else torch.from_numpy(carry),
        validate=None if judged is None else lambda model: squared_error(model, judged).item(),
    )


def predict(model: Forecaster, inputs: np.ndarray) -> np.ndarray:
    """Return the scaled predictions [W, 1] for windows [W, T, 1], each from a state of zeros."""
    with torch.no_grad():
        return model(torch.from_numpy(inputs))[0].numpy()


def weights(model: Forecaster) -> dict[str, np.ndarray]:
    """Return the parameters by name."""
    return {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}


def use_one_thread() -> None:
    """Let PyTorch compute in one thread: tensors this small gain nothing from a second, and wait for it."""
    torch.set_num_threads(1)


def _tensors(windows: Windows) -> Any:
    return Windows(torch.from_numpy(windows.inputs), torch.from_numpy(windows.targets))  # type: ignore[arg-type]
