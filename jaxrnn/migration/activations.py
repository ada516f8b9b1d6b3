"""torch's modules without parameters, as one module that looks its function up in a table."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array


class Activation(nnx.Module):
    """A function of one array, as the module of `torch.nn` that has its name, with that module's options.

    Values, and gradients at kinks, are torch's. torch's `inplace` has no counterpart: nothing is overwritten.
    """

    def __init__(self, name: str, **options: Any):
        if name not in FUNCTIONS:
            raise ValueError(f"Activation {name!r} is not one of {sorted(FUNCTIONS)}.")
        self.name, self.options = name, tuple(options.items())  # hashable, so that equal modules compile once

    def __call__(self, x: Any) -> Any:
        """Return what the function makes of x."""
        return FUNCTIONS[self.name](x, **dict(self.options))


def _flatten(x: Array, start_dim: int, end_dim: int) -> Array:
    if x.ndim == 0:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _leaky_relu(x: Array, negative_slope: float) -> Array:
    return jnp.where(x > 0, x, negative_slope * x)  # at 0, Flax's has the other slope


def _hardtanh(x: Array, min_val: float, max_val: float) -> Array:
    """Clip; at the bounds themselves the gradient is zero, where that of `jnp.clip` is not."""
    low, high = jnp.asarray(min_val, x.dtype), jnp.asarray(max_val, x.dtype)
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _softplus(x: Array, beta: float, threshold: float) -> Array:
    """Return ``log(1 + exp(beta x)) / beta``, or x itself where ``beta x > threshold``."""
    linear = x * beta > threshold
    return jnp.where(linear, x, jnp.log1p(jnp.exp(jnp.where(linear, 0, x) * beta)) / beta)


def _along(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(x: Array, dim: int | None) -> Array:
        implicit = 0 if x.ndim in (0, 1, 3) else 1  # torch's choice where dim is left out, for which it warns
        return function(x, axis=implicit if dim is None else dim)

    return apply


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Flatten": _flatten,
    "ReLU": jax.nn.relu,
    "LeakyReLU": _leaky_relu,
    "ELU": jax.nn.elu,
    "SELU": jax.nn.selu,
    "GELU": lambda x, approximate: jax.nn.gelu(x, approximate=approximate == "tanh"),
    "SiLU": jax.nn.silu,
    "Tanh": jnp.tanh,
    "Sigmoid": jax.nn.sigmoid,
    "Hardtanh": _hardtanh,
    "Hardsigmoid": lambda x: _hardtanh(x, -3.0, 3.0) / 6 + 0.5,
    "Softplus": _softplus,
    "Softmax": _along(jax.nn.softmax),
    "LogSoftmax": _along(jax.nn.log_softmax),
}
