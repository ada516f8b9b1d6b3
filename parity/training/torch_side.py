"""Training in PyTorch, with everything recorded: freely, with nudges of a rounding, or a step at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from parity.gates import PRECISIONS, Array
from parity.optimizers.judge import OptimizerPair
from parity.probe import JITTER
from parity.running.torch_side import default_dtype
from parity.trace import map_leaves

Loss = Callable[[nn.Module, Any], torch.Tensor]  # (model, batch) -> scalar
NUDGE = 4.0  # units of roundoff of a gradient's size, in the runs of a null ensemble


class Recorded(NamedTuple):
    """A run: its losses, and before each step the parameters and gradients (before clipping) by name."""

    losses: Array
    parameters: dict[str, Array]  # [steps + 1, *shape]: the last are those after the last step
    gradients: dict[str, Array]  # [steps, *shape]


def train(
    model: nn.Module,
    loss: Loss,
    optimizer: OptimizerPair,
    batches: Sequence[Any],
    steps: int,
    dtype: str,
    *,
    nudged: int | None = None,
    record: bool = False,
) -> Recorded:
    """Train a copy of a model from its weights rounded to float32.

    nudged: the number of a run whose weights are moved by a unit of roundoff or so, and every gradient by four
    units of its size: what another order of summation might do.
    """
    with default_dtype(dtype):
        model = copy.deepcopy(model).to(torch.float32).to(getattr(torch, dtype))
        parameters = dict(model.named_parameters())
        nudge = None if nudged is None else _Nudge(nudged)
        if nudge is not None:
            nudge.weights(parameters.values())
        made = optimizer.make(parameters)
        data = [_tensors(batch, dtype) for batch in batches]
        losses: list[float] = []
        before: dict[str, list[Array]] = {name: [] for name in parameters}
        gradients: dict[str, list[Array]] = {name: [] for name in parameters}
        for step in range(steps):
            value = _backward(model, loss, data[step % len(data)])
            losses.append(value)
            if nudge is not None:
                nudge.gradients(parameters.values())
            if record:
                _note(before, parameters)
                _note(gradients, {name: p.grad for name, p in parameters.items()})
            _clip_and_step(made, optimizer)
        if record:
            _note(before, parameters)
    return Recorded(np.array(losses), _stacked(before), _stacked(gradients))


def forced(
    model: nn.Module,
    loss: Loss,
    optimizer: OptimizerPair,
    batches: Sequence[Any],
    recorded: Recorded,
    checked: Sequence[int],
    dtype: str,
    *,
    jittered: int | None = None,
) -> dict[str, Array]:
    """Take single steps from a recorded run's parameters; the optimizer remembers that run's gradients.

    Returns `loss3`, `grad3(name)` and `step3(name)` for each step checked (from 0; named from 1).
    jittered: the number of a draw of parameters moved by a few units of roundoff.
    """
    with default_dtype(dtype):
        model = copy.deepcopy(model).to(getattr(torch, dtype))
        parameters = dict(model.named_parameters())
        made = optimizer.make(parameters)
        data = [_tensors(batch, dtype) for batch in batches]
        found: dict[str, Array] = {}
        for step in range(max(checked, default=-1) + 1):
            if step in checked:
                state = copy.deepcopy(made.state_dict())
                _load(parameters, recorded.parameters, step, jittered)
                value = _backward(model, loss, data[step % len(data)])
                found[f"loss{step + 1}"] = np.asarray(value, dtype)
                for name, parameter in parameters.items():
                    found[f"grad{step + 1}({name})"] = _numpy(parameter.grad)
                _clip_and_step(made, optimizer)
                for name, parameter in parameters.items():
                    found[f"step{step + 1}({name})"] = _numpy(parameter)
                made.load_state_dict(state)
            _load(parameters, recorded.parameters, step, None)
            for name, parameter in parameters.items():
                gradient = recorded.gradients[name][step]
                parameter.grad = torch.from_numpy(np.array(gradient)).to(parameter.dtype)
            _clip_and_step(made, optimizer)
    return found


class _Nudge:
    """Moves weights and gradients by roundings."""

    def __init__(self, number: int) -> None:
        self.generator = torch.Generator().manual_seed(number)
        self.unit = PRECISIONS["float32"].unit_roundoff

    def weights(self, parameters: Any) -> None:
        with torch.no_grad():
            for parameter in parameters:
                moves = torch.randn(parameter.shape, generator=self.generator).to(parameter.dtype)
                parameter.mul_(1 + 2 * self.unit * moves)

    def gradients(self, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                moves = torch.randn(parameter.shape, generator=self.generator).to(parameter.dtype)
                size = parameter.grad.square().mean().sqrt()
                parameter.grad = parameter.grad + NUDGE * self.unit * size * moves


def _backward(model: nn.Module, loss: Loss, batch: Any) -> float:
    model.zero_grad()
    value = loss(model, batch)
    value.backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return float(value.detach())


def _clip_and_step(made: torch.optim.Optimizer, optimizer: OptimizerPair) -> None:
    trained = [parameter for group in made.param_groups for parameter in group["params"]]
    if optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(trained, optimizer.clip_norm, foreach=False)
    if optimizer.clip_value is not None:
        nn.utils.clip_grad_value_(trained, optimizer.clip_value, foreach=False)
    made.step()


def _load(
    parameters: Mapping[str, nn.Parameter], recorded: Mapping[str, Array], step: int, jittered: int | None
) -> None:
    rng = None if jittered is None else np.random.default_rng([jittered, step])
    spread = JITTER * PRECISIONS["float32"].unit_roundoff
    with torch.no_grad():
        for name, parameter in parameters.items():
            values = recorded[name][step].astype(np.float64)
            if rng is not None:
                values = (values * (1 + spread * rng.uniform(-1, 1, values.shape))).astype(np.float32)
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float64)).to(parameter.dtype))


def _tensors(batch: Any, dtype: str) -> Any:
    def tensor(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        if leaf.dtype.kind in "iub":
            return torch.from_numpy(leaf.copy())
        return torch.from_numpy(leaf.astype(np.float32)).to(getattr(torch, dtype))

    return map_leaves(tensor, batch)


def _note(places: Mapping[str, list[Array]], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        places[name].append(_numpy(value))


def _numpy(value: Any) -> Array:
    return np.array(value.detach().numpy())


def _stacked(lists: Mapping[str, list[Array]]) -> dict[str, Array]:
    return {name: np.stack(values) for name, values in lists.items() if values}
