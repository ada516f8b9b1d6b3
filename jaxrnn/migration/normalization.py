"""BatchNorm1d with torch's running statistics, and LayerNorm over several axes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrnn import checks
from jaxrnn.init import TorchDraws
from jaxrnn.torch_names import Buffer, Parameter


class BatchNorm1d(nnx.Module):
    """Normalises each channel over the batch, and over time, as `torch.nn.BatchNorm1d`::

        y = (x - mean) / sqrt(var + eps) * weight + bias
        running = (1 - momentum) running + momentum batch's own

    In training, mean and var are the batch's own, var divided by n; the running one takes it divided by
    n - 1. In evaluation they are the running ones. With `momentum=None` these are plain averages over all batches.
    Without `track_running_stats` the batch's own are used in evaluation too.
    What differs from `nnx.BatchNorm`: channels come second, momentum is the weight of the new value, and n - 1.
    """

    torch_order = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        param_dtype: Any = jnp.float32,
    ):
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        self.use_running_average = False  # what `train()` and `eval()` switch
        self.weight = nnx.Param(jnp.ones(num_features, param_dtype)) if affine else None
        self.bias = nnx.Param(jnp.zeros(num_features, param_dtype)) if affine and bias else None
        if track_running_stats:
            self.running_mean = Buffer(jnp.zeros(num_features, param_dtype))
            self.running_var = Buffer(jnp.ones(num_features, param_dtype))
            self.num_batches_tracked = Buffer(jnp.zeros((), jnp.int32))

    def __call__(self, input: Float[Array, "B C *L"]) -> Float[Array, "B C *L"]:
        """Return the normalised input, [B, C] or [B, C, L]; in training, update the running statistics."""
        x = checks.check_array("input", input)
        if x.ndim not in (2, 3):
            raise ValueError(
                f"expected 2D or 3D input (got {x.ndim}D input). It should be [B, C] or [B, C, L], channels second."
            )
        if x.shape[1] != self.num_features:
            raise RuntimeError(
                f"running_mean should contain {x.shape[1]} elements not {self.num_features}: input is of shape "
                f"{x.shape}, and its second axis must hold the channels."
            )
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average and self.track_running_stats:
            mean, var = self.running_mean[...], self.running_var[...]
        else:
            mean, var = self._of_batch(precise)

        def shaped(a: Array) -> Array:
            return a.astype(precise.dtype).reshape(-1, *[1] * (x.ndim - 2))

        y = (precise - shaped(mean)) * jax.lax.rsqrt(shaped(var) + self.eps)
        y = y if self.weight is None else y * shaped(self.weight[...])
        y = y if self.bias is None else y + shaped(self.bias[...])
        return y.astype(x.dtype)

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return ones and zeros, for which torch draws nothing."""
        return draws.like(nnx.LayerNorm, members)

    def _of_batch(self, x: Array) -> tuple[Array, Array]:
        axes = (0, *range(2, x.ndim))
        count = x.size // self.num_features
        training = not self.use_running_average
        if training and count == 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {list(x.shape)}. Use a "
                "larger batch, or eval()."
            )
        mean, var = x.mean(axes), x.var(axes)
        if training and self.track_running_stats:
            batches = self.num_batches_tracked[...] + 1
            self.num_batches_tracked.set_value(batches)
            weight = 1 / batches.astype(x.dtype) if self.momentum is None else self.momentum
            _move(self.running_mean, mean, weight)
            _move(self.running_var, var * (count / (count - 1)), weight)
        return mean, var


def _move(running: Buffer, new: Array, weight: Any) -> None:
    old = running.get_value()
    moved = (1 - weight) * old.astype(new.dtype) + weight * jax.lax.stop_gradient(new)
    running.set_value(moved.astype(old.dtype))


class LayerNorm(nnx.Module):
    """Normalises over the last axes together, as `torch.nn.LayerNorm` with a shape of several axes::

        y = (x - mean) / sqrt(var + eps) * weight + bias

    `weight` and `bias` have the shape of these axes. `nnx.LayerNorm` is the one for a single axis.
    """

    torch_order = ("weight", "bias")

    def __init__(
        self,
        normalized_shape: Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        param_dtype: Any = jnp.float32,
    ):
        self.normalized_shape, self.eps = tuple(normalized_shape), eps
        shape = self.normalized_shape
        self.weight = nnx.Param(jnp.ones(shape, param_dtype)) if elementwise_affine else None
        self.bias = nnx.Param(jnp.zeros(shape, param_dtype)) if elementwise_affine and bias else None

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the normalised input, whose last axes are `normalized_shape`."""
        x, shape = checks.check_array("input", input), self.normalized_shape
        if x.shape[-len(shape) :] != shape:
            raise RuntimeError(
                f"Given normalized_shape={list(shape)}, expected input with shape [*, "
                f"{', '.join(map(str, shape))}], but got input of size{list(x.shape)}; these axes come last."
            )
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        rows = precise.reshape(*x.shape[: -len(shape)], math.prod(shape))
        mean, var = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
        y = ((rows - mean) * jax.lax.rsqrt(var + self.eps)).reshape(x.shape)
        y = y if self.weight is None else y * self.weight[...]
        y = y if self.bias is None else y + self.bias[...]
        return y.astype(x.dtype)

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return ones and zeros, for which torch draws nothing."""
        return draws.like(nnx.LayerNorm, members)
