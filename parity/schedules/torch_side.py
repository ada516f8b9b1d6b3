"""The rates that a torch scheduler leaves in its optimizer's parameter group."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.gates import Array
from parity.specs import attribute, parse

MOMENTUM = 0.9


def warm_up(updates: int) -> Callable[[int], float]:
    """Return a factor for `LambdaLR` that rises to 1 in some updates."""
    return lambda k: min(1.0, (k + 1) / updates)


def described(text: str) -> tuple[str, dict[str, Any]]:
    """Return a scheduler's name and options.

    Raises:
        ValueError: the text is no call of a scheduler.
    """
    call = parse(text)
    name = call.name.removeprefix("torch.optim.lr_scheduler.")
    if call.args:
        raise ValueError(
            f"{text!r}: name the options, as in StepLR(step_size=7); the optimizer is the probe's."
        )
    return name, dict(call.options)


def rates(text: str, base: float, updates: int, metrics: Array, key: str = "lr") -> Array:
    """Return the group's learning rate (or momentum) at every update."""
    name, _ = described(text)
    call = parse(text)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base, momentum=MOMENTUM)

    def lookup(wanted: str) -> Any:
        if wanted == "warm_up":
            return warm_up
        path = f"torch.optim.lr_scheduler.{name}"
        kind = attribute({"torch.optim.lr_scheduler": torch.optim.lr_scheduler}, path)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.lr_scheduler.LRScheduler)):
            raise ValueError(f"{text!r}: {path} is no scheduler.")
        return lambda **options: kind(optimizer, **options)

    scheduler = call.make(lookup)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of CyclicLR and SequentialLR, about what is done here
        for update in range(updates):
            found.append(float(optimizer.param_groups[0][key]))
            optimizer.step()
            if name == "ReduceLROnPlateau":
                scheduler.step(float(metrics[update]))
            elif update + 1 < updates:  # OneCycleLR cannot be asked further
                scheduler.step()
    return np.array(found)
