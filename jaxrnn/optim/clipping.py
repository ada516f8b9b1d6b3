"""Gradient clipping as `torch.nn.utils` computes it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxrnn.optim._common import in_float32, number

PyTree = Any


def clip_grad_norm(max_norm: float, norm_type: float | str = 2.0) -> optax.GradientTransformation:
    """Clip the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does before the step::

        g = g · min(1, max_norm / (norm + 1e-6))

    First in a chain, ``optax.chain(clip_grad_norm(1.0), adam(1e-3))``. The 1e-6 counts also where the norm is not
    above `max_norm` by more than that: at ``norm == max_norm == 1`` torch scales by 0.999999.
    `optax.clip_by_global_norm` has no such term: 1e-6 / norm relative difference, 1e-3 at norm 1e-3.

    Raises:
        ValueError: `max_norm` is negative (torch would turn the gradients round) or `norm_type` is no order.
    """
    _check_max_norm(max_norm)
    order = _order(norm_type)
    return optax.stateless(lambda grads, params: clip_gradients(grads, max_norm, order)[0])


def clip_gradients(
    grads: PyTree, max_norm: float, norm_type: float | str = 2.0, *, error_if_nonfinite: bool = False
) -> tuple[PyTree, Float[Array, ""]]:
    """Gradients clipped as by ``clip_grad_norm``, and their norm before, which torch returns.

    Raises:
        RuntimeError: with `error_if_nonfinite`, the norm is not finite.
        ValueError: with `error_if_nonfinite` inside `jax.jit`, where no value can be looked at.
    """
    _check_max_norm(max_norm)
    order = _order(norm_type)
    norm = total_norm(grads, order)
    if error_if_nonfinite:
        _raise_unless_finite(norm, order)
    share = jnp.minimum(max_norm / (norm + 1e-6), 1)
    return jax.tree.map(in_float32(lambda g: g * share.astype(g.dtype)), grads), norm


def total_norm(grads: PyTree, norm_type: float | str = 2.0) -> Float[Array, ""]:
    """Norm of all gradients as one vector, `torch.nn.utils.get_total_norm`; 0 for no gradients.

    As in torch it is the norm of the arrays' norms, each in its array's dtype: of bfloat16 gradients alone it
    has three digits.
    """
    order = _order(norm_type)
    norms = [in_float32(lambda g: _norm(g, order))(g) for g in jax.tree.leaves(grads)]
    if not norms:
        return jnp.zeros([])
    return in_float32(lambda each: _norm(each, order))(jnp.stack(norms))


def clip_grad_value(clip_value: float) -> optax.GradientTransformation:
    """Clip every element to ±`clip_value`, as `torch.nn.utils.clip_grad_value_` does; NaN stays NaN."""
    number("clip_value", clip_value)
    if not clip_value >= 0:
        raise ValueError(f"clip_value={clip_value}: expected at least 0, the largest size of an element.")
    clip = in_float32(lambda g: jnp.clip(g, -clip_value, clip_value))
    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads))


def _norm(values: Array, order: float) -> Array:
    size = jnp.abs(values)
    if order == math.inf:
        return jnp.max(size, initial=0)
    if order == 1:
        return jnp.sum(size)
    if order == 2:
        return jnp.sqrt(jnp.sum(size * size))
    return jnp.sum(size**order) ** (1 / order)


def _order(norm_type: float | str) -> float:
    try:
        order = float(norm_type)
    except ValueError:
        order = math.nan
    if not order > 0:
        raise ValueError(
            f"norm_type={norm_type!r}: expected a number above 0 or 'inf'; torch's default is 2."
        )
    return order


def _check_max_norm(max_norm: float) -> None:
    number("max_norm", max_norm)
    if not max_norm >= 0:
        raise ValueError(f"max_norm={max_norm}: expected at least 0; math.inf clips nothing.")


def _raise_unless_finite(norm: Array, order: float) -> None:
    if isinstance(norm, jax.core.Tracer):
        raise ValueError(
            "error_if_nonfinite: cannot look at a value inside jax.jit; leave it out, return the norm, and check "
            "it outside."
        )
    if not jnp.isfinite(norm):
        raise RuntimeError(
            f"The total norm of order {order} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            f"`error_if_nonfinite=False`. The norm is {norm}: look for what overflowed or divided by zero."
        )
