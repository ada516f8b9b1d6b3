"""RMSprop, Adagrad, Adadelta: the gradient over the root of a sum of its squares."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxrnn.optim._common import (
    Momentum,
    at_least_zero,
    check_flags,
    check_momentum,
    descend,
    elementwise,
    lerp,
    number,
)
from jaxrnn.optim.momentum import scale_by_momentum


class RMSpropState(NamedTuple):
    """Means of the gradient and of its square."""

    step: Int[Array, ""]  # updates made so far
    nu: optax.Updates  # torch's square_avg
    mu: optax.Updates | None = None  # when centered; torch's grad_avg


class AdagradState(NamedTuple):
    """Sum of the gradient's squares."""

    step: Int[Array, ""]  # updates made so far
    total: optax.Updates  # torch's sum


class AdadeltaState(NamedTuple):
    """Means of the squares of gradient and step."""

    step: Int[Array, ""]  # updates made so far
    nu: optax.Updates  # torch's square_avg
    moved: optax.Updates  # torch's acc_delta


def rmsprop(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: Momentum = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """RMSprop (Hinton, 2012; centered: Graves, 2013) as `torch.optim.RMSprop` computes it::

        g = g + weight_decay p
        v = alpha v + (1 - alpha) g²
        m = m + (1 - alpha) (g - m)                     if centered
        d = g / (√v + eps)   or   g / (√(v - m²) + eps)  if centered
        buf = momentum buf + d                          with momentum; d takes its place without
        p = p - lr buf

    `optax.rmsprop` decays by 0.9, puts eps under the root, and keeps the learning rate in its momentum buffer,
    where a later change of the rate no longer reaches it.

    Centered, where the gradient hardly changes, rounding can make ``v - m²`` negative and torch's step NaN;
    here it counts as 0.
    """
    at_least_zero("eps", eps, "epsilon value")
    at_least_zero("alpha", alpha, "alpha value")
    check_momentum(momentum)
    check_flags(centered=centered)

    def rule(t: Array, g: Array, v: Array, *m: Array) -> tuple[Array, ...]:
        del t
        v = alpha * v + (1 - alpha) * g * g
        m = tuple(lerp(mean, g, 1 - alpha) for mean in m)
        variance = jnp.maximum(v - m[0] * m[0], 0) if centered else v
        return g / (jnp.sqrt(variance) + eps), v, *m

    direction = elementwise(RMSpropState, rule, nu=0.0, **({"mu": 0.0} if centered else {}))
    if momentum != 0:
        direction = optax.chain(direction, scale_by_momentum(momentum))
    return descend(direction, learning_rate, weight_decay, maximize=maximize)


def adagrad(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adagrad (Duchi et al., 2011) as `torch.optim.Adagrad` computes it, t counted from 1::

        g = g + weight_decay p
        s = s + g²                                      starting at initial_accumulator_value
        p = p - lr / (1 + (t - 1) lr_decay) · g / (√s + eps)

    `optax.adagrad` starts at 0.1, has eps 1e-7 under the root and no `lr_decay`.
    """
    at_least_zero("lr_decay", lr_decay, "lr_decay value")
    at_least_zero("initial_accumulator_value", initial_accumulator_value, "initial_accumulator_value value")
    at_least_zero("eps", eps, "epsilon value")

    def rule(t: Array, g: Array, s: Array) -> tuple[Array, ...]:
        s = s + g * g
        return g / (jnp.sqrt(s) + eps) / (1 + (t - 1).astype(g.dtype) * lr_decay), s

    direction = elementwise(AdagradState, rule, total=initial_accumulator_value)
    return descend(direction, learning_rate, weight_decay, maximize=maximize)


def adadelta(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adadelta (Zeiler, 2012, https://arxiv.org/abs/1212.5701) as `torch.optim.Adadelta` computes it::

        g = g + weight_decay p
        v = rho v + (1 - rho) g²
        d = √(u + eps) / √(v + eps) · g
        u = rho u + (1 - rho) d²
        p = p - lr d

    `optax.adadelta()`, without a learning rate, climbs: it leaves out the sign too.
    """
    number("rho", rho)
    if not 0 <= rho <= 1:
        raise ValueError(f"Invalid rho value: {rho}. rho={rho}: expected at least 0 and at most 1.")
    at_least_zero("eps", eps, "epsilon value")

    def rule(t: Array, g: Array, v: Array, u: Array) -> tuple[Array, ...]:
        del t
        v = rho * v + (1 - rho) * g * g
        d = jnp.sqrt(u + eps) / jnp.sqrt(v + eps) * g
        return d, v, rho * u + (1 - rho) * d * d

    direction = elementwise(AdadeltaState, rule, nu=0.0, moved=0.0)
    return descend(direction, learning_rate, weight_decay, maximize=maximize)
