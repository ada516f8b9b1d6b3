"""Negative log likelihoods of numbers, and the divergence between distributions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrnn.losses.common import (
    Reduction,
    check_reduction,
    check_same_shape,
    known,
    number,
    promote,
    reduce,
    refuse,
    with_slopes,
)


def kl_div(
    input: Any, target: Any, *, reduction: Reduction = "mean", log_target: bool = False
) -> Float[Array, "..."]:
    """Return the Kullback-Leibler divergence of `target` from `input`, as `torch.nn.functional.kl_div` does::

        l = y (log y - x)         x: log-probabilities, y: probabilities; 0 log 0 = 0
        l = exp(y) (y - x)        with log_target

    The prediction comes first and is a logarithm, the target second. The default "mean" divides by the number of
    elements, as torch's still does (with a warning); the divergence of distributions is "batchmean", the sum
    divided by the length of axis 0.

    At ``y = 0`` the gradient with respect to the target is NaN, and the loss too if ``x`` is -inf, as in torch.

    Raises:
        ValueError: input and target have different shapes (torch broadcasts); an unknown reduction.
        RuntimeError: a target of integers.
    """
    check_reduction(reduction, ("none", "batchmean", "mean", "sum"))
    check_same_shape(input, target)
    if not jnp.issubdtype(jnp.result_type(target), jnp.floating):
        raise RuntimeError(
            "kl_div: Integral inputs not supported. Pass probabilities; for classes there is nll_loss."
        )
    dtype, (x, y) = promote(input, target)
    losses = jnp.exp(y) * (y - x) if log_target else jax.scipy.special.xlogy(y, y) - y * x
    if reduction == "batchmean":
        return (jnp.sum(losses) / (x.shape[0] if x.ndim else 1)).astype(dtype)
    return reduce(losses, reduction, dtype)


def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """Return the negative log likelihood of a normal distribution (Nix & Weigend, 1994)::

        l = (log v + (x - y)² / v) / 2  [+ log(2 π) / 2 if full]        v = max(var, eps)

    The gradient does not follow the clamp, as in torch: a variance below `eps` has the slope of `eps`, so it
    can grow back.

    Args:
        input: means.
        target: of the same shape; one axis of either may have length 1.
        var: variances: a number, the shape of `input`, that without its last axis, or with one axis of length 1.
        full: include the constant.
        eps: lower bound of the variances.
        reduction: "none", "mean" or "sum".

    Raises:
        ValueError: shapes that do not match; a negative variance (traced, the loss is NaN there); an unknown
            reduction.
    """
    check_reduction(reduction)
    eps = number("eps", eps)
    shape = jnp.shape(input)
    if not (_one_axis_shorter(jnp.shape(target), shape) or _one_axis_shorter(shape, jnp.shape(target))):
        check_same_shape(input, target)
    if isinstance(var, int | float):
        var = np.full(shape, var, jnp.result_type(input))
    negative = known(var) < 0
    if jnp.shape(var) != shape and jnp.shape(var) == shape[:-1]:
        var, negative = var[..., None], negative[..., None]
    elif not _one_axis_shorter(jnp.shape(var), shape):
        raise ValueError(
            f"var is of incorrect size. Expected {list(shape)}, that without its last axis, or with one axis of "
            f"length 1; got {list(jnp.shape(var))}."
        )
    dtype, (x, y, v) = promote(input, target, var)
    v = with_slopes(jnp.maximum(v, eps), (v,), (jnp.ones_like(v),))
    v = refuse(
        v, negative, lambda: ValueError("var has negative entry/entries. Pass jnp.exp or softplus of it.")
    )
    losses = 0.5 * (jnp.log(v) + (x - y) ** 2 / v) + (0.5 * math.log(2 * math.pi) if full else 0.0)
    return reduce(losses, reduction, dtype)


def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Return the negative log likelihood of counts::

        l = exp(x) - y x            log_input
        l = x - y log(x + eps)      otherwise
            [+ y log y - y + log(2 π y) / 2  where y > 1, if full: Stirling's log y!]

    With `full` the gradient with respect to a target of 0 is that of the first line; torch's is NaN.

    Raises:
        ValueError: input and target have different shapes (torch broadcasts); an unknown reduction.
    """
    check_reduction(reduction)
    check_same_shape(input, target)
    eps = number("eps", eps)
    dtype, (x, y) = promote(input, target)
    losses = jnp.exp(x) - y * x if log_input else x - y * jnp.log(x + eps)
    if full:
        many = jnp.where(y > 1, y, 1)
        stirling = many * jnp.log(many) - many + 0.5 * jnp.log(2 * math.pi * many)
        losses = losses + jnp.where(y > 1, stirling, 0)
    return reduce(losses, reduction, dtype)


def _one_axis_shorter(shape: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Return whether a shape is the full one, or is so but for one axis of length 1."""
    lengths = [a for a, b in zip(shape, full, strict=False) if a != b]
    return len(shape) == len(full) and lengths in ([], [1])
