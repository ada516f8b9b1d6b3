"""Padded sequences: what must not count in a loss."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.lengths import check_lengths, length_mask
from jaxrnn.losses.common import promote


def masked_mean(values: Any, *, lengths: Any = None, mask: Any = None) -> Float[Array, ""]:
    """Return the mean of the valid elements: their sum divided by their number.

    A mean over `[B, T]` with padding set to zero divides by ``B T``, so it depends on how much padding the batch
    happens to have. Here padding does not count and, whatever it holds, reaches neither the mean nor the
    gradient with respect to `values`. Without any valid element the mean is NaN with a gradient of zero.

    Args:
        values: `[B, T, ...]`, for example a loss with ``reduction="none"``.
        lengths: valid steps of each row, integers `[B]`.
        mask: instead of lengths, booleans of the shape of `values` or of its first axes; true where it is valid.

    NaN in the padding of a *target* still meets the gradient inside the loss (``0 * nan`` is ``nan``): replace it
    first. Example::

        target = jnp.where(mask[..., None], target, 0)
        loss = masked_mean(mse_loss(output, target, reduction="none"), mask=mask)

    Raises:
        TypeError: neither or both of `lengths` and `mask`; a mask that is not boolean.
        ValueError: a mask or lengths that do not fit the values.
        RuntimeError: not one length per row.
    """
    dtype, (x,) = promote(values, name="values")
    if (lengths is None) == (mask is None):
        raise TypeError("masked_mean takes either lengths or mask. Pass lengths=... [B] or mask=... [B, T].")
    valid = _row_mask(lengths, x.shape) if mask is None else _checked_mask(mask, x.shape)
    valid = jnp.broadcast_to(valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)), x.shape)
    return (jnp.sum(jnp.where(valid, x, 0)) / jnp.sum(valid.astype(x.dtype))).astype(dtype)


def ignore_padding(target: Any, lengths: Any, ignore_index: int = -100) -> Int[Array, "B T *rest"]:
    """Return labels `[B, T, ...]` with `ignore_index` from each row's length on.

    `cross_entropy` and `nll_loss` leave such labels out, and their mean divides by the others.

    Raises:
        TypeError: labels or lengths that are not integers.
        ValueError: labels without an axis of time; a length outside 0..T.
        RuntimeError: not one length per row.
    """
    labels = jnp.asarray(target)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"target: expected integer labels, got {labels.dtype}. The mean of a regression over valid steps is "
            "masked_mean."
        )
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))  # bytes cannot hold -100
    mask = _row_mask(lengths, labels.shape)
    return jnp.where(mask.reshape(mask.shape + (1,) * (labels.ndim - 2)), labels, ignore_index)


def _row_mask(lengths: Any, shape: tuple[int, ...]) -> Bool[Array, "B T"]:
    if len(shape) < 2:
        raise ValueError(
            f"lengths need axes [B, T, ...], but the shape is {list(shape)}. Pass mask, or x[None]."
        )
    return length_mask(check_lengths(lengths, shape[0], shape[1]), shape[1])


def _checked_mask(mask: Any, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    if jnp.result_type(mask) != np.bool_:
        raise TypeError(
            f"mask: expected booleans, got {jnp.result_type(mask)}. Pass mask > 0, or lengths=..."
        )
    if jnp.shape(mask) != shape[: jnp.ndim(mask)]:
        raise ValueError(
            f"mask: shape {list(jnp.shape(mask))} does not fit the values' {list(shape)}. Pass their shape, or "
            "that of their first axes."
        )
    return jnp.asarray(mask)
