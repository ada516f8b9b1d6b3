"""Runs a torch optimizer on recorded gradients, and says how it was built."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch

from parity.gates import Array
from parity.longhand.optimizers import RULES, Group, Setup
from parity.optimizers.replay import Replay
from parity.running.torch_side import default_dtype
from parity.specs import attribute, parse, require_literals

Parameters = Mapping[str, torch.nn.Parameter]
Factory = Callable[[Parameters], torch.optim.Optimizer]  # named parameters -> an optimizer of some of them


def from_text(text: str) -> Factory:
    """Return the factory of `AdamW(lr=1e-3)`: an optimizer of torch.optim and its options, all literals.

    Raises:
        ValueError: the text is no such call.
    """
    call = parse(text)
    kind = _kind(call.name, text)
    if call.args:
        raise ValueError(
            f"{text!r}: name the options, as in {call.name}(lr=1e-3); the parameters are the probe's."
        )

    def make(parameters: Parameters) -> torch.optim.Optimizer:
        return kind(list(parameters.values()), **{"foreach": False, **call.options})

    require_literals(call, text)
    make({"probe": torch.nn.Parameter(torch.zeros(1))})  # what torch refuses is refused here
    return make


def is_scheduler(name: str) -> bool:
    """Tell the name of a learning rate scheduler."""
    found = getattr(torch.optim.lr_scheduler, name, None)
    return isinstance(found, type) and issubclass(found, torch.optim.lr_scheduler.LRScheduler)


def grouped(text: str, groups: Mapping[str, Mapping[str, Any]], frozen: Collection[str] = ()) -> Factory:
    """Return a factory of an optimizer with parameter groups.

    groups: options by a part of the parameters' names; what has none of these parts has the options of `text`.
    frozen: parts of names that no group has.
    """
    call = parse(text)
    kind = _kind(call.name, text)

    def make(parameters: Parameters) -> torch.optim.Optimizer:
        found: dict[str, list[torch.nn.Parameter]] = {"": [], **{part: [] for part in groups}}
        for name, parameter in parameters.items():
            if not any(part in name for part in frozen):
                found[next((part for part in groups if part in name), "")].append(parameter)
        listed = [{"params": found[part], **groups.get(part, {})} for part in found]
        return kind(listed, **{"foreach": False, **call.options})

    return make


def _kind(name: str, text: str) -> Any:
    found = attribute({"torch.optim": torch.optim}, f"torch.optim.{name.removeprefix('torch.optim.')}")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ValueError(f"{text!r}: torch.optim.{name} is no optimizer.")
    return found


def run(
    make: Factory,
    replay: Replay,
    dtype: str,
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    moved: int = 0,
) -> dict[str, Array]:
    """Return every parameter after every step, `[steps, *shape]`.

    moved: +1 or -1 moves every hyperparameter to the next larger or smaller float64.
    """
    width = getattr(torch, dtype)
    with default_dtype(dtype):  # NAdam keeps a number in it
        parameters = _parameters(replay, width)
        optimizer = make(parameters)
        _move(optimizer, moved)
        base = [group["lr"] for group in optimizer.param_groups]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = {name: torch.from_numpy(np.array(g)).to(width) for name, g in replay.gradients.items()}
        found: dict[str, list[Array]] = {name: [] for name in parameters}
        for k in range(replay.steps):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = float(lr) * float(replay.rates[k])
            for name, parameter in parameters.items():
                parameter.grad = gradients[name][k].clone()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(trained, clip_norm, foreach=False)
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(trained, clip_value, foreach=False)
            optimizer.step()
            for name, parameter in parameters.items():
                found[name].append(parameter.detach().numpy().copy())
    return {name: np.stack(steps) for name, steps in found.items()}


def setup_of(
    make: Factory, replay: Replay, *, clip_norm: float | None = None, clip_value: float | None = None
) -> Setup | None:
    """Return how the optimizer is built; None for one that is not spelled out in `parity.longhand`."""
    parameters = _parameters(replay, torch.float64)
    optimizer = make(parameters)
    kind = type(optimizer).__name__
    if kind not in RULES or not type(optimizer).__module__.startswith("torch.optim"):
        return None
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = []
    for group in optimizer.param_groups:
        options = {key: _plain(value) for key, value in group.items() if key != "params"}
        groups.append(Group(tuple(names[id(p)] for p in group["params"]), options))
    return Setup(kind, tuple(groups), clip_norm, clip_value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _parameters(replay: Replay, width: torch.dtype) -> dict[str, torch.nn.Parameter]:
    return {
        name: torch.nn.Parameter(torch.from_numpy(np.array(value)).to(width))
        for name, value in replay.start.items()
    }


def _move(optimizer: torch.optim.Optimizer, moved: int) -> None:
    if not moved:
        return

    def neighbour(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(neighbour, value))
        if not isinstance(value, float) or value == 0.0:
            return value
        return math.nextafter(value, math.copysign(math.inf, moved * value))

    for group in optimizer.param_groups:
        for name, value in group.items():
            if name != "params":
                group[name] = neighbour(value)
