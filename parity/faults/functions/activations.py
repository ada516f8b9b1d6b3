"""Mistakes in activations: another formula, another slope, another threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from parity.faults.functions.called import ELU, GELU, LEAKY_RELU, SIGMOID, SOFTPLUS, TANH, Function, Functions
from parity.faults.substitution import Substitution

Tensor = torch.Tensor


def _tanh_gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(input, approximate="tanh")


def _exact_gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(input)


def _quick_gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return input * torch.sigmoid(1.702 * input)


def _exact_softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.logaddexp(beta * input, torch.zeros_like(input)) / beta


def _plain_softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return F.softplus(input, 1.0, threshold)


def softplus_threshold(value: float) -> Function:
    """Return softplus that is linear above another threshold."""

    def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
        return F.softplus(input, beta, value)

    return softplus


def leaky_relu(value: float) -> Function:
    """Return a leaky rectifier of another slope."""

    def leaky(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        return F.leaky_relu(input, value)

    return leaky


def elu(value: float) -> Function:
    """Return ELU of another alpha."""

    def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
        return F.elu(input, value)

    return elu


def _hard_sigmoid(input: Tensor) -> Tensor:
    return torch.clamp(0.2 * input + 0.5, 0.0, 1.0)


def _relu6_sigmoid(input: Tensor) -> Tensor:
    return torch.clamp(input + 3.0, 0.0, 6.0) / 6.0


def _rational_tanh(input: Tensor) -> Tensor:
    z = torch.clamp(input, -3.0, 3.0)
    return z * (27.0 + z * z) / (27.0 + 9.0 * z * z)


def _fault(functions: Functions, instead: Any, id: str, name: str, fix: str, **options: Any) -> Substitution:
    return Substitution(id, name, fix, functions, instead, **options)


_GELU = "jax.nn.gelu(x, approximate=False); torch's default is the exact one, with erf"
_SOFTPLUS = "jnp.where(beta * x > 20, x, jax.nn.softplus(beta * x) / beta): torch is linear above 20"
_SLOPE = "jax.nn.leaky_relu(x, negative_slope=0.01), or what the reference has"

FAULTS: tuple[Substitution, ...] = (
    _fault(GELU, _tanh_gelu, "N06", "gelu by its tanh approximation (JAX's default)", _GELU),
    _fault(
        GELU, _exact_gelu, "N06-exact", "gelu with erf where torch has approximate='tanh'", "approximate=True"
    ),
    _fault(GELU, _quick_gelu, "N06-quick", "gelu as x sigmoid(1.702 x)", _GELU),
    _fault(SOFTPLUS, _exact_softplus, "N07", "softplus without torch's threshold", _SOFTPLUS),
    _fault(SOFTPLUS, _plain_softplus, "N07-beta", "softplus without its beta", _SOFTPLUS),
    *(
        _fault(
            LEAKY_RELU,
            leaky_relu(slope),
            f"N14-{slope:g}",
            f"leaky_relu of slope {slope:g}",
            _SLOPE,
            variant=True,
        )
        for slope in (0.01, 0.1, 0.2, 0.3)
    ),
    _fault(ELU, elu(1.0), "N14-elu", "elu of alpha 1", "jax.nn.elu(x, alpha=...)", variant=True),
    _fault(SIGMOID, _hard_sigmoid, "L10", "sigmoid is clip(0.2 x + 0.5) (Keras)", "jax.nn.sigmoid"),
    _fault(SIGMOID, _relu6_sigmoid, "L11", "sigmoid is relu6(x + 3) / 6", "jax.nn.sigmoid"),
    _fault(TANH, _rational_tanh, "L12", "tanh by a rational approximation", "jnp.tanh"),
)
