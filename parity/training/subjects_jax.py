"""What the registered training runs train, in JAX."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

import jaxrnn
from jaxrnn import losses
from jaxrnn.models.forecaster import Forecaster


def forecaster(kind: str, sizes: tuple[int, ...]) -> nnx.Module:
    """Return a forecaster; its weights will be the reference's."""
    return Forecaster(getattr(jaxrnn, kind), *sizes, rngs=nnx.Rngs(0))


def squared_error(model: Any, batch: Any) -> jax.Array:
    """Return the mean squared error of the prediction."""
    x, y = batch
    prediction, _ = model(x)
    return losses.mse_loss(prediction, y)
