"""Dropouts whose masks may be given, so that training can be compared between frameworks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrnn import checks
from jaxrnn.torch_names import quoted


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


def dropping(module: nnx.Module) -> list[str]:
    """Return the paths of the parts of a module that drop, as "encoder.layers.0.dropout1".

    A recurrent layer drops between its layers.
    """
    modules = nnx.iter_modules(module)
    return [".".join(map(str, path)) for path, part in modules if getattr(part, "drops", False)]


def check_masks(module: nnx.Module, masks: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return masks for the dropouts inside a module, by the paths of these; `None` becomes an empty mapping.

    Either no mask is given or one for every part that drops.
    """
    if masks is None:
        return {}
    drops = dropping(module)
    missing, unknown = sorted({*drops} - {*masks}), sorted({*masks} - {*drops})
    if unknown and not drops:
        raise ValueError(
            f"dropout_masks were given ({quoted(unknown)}), but nothing is dropped: that needs dropout > 0 and "
            "training mode (call train())."
        )
    if missing or unknown:
        raise ValueError(
            f"dropout_masks: missing are {quoted(missing) or 'none'}, unknown are {quoted(unknown) or 'none'}. "
            f"Give a mask for each of {quoted(sorted(drops))}, or none at all."
        )
    return masks


def masks_for(part: str, masks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword that hands a part its masks, by their names in there; no keyword if it has none."""
    prefix = f"{part}."
    found = {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}
    return {"dropout_masks": found} if found else {}
