"""PyTorch's optimizers as optax transformations, exact to torch's own rounding.

An optimizer is a *direction*, what the gradient is turned into before the learning rate, passed to
``_descend``, which puts torch's coupled weight decay before it and the learning rate after it. A new
optimizer is one more direction and one more public function.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

__all__ = ["adam", "scale_by_adam", "scale_by_momentum", "sgd"]


class AdamState(NamedTuple):
    """Moments of the gradient."""

    step: Int[Array, ""]  # updates made so far
    mu: optax.Updates  # first moment; torch's exp_avg
    nu: optax.Updates  # second moment; torch's exp_avg_sq


class MomentumState(NamedTuple):
    """Momentum buffer."""

    step: Int[Array, ""]  # updates made so far
    trace: optax.Updates  # torch's momentum_buffer


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, 2015) as `torch.optim.Adam` computes it::

        g = g + weight_decay p
        m = m + (1 - b1) (g - m)
        v = b2 v + (1 - b2) g²
        p = p - lr / (1 - b1ᵗ) · m / (√v / √(1 - b2ᵗ) + eps)

    `optax.adam` is the same formula, but in float32 it takes ``1 - b2**t`` as a difference of float32
    numbers, wrong by up to 1e-5 during the first hundred steps; torch computes it in Python doubles.
    Here it is ``-expm1(t log b2)``, accurate to float32's rounding. Weight decay is torch's coupled L2
    term: it enters the moments (AdamW's does not). A schedule receives 0 at the first update.

    Example::

        optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)

    Raises:
        ValueError: a hyperparameter is out of range.
        TypeError: a hyperparameter other than the learning rate is an array.
    """
    return _descend(scale_by_adam(b1, b2, eps), learning_rate, weight_decay)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Stochastic gradient descent as `torch.optim.SGD` computes it::

        g = g + weight_decay p
        buf = g                                     at the first update
        buf = momentum buf + (1 - dampening) g      from then on
        p = p - lr (g + momentum buf  if nesterov else  buf)

    Without momentum ``p = p - lr g``. Dampening without momentum, which torch accepts and ignores, is
    refused.

    Raises:
        ValueError: a hyperparameter is out of range, or dampening or nesterov comes without momentum.
        TypeError: a hyperparameter other than the learning rate is an array.
    """
    _at_least_zero("momentum", momentum)
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
        return _descend(optax.identity(), learning_rate, weight_decay)
    return _descend(scale_by_momentum(momentum, dampening, nesterov=nesterov), learning_rate, weight_decay)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction ``m / (1 - b1ᵗ) / (√v / √(1 - b2ᵗ) + eps)``, learning rate and weight decay aside."""
    _below_one("b1", b1)
    _below_one("b2", b2)
    _at_least_zero("eps", eps)

    def init(params: optax.Params) -> AdamState:
        return AdamState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def update(
        grads: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        step = optax.safe_increment(state.step)
        mu = jax.tree.map(lambda m, g: _lerp(m, g, 1 - b1), state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)

        def direction(m: Array, v: Array) -> Array:
            correction1 = _bias_correction(b1, step, m.dtype)
            correction2 = _bias_correction(b2, step, m.dtype)
            return (
                m / (jnp.sqrt(v) / jnp.sqrt(correction2).astype(v.dtype) + eps) / correction1.astype(m.dtype)
            )

        return jax.tree.map(direction, mu, nu), AdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_momentum(
    momentum: float, dampening: float = 0.0, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """Momentum's direction; the first buffer is the gradient itself, undamped."""

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(
        grads: optax.Updates, state: MomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MomentumState]:
        del params
        share = jnp.where(state.step == 0, 1.0, 1 - dampening)
        trace = jax.tree.map(lambda buf, g: momentum * buf + share.astype(g.dtype) * g, state.trace, grads)
        direction = jax.tree.map(lambda g, buf: g + momentum * buf, grads, trace) if nesterov else trace
        return direction, MomentumState(optax.safe_increment(state.step), trace)

    return optax.GradientTransformation(init, update)


def _descend(
    direction: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule, weight_decay: float
) -> optax.GradientTransformation:
    """Step against ``direction``, with torch's coupled weight decay added to the gradient first."""
    _at_least_zero("weight_decay", weight_decay)
    if isinstance(learning_rate, int | float):
        _at_least_zero("learning_rate", learning_rate)
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    return optax.chain(*decay, direction, optax.scale_by_learning_rate(learning_rate))


def _lerp(start: Array, end: Array, weight: float) -> Array:
    """``start + weight (end - start)``, from whichever end is nearer, as torch's `lerp` does."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


def _bias_correction(decay: float, step: Int[Array, ""], dtype: jax.typing.DTypeLike) -> Float[Array, ""]:
    """``1 - decay**step`` without cancellation, in float32 or better."""
    log_decay = math.log(decay) if decay > 0 else -math.inf
    return -jnp.expm1(step.astype(jnp.promote_types(dtype, jnp.float32)) * log_decay)


def _number(name: str, value: float) -> None:
    if not isinstance(value, int | float):
        raise TypeError(
            f"{name}: expected a Python number, got {type(value).__name__}. Only the learning rate may be "
            f"an array or a schedule; with optax.inject_hyperparams, list {name} in static_args."
        )


def _at_least_zero(name: str, value: float) -> None:
    _number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}={value}: expected a finite number of at least 0.")


def _below_one(name: str, value: float) -> None:
    _number(name, value)
    if not 0 <= value < 1:
        raise ValueError(
            f"{name}={value}: expected at least 0 and less than 1; torch's Adam uses 0.9 and 0.999."
        )
