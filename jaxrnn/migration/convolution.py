"""Conv1d with torch's layout: channels in front of time, in arrays and in the kernel."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxrnn import checks
from jaxrnn.init import TorchDraws, torch_uniform_of
from jaxrnn.torch_names import Parameter


class Conv1d(nnx.Module):
    """Cross-correlation along time, as `torch.nn.Conv1d`::

        y[b, o, t] = bias[o] + sum_{i, k} weight[o, i, k] x[b, i, stride t + dilation k - padding]

    `weight` is [out_channels, in_channels / groups, kernel_size]; with `rngs` it and the bias are drawn as torch
    does, from U(-k, k), ``k = 1 / sqrt(in_channels / groups * kernel_size)``, else they are zero until they are
    loaded. x is zero outside of the sequence. Not there: other values of `padding_mode`.
    """

    torch_order = ("weight", "bias")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
        param_dtype: Any = jnp.float32,
        precision: jax.lax.PrecisionLike = None,
    ):
        if padding == "same" and stride != 1:
            raise ValueError("padding='same' is not supported for strided convolutions; pad by a number.")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.precision = precision
        shape = out_channels, in_channels // groups, kernel_size
        draw = torch_uniform_of(math.prod(shape[1:]))

        def made(*sizes: int) -> nnx.Param:
            if rngs is None:
                return nnx.Param(jnp.zeros(sizes, param_dtype))
            return nnx.Param(draw(rngs.params(), sizes, param_dtype))

        self.weight = made(*shape)
        self.bias = made(out_channels) if bias else None

    def __call__(self, input: Float[Array, "*B C L"]) -> Float[Array, "*B D M"]:
        """Return the output, [B, out_channels, M], for [B, in_channels, L]; or both without B."""
        x = checks.check_array("input", input)
        if x.ndim not in (2, 3) or x.shape[-2] != self.in_channels:
            raise RuntimeError(
                f"Expected 2D (unbatched) or 3D (batched) input to conv1d, [B, {self.in_channels}, L], but got "
                f"input of size: {list(x.shape)}. Channels come before time."
            )
        x = checks.check_dtype(x, None, self.weight.dtype, of="Conv1d")
        y = jax.lax.conv_general_dilated(
            x if x.ndim == 3 else x[None],
            self.weight[...],
            window_strides=(self.stride,),
            padding=[self._padding],
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NCH", "OIH", "NCH"),
            feature_group_count=self.groups,
            precision=self.precision,
        )
        y = y if x.ndim == 3 else y[0]
        return y if self.bias is None else y + self.bias[...][:, None]

    def drawn_like_torch(self, draws: TorchDraws, members: list[Parameter]) -> dict[str, np.ndarray]:
        """Return what torch draws for a convolution."""
        return draws.like(nnx.Conv, members)

    @property
    def _padding(self) -> tuple[int, int]:
        if self.padding == "valid":
            return 0, 0
        if self.padding == "same":
            total = self.dilation * (self.kernel_size - 1)
            return total // 2, total - total // 2
        return int(self.padding), int(self.padding)
