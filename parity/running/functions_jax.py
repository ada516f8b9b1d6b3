"""Plain functions of arrays as Flax modules without parameters, so that the judge can run them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxrnn import losses
from parity.specs import attribute, parse

ROOTS = {"jaxrnn.losses": losses, "optax": optax, "jax.nn": jax.nn}


class Function(nnx.Module):
    """A function of arrays as a module; with `log_softmax` its first argument goes through that first."""

    def __init__(self, function: Callable[..., Any], *, log_softmax: bool = False) -> None:
        self.function = function
        self.log_softmax = log_softmax

    def __call__(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        if self.log_softmax:
            input = jax.nn.log_softmax(input, -1)
        return self.function(input, *args, **kwargs)


def as_module(candidate: Any, *, log_softmax: bool = False) -> nnx.Module:
    """Return a module as it is, and a function as a module."""
    if isinstance(candidate, nnx.Module):
        return candidate
    return Function(candidate, log_softmax=log_softmax)


def from_text(text: str) -> Callable[..., Any]:
    """Return the function of `jaxrnn.losses.cross_entropy(label_smoothing=0.1)`: a name and further options."""
    call = parse(text)
    function = attribute(ROOTS, call.name)
    options = {
        name: jnp.asarray(value) if isinstance(value, list) else value for name, value in call.options.items()
    }
    if not callable(function) or call.args:
        raise ValueError(f"{text!r} is no function with named options; write jaxrnn.losses.mse_loss().")
    return functools.partial(function, **options)
