"""Mistakes in how a new LSTM's weights are drawn, as other distributions than torch's. NumPy only.

torch draws all parameters of a recurrent layer from U(-1/√H, 1/√H), which shows only over many draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from parity.gates import Array

GATES = 4
Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape, int], Array]  # of a parameter's shape, and H


@dataclass(frozen=True)
class InitialFault:
    """One mistake; draws: how each parameter of an LSTM is drawn, by its name without `_l0`."""

    id: str
    name: str
    fix: str
    draws: Mapping[str, Draw] = field(repr=False)
    gate: str = "distribution"


def as_torch(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    """Return numbers as torch draws them."""
    return _uniform(rng, shape, hidden**-0.5)


def _uniform(rng: np.random.Generator, shape: Shape, limit: float) -> Array:
    return rng.uniform(-limit, limit, shape)


def _zeros(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return np.zeros(shape)


def _lecun_normal(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    """Of variance 1 / fan_in, cut off at two deviations and widened for what that takes away."""
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > 2.0).any():
        values[far] = rng.standard_normal(far.sum())
    return values / 0.87962566103423978 * shape[1] ** -0.5


def _glorot_uniform(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return _uniform(rng, shape, (6.0 / sum(shape)) ** 0.5)


def _by_fan_in(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return _uniform(rng, shape, shape[-1] ** -0.5 if len(shape) > 1 else hidden**-0.5)


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return orthonormal columns; the signs make each as likely as any other."""
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


def _orthogonal_gates(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return np.concatenate([_orthonormal(rng, hidden, hidden) for _ in range(GATES)])


def _orthogonal(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return _orthonormal(rng, *shape)


def _forget_one(rng: np.random.Generator, shape: Shape, hidden: int) -> Array:
    return np.repeat([0.0, 1.0, 0.0, 0.0], hidden)


def _all(weight_ih: Draw, weight_hh: Draw, bias_ih: Draw, bias_hh: Draw) -> dict[str, Draw]:
    return {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}


_TORCHS = (
    "draw every parameter from U(-1/√H, 1/√H), as the layers of jaxrnn do; jaxrnn.init has torch's very bits"
)

INITIAL: tuple[InitialFault, ...] = (
    InitialFault(
        "N13",
        "drawn as Flax does: LeCun's normal, orthogonal gates, biases of zero",
        _TORCHS,
        _all(_lecun_normal, _orthogonal_gates, _zeros, _zeros),
    ),
    InitialFault(
        "N13-keras",
        "drawn as Keras does: Glorot's uniform, orthogonal, a forget bias of 1",
        _TORCHS,
        _all(_glorot_uniform, _orthogonal, _forget_one, _zeros),
    ),
    InitialFault(
        "N13-fan-in",
        "each matrix drawn by its own number of inputs, as nn.Linear's",
        _TORCHS,
        _all(_by_fan_in, _by_fan_in, as_torch, as_torch),
    ),
    InitialFault("N13-bias", "biases of zero", _TORCHS, _all(as_torch, as_torch, _zeros, _zeros)),
)
