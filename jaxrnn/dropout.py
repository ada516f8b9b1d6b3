"""Dropout whose mask may be given, so that training can be compared between frameworks."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrnn import checks


class Dropout(nnx.Module):
    """Zeroes each number with probability p and divides the others by 1 - p, as `torch.nn.Dropout`.

    In evaluation mode (`eval()`) it does nothing. With p = 1 everything is zero.
    """

    def __init__(self, p: float = 0.5, *, rngs: nnx.Rngs):
        self.p, self.deterministic = checks.check_probability(p), False
        self.rngs = rngs.dropout.fork() if self.p else None

    @property
    def drops(self) -> bool:
        """Whether a call zeroes anything."""
        return self.p > 0 and not self.deterministic

    def __call__(self, x: Float[Array, "*S"], mask: Bool[Array, "*S"] | None = None) -> Float[Array, "*S"]:
        """Return what is left of x: where `mask` is True, or by a draw from the module's own stream."""
        if not self.drops:
            if mask is not None:
                raise ValueError(
                    "A dropout mask was given, but nothing is dropped: that needs p > 0 and training mode "
                    "(call train())."
                )
            return x
        if mask is None:
            assert self.rngs is not None
            mask = jax.random.bernoulli(self.rngs(), 1 - self.p, x.shape)
        mask = checks.check_array("a dropout mask", mask).astype(bool)
        if mask.shape != x.shape:
            raise ValueError(
                f"A dropout mask should be of shape {x.shape}, as what it is for; got {mask.shape}."
            )
        return drop(x, mask, self.p)


def drop(x: Float[Array, "*S"], mask: Bool[Array, "*S"], p: float) -> Float[Array, "*S"]:
    """Return ``x / (1 - p)`` where `mask` is True, else zero; all zeros for p = 1."""
    scale = 1 / (1 - p) if p < 1 else 0.0
    return jnp.where(mask, x * jnp.asarray(scale, x.dtype), 0)
