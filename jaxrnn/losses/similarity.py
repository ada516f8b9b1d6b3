"""The angle between vectors."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrnn.losses.common import (
    EPSILON,
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


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Float[Array, "..."]:
    """Return the cosine of the angle between vectors along axis `dim`::

        x1 · x2 / (max(|x1|, eps) max(|x2|, eps))

    `x1` and `x2` broadcast. A zero vector gives 0, where `optax.cosine_similarity` gives NaN by default. The
    gradient does not follow the clamp, as in torch: below `eps` a norm has the slope it has above; at 0 it is 0.

    Raises:
        IndexError: no such axis; the default is 1, so single vectors need ``dim=0``.
        RuntimeError: shapes that do not broadcast; a negative `eps`.
    """
    eps = number("eps", eps)
    if eps < 0:
        raise RuntimeError(
            f"eps must be non-negative, got: {eps}. It keeps a zero vector from dividing by zero."
        )
    dtype, (x1, x2) = promote(x1, x2, name="x1")
    try:
        axes = len(jnp.broadcast_shapes(x1.shape, x2.shape))
    except ValueError:
        raise RuntimeError(
            f"x1 {list(x1.shape)} and x2 {list(x2.shape)} do not broadcast. Pass vectors of equal length along dim."
        ) from None
    if not -max(axes, 1) <= dim < max(axes, 1):
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-max(axes, 1)}, {max(axes, 1) - 1}], but got "
            f"{dim}). For single vectors pass dim=0."
        )
    x1, x2 = jnp.broadcast_arrays(jnp.atleast_1d(x1), jnp.atleast_1d(x2))
    cosine = jnp.sum(x1 / _norm(x1, dim, eps) * (x2 / _norm(x2, dim, eps)), dim)
    return cosine.astype(dtype)


def cosine_embedding_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, *, reduction: Reduction = "mean"
) -> Float[Array, "..."]:
    """Return how far pairs of vectors are from being alike (target 1) or unlike (target -1)::

        l = 1 - cos                  target 1
        l = max(0, cos - margin)     target -1
        cos = x1 · x2 / √((|x1|² + 1e-12) (|x2|² + 1e-12))

    Its cosine is not quite that of `cosine_similarity`, in torch too. Inputs are `[N, D]` with targets `[N]`,
    or `[D]` with one target. Where ``cos = margin`` the slope is 1, as in torch.

    Raises:
        ValueError: a target other than 1 and -1 (torch gives it a loss of 0 and counts it in the mean; traced, the
            loss is NaN there); inputs of different shapes (torch broadcasts); an unknown reduction.
        RuntimeError: other shapes that do not match.
    """
    check_reduction(reduction)
    margin = number("margin", margin)
    axes, sizes = jnp.ndim(target), f"{list(jnp.shape(input1))} and {list(jnp.shape(input2))}"
    if axes > 1:
        raise RuntimeError(
            f"0D or 1D target tensor expected, multi-target not supported. Got {axes} axes, not 0 or 1."
        )
    if {jnp.ndim(input1), jnp.ndim(input2)} != {axes + 1}:
        raise RuntimeError(
            f"{axes}D target tensor expects {axes + 1}D input tensors, but found inputs with sizes {sizes}. "
            "Pass inputs [N, D] with targets [N], or [D] with a single target."
        )
    check_same_shape(input1, input2)
    if jnp.shape(target) != jnp.shape(input1)[:-1]:
        raise RuntimeError(
            f"target: shape {list(jnp.shape(target))}, but the inputs have sizes {sizes}. Pass one target per pair."
        )
    dtype, (x1, x2) = promote(input1, input2, name="input1")
    target = known(target)
    squares = [jnp.sum(x * x, -1) + EPSILON for x in (x1, x2)]
    cosine = jnp.sum(x1 * x2, -1) / jnp.sqrt(squares[0] * squares[1])
    cosine = refuse(cosine, (target != 1) & (target != -1), lambda: _neither(target))
    beyond = cosine - margin
    losses = jnp.where(target == 1, 1 - cosine, jnp.where(beyond < 0, 0, beyond))
    return reduce(losses, reduction, dtype)


def _norm(x: Float[Array, "..."], dim: int, eps: float) -> Float[Array, "..."]:
    """Return ``max(|x|, eps)`` with the gradient of ``|x|``, which is 0 at 0."""
    square = jnp.sum(x * x, dim, keepdims=True)
    zero = square == 0
    norm = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))
    return with_slopes(jnp.maximum(norm, eps), (norm,), (jnp.ones_like(norm),))


def _neither(target: Any) -> ValueError:
    wrong = target[(target != 1) & (target != -1)].flat[0]
    return ValueError(
        f"target: expected 1 (alike) or -1 (unlike), got {np.asarray(wrong)}. Answers 0 and 1 are 2 * target - 1."
    )
