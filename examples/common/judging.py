"""A trained model and its mirror in PyTorch with the same weights: outputs, gradients, one optimizer step."""

import importlib
import importlib.util
from collections.abc import Sequence
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

    A class among the arguments, say `jaxrnn.LSTM`, stands for its namesake in `torch_ref`.
    """
    torch, torch_ref = importlib.import_module("torch"), importlib.import_module("torch_ref")
    torch.set_num_threads(1)  # small models; the threads of two frameworks would wait for each other

    def of_torch(argument: Any) -> Any:
        return getattr(torch_ref, argument.__name__) if isinstance(argument, type) else argument

    options = {name: of_torch(option) for name, option in options.items()}
    twin = getattr(importlib.import_module("torch_ref.models"), model)(*map(of_torch, args), **options)
    return filled(twin, network)


def filled(twin: Any, network: nnx.Module) -> Any:
    """Return a module of PyTorch with the weights of a network put into it, in evaluation mode."""
    torch = importlib.import_module("torch")
    weights = jaxrnn.state_dict(network)
    twin.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return twin.eval()


def tensor(values: Any) -> Any:
    """Return an array as a tensor of PyTorch, whole numbers as int64."""
    made = importlib.import_module("torch").from_numpy(np.asarray(values))
    return made if made.is_floating_point() else made.long()


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


def same_tokens(
    twin: Any, inputs: Sequence[np.ndarray], greedily: Any, by_beams: Any, *, width: int, **search: Any
) -> tuple[int, int]:
    """Return how many tokens a mirror decodes as the network did, and of how many.

    `greedily` [B, L] and `by_beams` [B, W, L] are the network's tokens; `inputs` are what both searches start from.
    """
    torch, models = importlib.import_module("torch"), importlib.import_module("torch_ref.models")
    tensors = [tensor(each) for each in inputs]
    with torch.no_grad():
        pairs = (
            (greedily, models.greedy(twin, *tensors, **search).tokens),
            (by_beams, models.beam_search(twin, *tensors, **search, width=width).tokens),
        )
    equal = sum(int(np.sum(np.asarray(ours) == theirs.numpy())) for ours, theirs in pairs)
    return equal, sum(theirs.numel() for _, theirs in pairs)
