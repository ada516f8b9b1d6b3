"""Stochastic gradient descent, with and without momentum."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxrnn.optim._common import (
    Momentum,
    at_update,
    check_flags,
    check_momentum,
    descend,
    elementwise,
    number,
)


class MomentumState(NamedTuple):
    """Momentum buffer."""

    step: Int[Array, ""]  # updates made so far
    trace: optax.Updates  # torch's momentum_buffer


def sgd(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    momentum: Momentum = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Stochastic gradient descent as `torch.optim.SGD` computes it::

        g = g + weight_decay p
        buf = g                                     at the first update
        buf = momentum buf + (1 - dampening) g      from then on
        p = p - lr (g + momentum buf  if nesterov else  buf)

    Without momentum ``p = p - lr g``. Dampening without momentum, which torch accepts and ignores, is
    refused. A schedule for the momentum receives 0 at the first update and must stay above 0: where torch finds
    0, it leaves the buffer untouched.

    Raises:
        ValueError: a hyperparameter is out of range, or dampening or nesterov comes without momentum.
        TypeError: a hyperparameter other than the learning rate is an array.
    """
    check_momentum(momentum)
    check_flags(nesterov=nesterov)
    number("dampening", dampening)
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError(
            "Nesterov momentum requires a momentum and zero dampening: "
            f"got momentum={momentum}, dampening={dampening}; pass for example momentum=0.9, dampening=0."
        )
    if momentum == 0:
        if dampening != 0:
            raise ValueError(
                f"dampening={dampening} has no effect without momentum: pass a momentum or leave it out."
            )
        return descend(optax.identity(), learning_rate, weight_decay, maximize=maximize)
    direction = scale_by_momentum(momentum, dampening, nesterov=nesterov)
    return descend(direction, learning_rate, weight_decay, maximize=maximize)


def scale_by_momentum(
    momentum: Momentum, dampening: float = 0.0, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """Momentum's direction; the first buffer is the gradient itself, undamped."""

    def rule(t: Array, g: Array, buf: Array) -> tuple[Array, ...]:
        now = at_update(momentum, t, g.dtype)
        buf = now * buf + jnp.where(t == 1, 1.0, 1 - dampening).astype(g.dtype) * g
        return (g + now * buf if nesterov else buf), buf

    return elementwise(MomentumState, rule, trace=0.0)
