"""Optimizers with one mistake each, in JAX: those that optax does not bring itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrnn import optim

Candidate = Callable[[Any], optax.GradientTransformation]


class _Moments(NamedTuple):
    count: Any
    mu: Any
    nu: Any


def uncorrected_adam(lr: float) -> Candidate:
    """Adam without bias correction."""
    return lambda factor: optax.chain(_adam(lambda t: jnp.inf), _scaled(lr, factor))


def late_adam(lr: float) -> Candidate:
    """Adam whose bias correction is one update ahead."""
    return lambda factor: optax.chain(_adam(lambda t: t + 1), _scaled(lr, factor))


def _adam(count: Callable[[Any], Any]) -> optax.GradientTransformation:
    def init(params: Any) -> _Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return _Moments(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(grads: Any, state: _Moments, params: Any = None) -> Any:
        t = state.count + 1
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: 0.999 * v + (1 - 0.999) * g * g, state.nu, grads)

        def direction(m: Any, v: Any) -> Any:
            first, second = (-jnp.expm1(count(t) * jnp.log(jnp.asarray(b, m.dtype))) for b in (0.9, 0.999))
            return m / first / (jnp.sqrt(v / second) + 1e-8)

        return jax.tree.map(direction, mu, nu), _Moments(t, mu, nu)

    return optax.GradientTransformation(init, update)


def _scaled(lr: float, factor: Any) -> optax.GradientTransformation:
    return optax.scale_by_learning_rate(lambda k: lr * factor(k))


def damped_from_the_start(lr: float, momentum: float, dampening: float) -> Candidate:
    """SGD whose first momentum buffer is damped, too."""

    def candidate(factor: Any) -> optax.GradientTransformation:
        return optax.chain(optax.scale(1 - dampening), optax.trace(momentum), _scaled(lr, factor))

    return candidate


def clipped_each(max_norm: float, lr: float, eps: float) -> Candidate:
    """Clip the norm of each array by itself, then SGD."""

    def clip(g: Any) -> Any:
        norm = jnp.sqrt(jnp.sum(g * g))
        return g * jnp.where(norm > 0, jnp.minimum(1.0, max_norm / (norm + eps)), 1.0)

    each = optax.stateless(lambda grads, params: jax.tree.map(clip, grads))
    return lambda factor: optax.chain(each, _scaled(lr, factor))


def clipped_groups(max_norm: float, lr: float, part: str) -> Candidate:
    """Clip the norm of each group of parameters by itself, then SGD."""
    clip = optim.clip_grad_norm(max_norm)
    groups = optax.multi_transform(
        {True: clip, False: clip}, lambda params: {name: part in name for name in params}
    )
    return lambda factor: optax.chain(groups, _scaled(lr, factor))


def clipped_updates(max_norm: float, lr: float) -> Candidate:
    """Clip the update, not the gradient."""
    return lambda factor: optax.chain(_scaled(lr, factor), optim.clip_grad_norm(max_norm))


def late_rate(lr: float, by: int, steps: int) -> Candidate:
    """Adam with the learning rate of another update."""

    def candidate(factor: Any) -> optax.GradientTransformation:
        return optim.adam(lambda k: lr * factor(jnp.clip(k + by, 0, steps - 1)))

    return candidate


def forgetful(lr: float, step: int) -> Candidate:
    """Adam that starts anew before one update, counted from 1."""

    def candidate(factor: Any) -> optax.GradientTransformation:
        adam = optim.scale_by_adam(0.9, 0.999, 1e-8)

        def init(params: Any) -> Any:
            return jnp.zeros([], jnp.int32), adam.init(params)

        def update(grads: Any, state: Any, params: Any = None) -> Any:
            count, inner = state
            fresh = adam.init(grads)
            inner = jax.tree.map(lambda old, new: jnp.where(count + 1 == step, new, old), inner, fresh)
            updates, inner = adam.update(grads, inner, params)
            return updates, (count + 1, inner)

        return optax.chain(optax.GradientTransformation(init, update), _scaled(lr, factor))

    return candidate


def accumulated(lr: float, every: int, mean: bool) -> Candidate:
    """SGD with an update for so many gradients, from their mean or their sum."""

    def candidate(factor: Any) -> optax.GradientTransformation:
        sgd = optim.sgd(lambda k: lr * factor(every * k + every - 1))
        # In a run in float32 this is float32, too; its default is so in float64.
        steps = optax.MultiSteps(sgd, every, use_grad_mean=mean, accumulator_dtype=jnp.float64)
        return steps.gradient_transformation()

    return candidate


def skipping(lr: float, every: int) -> Candidate:
    """SGD with the last of so many gradients; the others are lost."""

    def candidate(factor: Any) -> optax.GradientTransformation:
        return _scaled(lr, lambda k: jnp.where((k + 1) % every == 0, factor(k), 0.0))

    return candidate
