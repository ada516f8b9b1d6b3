"""Plain functions of torch, and its losses, as modules without parameters, so that the judge can run them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from parity.specs import Call, attribute, parse, require_literals

ROOTS = {"torch.nn.functional": F, "torch.nn": nn}


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "reduction: 'mean' divides"
            )  # of kl_div: it will change one day
            return self.function(*args, **kwargs)


class Loss(Function):
    """A loss of torch as it was written in words: `CrossEntropyLoss(ignore_index=0)`; `options` are its options.

    log_softmax: the first argument, logits, goes through it along the last axis first. Lists become tensors in the
    dtype of the first argument.
    """

    def __init__(self, text: str, *, log_softmax: bool = False) -> None:
        call = parse(text)
        require_literals(call, text)
        if call.args:
            raise ValueError(f"{text!r}: name the options, as in {call.name}(reduction='sum').")
        self.name, self.options = call.name, dict(call.options)
        self.kind, self.is_class = _kind(call, text)
        super().__init__(self._call)
        self.log_softmax = log_softmax
        if self.is_class:
            self.kind(**self._given(torch.zeros([])))  # what torch refuses is refused here

    def __deepcopy__(self, memo: Any) -> Loss:
        copied = type(self).__new__(type(self))
        nn.Module.__init__(copied)
        names = ("name", "options", "kind", "is_class", "log_softmax", "substitution")
        vars(copied).update({name: vars(self)[name] for name in names if name in vars(self)})
        copied.function = copied._call
        return copied

    def _call(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        if self.log_softmax:
            input = F.log_softmax(input, -1)
        given = self._given(input)
        if self.is_class:
            return self.kind(**given)(input, *args, **kwargs)
        return self.kind(input, *args, **kwargs, **given)

    def _given(self, like: Any) -> dict[str, Any]:
        return {
            name: torch.tensor(value, dtype=like.dtype) if isinstance(value, list) else value
            for name, value in self.options.items()
        }


def _kind(call: Call, text: str) -> tuple[Any, bool]:
    name = call.name.removeprefix("torch.nn.").removeprefix("nn.")
    if name.startswith("functional."):
        found = attribute(ROOTS, f"torch.nn.{name}")
        if not callable(found):
            raise ValueError(f"{text!r}: torch.nn.{name} is no function.")
        return found, False
    found = attribute(ROOTS, f"torch.nn.{name}")
    if not (isinstance(found, type) and issubclass(found, nn.modules.loss._Loss | nn.CosineSimilarity)):
        raise ValueError(f"{text!r}: torch.nn.{name} is no loss; write for example CrossEntropyLoss().")
    return found, True


def as_module(reference: Any) -> nn.Module:
    """Return a loss as it is, and a function as a module."""
    return reference if isinstance(reference, nn.Module) else Function(reference)


def behind_log_softmax(loss: nn.Module) -> nn.Module:
    """Return a loss that is given logits."""
    if isinstance(loss, Loss):
        loss = loss.__deepcopy__({})
        loss.log_softmax = True
        return loss
    return Function(lambda logits, *rest: loss(F.log_softmax(logits, -1), *rest))


def options_of(module: Any) -> dict[str, Any]:
    """Return the options of a loss that decide about what it can be asked."""
    if isinstance(module, Loss):
        return module.options
    names = ("ignore_index", "reduction", "blank", "zero_infinity", "label_smoothing", "log_target")
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def name_of(module: Any) -> str:
    """Return the name of a loss's class or function."""
    return module.name.rpartition(".")[2] if isinstance(module, Loss) else type(module).__name__
