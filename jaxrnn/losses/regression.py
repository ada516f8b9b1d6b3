"""Distances between predictions and targets."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.losses.common import (
    Reduction,
    check_reduction,
    check_same_shape,
    number,
    promote,
    reduce,
    with_slopes,
)


def mse_loss(
    input: Any, target: Any, *, reduction: Reduction = "mean", weight: Any = None
) -> Float[Array, "..."]:
    """Return the squared error ``(x - y)²``, without the factor 1/2 of `optax.l2_loss`.

    With `weight` (the input's shape) the mean is ``Σ w l / Σ w``, as in torch. Targets may be integers.

    Raises:
        ValueError: input, target or weight differ in shape (torch warns and broadcasts); an unknown reduction.
    """
    dtype, (x, y, w) = _checked(input, target, reduction, weight)
    return _weighted_mean((x - y) ** 2, w, weight is not None, reduction, dtype)


def l1_loss(
    input: Any, target: Any, *, reduction: Reduction = "mean", weight: Any = None
) -> Float[Array, "..."]:
    """Return the absolute error ``|x - y|``; its slope at 0 is 0, as in torch (`jnp.abs` takes 1).

    Weights, means and errors are those of `mse_loss`.
    """
    dtype, (x, y, w) = _checked(input, target, reduction, weight)
    return _weighted_mean(_absolute(x - y), w, weight is not None, reduction, dtype)


def huber_loss(
    input: Any, target: Any, reduction: Reduction = "mean", delta: float = 1.0, weight: Any = None
) -> Float[Array, "..."]:
    """Return Huber's loss (1964)::

        l = d² / 2                   |d| ≤ delta, d = x - y
        l = delta (|d| - delta / 2)  beyond

    With `weight` (the input's shape) the mean still divides by the number of elements: torch does so here, but
    not in `mse_loss` and `l1_loss`.

    Raises:
        ValueError: input, target or weight differ in shape (torch warns and broadcasts); an unknown reduction.
        RuntimeError: `delta` is not positive.
    """
    delta = number("delta", delta)
    if delta <= 0:
        raise RuntimeError(
            f"huber_loss does not support non-positive values for delta. Pass delta > 0, not {delta}: "
            "the error at which the loss turns from square to linear."
        )
    dtype, (x, y, w) = _checked(input, target, reduction, weight)
    d = x - y
    slope = jnp.clip(d, -delta, delta)
    return reduce(with_slopes(slope * (d - slope / 2), (d,), (slope,)) * w, reduction, dtype)


def smooth_l1_loss(
    input: Any, target: Any, *, reduction: Reduction = "mean", beta: float = 1.0
) -> Float[Array, "..."]:
    """Return the absolute error, rounded off at 0 (Girshick, 2015)::

        l = d² / (2 beta)     |d| < beta, d = x - y
        l = |d| - beta / 2    beyond

    It is ``huber_loss(delta=beta) / beta``, so equal to it for 1 only. With ``beta=0`` it is `l1_loss`.

    Raises:
        ValueError: input and target differ in shape (torch warns and broadcasts); an unknown reduction.
        RuntimeError: `beta` is negative.
    """
    beta = number("beta", beta)
    if beta < 0:
        raise RuntimeError(
            f"smooth_l1_loss does not support negative values for beta. Pass beta >= 0, not {beta}: "
            "the error at which the loss turns from square to linear."
        )
    dtype, (x, y, _) = _checked(input, target, reduction, None)
    d = x - y
    if beta == 0:
        return reduce(_absolute(d), reduction, dtype)
    inside = jnp.abs(d) < beta
    near = jnp.where(inside, d, 0)
    value = jnp.where(inside, near * near / (2 * beta), jnp.abs(d) - beta / 2)
    return reduce(with_slopes(value, (d,), (jnp.clip(d / beta, -1, 1),)), reduction, dtype)


def _absolute(d: Float[Array, "..."]) -> Float[Array, "..."]:
    return with_slopes(jnp.abs(d), (d,), (jnp.sign(d),))


def _checked(input: Any, target: Any, reduction: Reduction, weight: Any) -> Any:
    """Return the dtype of the result, and input, target and weight (1 if there is none) to compute with."""
    check_reduction(reduction)
    check_same_shape(input, target)
    if weight is not None and jnp.shape(weight) != jnp.shape(input):
        raise ValueError(
            f"Weights and input must have the same size. Expected {list(jnp.shape(input))}, got "
            f"{list(jnp.shape(weight))}; use jnp.broadcast_to(weight, input.shape)."
        )
    return promote(input, target, True if weight is None else weight)


def _weighted_mean(
    losses: Float[Array, "..."], w: Float[Array, "..."], weighted: bool, reduction: Reduction, dtype: Any
) -> Float[Array, "..."]:
    if weighted and reduction == "mean":
        return (jnp.sum(losses * w) / jnp.sum(w)).astype(dtype)
    return reduce(losses * w, reduction, dtype)
