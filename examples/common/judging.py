"""A trained model and its mirror in PyTorch with the same weights: outputs, gradients, one optimizer step."""

import importlib
import importlib.util
from typing import Any

import numpy as np
from flax import nnx

import jaxrnn
import parity
from examples.common.results import Agreement


def torch_is_installed() -> bool:
    """Tell whether there is a PyTorch to compare with."""
    return importlib.util.find_spec("torch") is not None


def mirror(network: nnx.Module, model: str, *args: Any, **options: Any) -> Any:
    """Return `torch_ref.models.MODEL(*args, **options)` with the weights of a network, in evaluation mode.

    A class of recurrent layers among the arguments, say `jaxrnn.LSTM`, stands for its namesake in `torch_ref`.
    """
    torch, torch_ref = importlib.import_module("torch"), importlib.import_module("torch_ref")
    torch.set_num_threads(1)  # small models; the threads of two frameworks would wait for each other
    args = tuple(getattr(torch_ref, arg.__name__) if isinstance(arg, type) else arg for arg in args)
    twin = getattr(importlib.import_module("torch_ref.models"), model)(*args, **options)
    weights = jaxrnn.state_dict(network)
    twin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return twin.eval()


def judge(
    name: str,
    network: nnx.Module,
    twin: Any,
    probe: parity.Probe,
    *,
    identical: tuple[int, int] | None = None,
) -> Agreement:
    """Judge a trained network by its mirror, in evaluation mode; `identical` is handed on."""
    network.eval()
    report = parity.compare(network, twin, probe)
    return Agreement(name, report.verdict, report.compared, report.numeric_sensitivity, identical)
