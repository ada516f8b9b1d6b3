"""Cross entropy of yes-or-no answers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.losses.common import (
    EPSILON,
    Reduction,
    check_broadcasts,
    check_reduction,
    known,
    promote,
    reduce,
    refuse,
    size,
    with_slopes,
)


def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, *, reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """Return the cross entropy of probabilities, as `torch.nn.functional.binary_cross_entropy` does::

        l = -w (y max(log x, -100) + (1 - y) max(log(1 - x), -100))

    The derivatives are torch's, which do not follow the clamp: ``(x - y) / max(x (1 - x), 1e-12)`` with
    respect to the input, ``log(1 - x) - log x`` with respect to the target. So an ``x`` of exactly 0 or 1
    gives 100 and a gradient of 1e12 if it is wrong. Logits keep their precision:
    `binary_cross_entropy_with_logits`.

    `weight` broadcasts to the input; the mean still divides by the number of elements.

    Raises:
        ValueError: input and target have different shapes; an unknown reduction.
        RuntimeError: an input or a target outside 0..1; traced, the loss is NaN there.
    """
    check_reduction(reduction)
    if jnp.shape(input) != jnp.shape(target):
        raise ValueError(
            f"Using a target size ({size(target)}) that is different to the input size ({size(input)}) "
            "is deprecated. Please ensure they have the same size. Broadcasting would compare each prediction "
            "with targets of other rows: use input[:, 0] or target[:, None]."
        )
    check_broadcasts("weight", 1 if weight is None else weight, jnp.shape(input))
    dtype, (x, y, w) = promote(input, target, True if weight is None else weight)
    log_yes, log_no = jnp.log(x), jnp.log1p(-x)
    losses = (y - 1) * jnp.maximum(log_no, -100) - y * jnp.maximum(log_yes, -100)
    losses = with_slopes(losses, (x, y), ((x - y) / jnp.maximum(x * (1 - x), EPSILON), log_no - log_yes))
    losses = refuse(losses, _no_probability(input), lambda: _outside("input"))
    losses = refuse(losses, _no_probability(target), lambda: _outside("target"))
    return reduce(losses * w, reduction, dtype)


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Any = None,
) -> Float[Array, "..."]:
    """Return the cross entropy of logits, as `torch.nn.functional.binary_cross_entropy_with_logits` does::

        l = w ((1 - y) x - (1 + (pos_weight - 1) y) log σ(x))

    `pos_weight` multiplies the term of the answer yes only. Both weights broadcast to the input (`pos_weight`
    is usually `[C]`); the mean still divides by the number of elements. As in torch, targets outside 0..1 are
    computed with. Integer targets are taken, and both weights have gradients; torch refuses these.

    Raises:
        ValueError: input and target have different shapes; an unknown reduction.
        RuntimeError: a weight that does not broadcast to the input.
    """
    check_reduction(reduction)
    if jnp.shape(input) != jnp.shape(target):
        raise ValueError(
            f"Target size ({size(target)}) must be the same as input size ({size(input)}). Broadcasting would "
            "compare each prediction with targets of other rows: use input[:, 0] or target[:, None]."
        )
    for name, value in (("weight", weight), ("pos_weight", pos_weight)):
        check_broadcasts(name, 1 if value is None else value, jnp.shape(input))
    # True is a weight of one that changes no dtype.
    given = [True if value is None else value for value in (weight, pos_weight)]
    dtype, (x, y, w, w_yes) = promote(input, target, *given)
    losses = (1 - y) * x - (1 + (w_yes - 1) * y) * jax.nn.log_sigmoid(x)
    return reduce(losses * w, reduction, dtype)


def _no_probability(values: Any) -> Any:
    values = known(values)
    return ~((values >= 0) & (values <= 1))


def _outside(name: str) -> RuntimeError:
    return RuntimeError(
        f"all elements of {name} should be between 0 and 1. Pass probabilities; for logits there is "
        "binary_cross_entropy_with_logits."
    )
