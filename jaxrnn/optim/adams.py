"""Adam and its variants: a mean of the gradient over the root of a mean of its square."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxrnn.optim._common import (
    Momentum,
    at_least_zero,
    at_update,
    bias_correction,
    check_betas,
    check_flags,
    descend,
    elementwise,
    lerp,
    map_leaves,
)


class AdamState(NamedTuple):
    """Moments of the gradient."""

    step: Int[Array, ""]  # updates made so far
    mu: optax.Updates  # first moment; torch's exp_avg
    nu: optax.Updates  # second moment; torch's exp_avg_sq
    nu_max: optax.Updates | None = None  # largest second moment so far, with amsgrad; torch's max_exp_avg_sq


class AdamaxState(NamedTuple):
    """First moment and largest size of the gradient."""

    step: Int[Array, ""]  # updates made so far
    mu: optax.Updates  # first moment; torch's exp_avg
    largest: optax.Updates  # torch's exp_inf


class NAdamState(NamedTuple):
    """Moments of the gradient, and the product of the momenta so far."""

    step: Int[Array, ""]  # updates made so far
    mu_product: Float[Array, ""]
    mu: optax.Updates  # first moment; torch's exp_avg
    nu: optax.Updates  # second moment; torch's exp_avg_sq


def adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Momentum = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    amsgrad: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, 2015) as `torch.optim.Adam` computes it::

        g = g + weight_decay p
        m = m + (1 - b1) (g - m)
        v = b2 v + (1 - b2) g²
        p = p - lr / (1 - b1ᵗ) · m / (√v / √(1 - b2ᵗ) + eps)

    With `amsgrad` (Reddi et al., 2018) the largest v so far stands for v; `optax.amsgrad` takes the
    largest ``v / (1 - b2ᵗ)``. `maximize` turns the gradient's sign before anything else.

    `optax.adam` is the same formula, but in float32 it takes ``1 - b2**t`` as a difference of float32
    numbers, wrong by up to 1e-5 during the first hundred steps; torch computes it in Python doubles.
    Here it is ``-expm1(t log b2)``, accurate to float32's rounding. Weight decay is torch's coupled L2
    term: it enters the moments (``adamw``'s does not). A schedule receives 0 at the first update; for `b1`,
    too, which torch's one-cycle policy changes, and whose current value enters ``1 - b1ᵗ``.

    Example::

        optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)

    Raises:
        ValueError: a hyperparameter is out of range.
        TypeError: a hyperparameter other than the learning rate is an array.
    """
    direction = scale_by_adam(b1, b2, eps, amsgrad=amsgrad)
    return descend(direction, learning_rate, weight_decay, maximize=maximize)


def adamw(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Momentum = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    amsgrad: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019) as `torch.optim.AdamW` computes it::

        p = p - lr weight_decay p - lr · (Adam's direction)

    The decay defaults to torch's 1e-2 (`optax.adamw`: 1e-4); all else is as in ``adam``.
    """
    direction = scale_by_adam(b1, b2, eps, amsgrad=amsgrad)
    return descend(direction, learning_rate, weight_decay, decoupled=True, maximize=maximize)


def adamax(
    learning_rate: optax.ScalarOrSchedule = 2e-3,
    b1: Momentum = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam in the largest norm (Kingma & Ba, 2015, section 7.1) as `torch.optim.Adamax` computes it::

        m = m + (1 - b1) (g - m)
        u = max(b2 u, |g| + eps)
        p = p - lr / (1 - b1ᵗ) · m / u

    Weight decay is coupled, as in ``adam``.
    """
    _check(b1, b2, eps)

    def rule(t: Array, g: Array, m: Array, u: Array) -> tuple[Array, ...]:
        decay = at_update(b1, t, g.dtype)
        m = lerp(m, g, 1 - decay)
        u = jnp.maximum(b2 * u, jnp.abs(g) + eps)
        return m / u / bias_correction(decay, t, g.dtype), m, u

    direction = elementwise(AdamaxState, rule, mu=0.0, largest=0.0)
    return descend(direction, learning_rate, weight_decay, maximize=maximize)


def nadam(
    learning_rate: optax.ScalarOrSchedule = 2e-3,
    b1: Momentum = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    *,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Adam with Nesterov's momentum (Dozat, 2016) as `torch.optim.NAdam` computes it::

        μ(t) = b1 (1 - 0.96^(t momentum_decay) / 2)
        Π = μ(1) ... μ(t)
        m, v as in Adam
        p = p - lr ((1 - μ(t)) / (1 - Π) · g + μ(t+1) / (1 - Π μ(t+1)) · m) / (√(v / (1 - b2ᵗ)) + eps)

    `optax.nadam` has no such schedule of the momentum and differs from the first step on.

    torch keeps Π in the default dtype, whatever the parameters have: without
    ``torch.set_default_dtype(torch.float64)`` a float64 parameter's updates are right to some 1e-7 only. Here Π
    has JAX's default dtype, float64 under x64.
    """
    _check(b1, b2, eps)
    check_flags(decoupled_weight_decay=decoupled_weight_decay)
    at_least_zero("momentum_decay", momentum_decay, "momentum_decay value")

    def init(params: optax.Params) -> NAdamState:
        one = jnp.ones([], jnp.result_type(float))
        return NAdamState(
            jnp.zeros([], jnp.int32), one, optax.tree.zeros_like(params), optax.tree.zeros_like(params)
        )

    def cache(t: Array, decay: Any, dtype: Any) -> tuple[Array, Array]:
        """``μ(t)``, and ``1 - μ(t)`` without cancellation."""
        missing = 0.5 * decay * 0.96 ** (t.astype(dtype) * momentum_decay)
        return decay - missing, (1 - decay) + missing

    def update(
        grads: optax.Updates, state: NAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, NAdamState]:
        del params
        t = optax.safe_increment(state.step)
        dtype = state.mu_product.dtype
        decay = at_update(b1, t, dtype)
        momentum, rest = cache(t, decay, dtype)
        following, _ = cache(t + 1, decay, dtype)
        product = state.mu_product * momentum
        gradients_share = rest / (1 - product)
        means_share = following / (1 - product * following)

        def rule(g: Array, m: Array, v: Array) -> tuple[Array, ...]:
            m = lerp(m, g, 1 - decay if isinstance(decay, int | float) else (1 - decay).astype(g.dtype))
            v = b2 * v + (1 - b2) * g * g
            root = jnp.sqrt(v / bias_correction(b2, t, g.dtype)) + eps
            return gradients_share.astype(g.dtype) * g / root + means_share.astype(g.dtype) * m / root, m, v

        direction, mu, nu = map_leaves(rule, grads, state.mu, state.nu)
        return direction, NAdamState(t, product, mu, nu)

    direction = optax.GradientTransformation(init, update)
    return descend(
        direction, learning_rate, weight_decay, decoupled=decoupled_weight_decay, maximize=maximize
    )


def radam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Momentum = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Rectified Adam (Liu et al., 2020) as `torch.optim.RAdam` computes it::

        ρ∞ = 2 / (1 - b2) - 1,   ρ = ρ∞ - 2 t b2ᵗ / (1 - b2ᵗ)
        r = √((ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ))
        m, v as in Adam,   m̂ = m / (1 - b1ᵗ)
        p = p - lr r m̂ √(1 - b2ᵗ) / (√v + eps)       if ρ > 5
        p = p - lr m̂                                 otherwise: the first steps

    `optax.radam` adds eps after the division by ``√(1 - b2ᵗ)``. In float32 the two terms of ρ, both near
    2000, would cancel; ``_sma_length`` says how that is avoided.
    """
    _check(b1, b2, eps)
    check_flags(decoupled_weight_decay=decoupled_weight_decay)

    def rule(t: Array, g: Array, m: Array, v: Array) -> tuple[Array, ...]:
        decay = at_update(b1, t, g.dtype)
        m = lerp(m, g, 1 - decay)
        v = b2 * v + (1 - b2) * g * g
        mean = m / bias_correction(decay, t, g.dtype)
        adaptive = mean * (jnp.sqrt(bias_correction(b2, t, g.dtype)) / (jnp.sqrt(v) + eps))
        rectified, rectifier = _rectifier(b2, t, g.dtype)
        return jnp.where(rectified, adaptive * rectifier, mean), m, v

    direction = elementwise(AdamState, rule, mu=0.0, nu=0.0)
    return descend(
        direction, learning_rate, weight_decay, decoupled=decoupled_weight_decay, maximize=maximize
    )


def scale_by_adam(
    b1: Momentum, b2: float, eps: float, *, amsgrad: bool = False
) -> optax.GradientTransformation:
    """Adam's direction ``m / (1 - b1ᵗ) / (√v / √(1 - b2ᵗ) + eps)``, learning rate and weight decay aside."""
    _check(b1, b2, eps)
    check_flags(amsgrad=amsgrad)

    def rule(t: Array, g: Array, m: Array, v: Array, *v_max: Array) -> tuple[Array, ...]:
        decay = at_update(b1, t, g.dtype)
        m = lerp(m, g, 1 - decay)
        v = b2 * v + (1 - b2) * g * g
        v_max = tuple(jnp.maximum(past, v) for past in v_max)
        *_, second = v, *v_max
        root = jnp.sqrt(second) / jnp.sqrt(bias_correction(b2, t, g.dtype))
        return m / (root + eps) / bias_correction(decay, t, g.dtype), m, v, *v_max

    return elementwise(AdamState, rule, mu=0.0, nu=0.0, **({"nu_max": 0.0} if amsgrad else {}))


def _check(b1: Momentum, b2: float, eps: float) -> None:
    check_betas(b1, b2)
    at_least_zero("eps", eps, "epsilon value")


def _rectifier(b2: float, t: Array, dtype: Any) -> tuple[Any, Array]:
    """Whether ρ > 5, and RAdam's r where it is."""
    longest = 2 / (1 - b2) - 1
    if longest <= 5:  # ρ stays below its limit
        return False, jnp.ones([], dtype)
    length = _sma_length(b2, t, dtype)
    ratio = (length(4) * length(2) * longest) / ((longest - 4) * (longest - 2) * length(0))
    return length(5) > 0, jnp.sqrt(jnp.maximum(ratio, 0))


def _sma_length(b2: float, t: Array, dtype: Any) -> Callable[[int], Array]:
    """``less -> ρ - less``, exact to rounding also where ρ is much smaller than ρ∞.

    With ``L = -log b2``, ``ρ∞ = coth(L/2)`` and ``2 t b2ᵗ / (1 - b2ᵗ) = t coth(t L/2) - t``. Both hold 2/L,
    which cancels in their difference; in terms of the Langevin function Λ(y) = coth(y) - 1/y it is absent::

        ρ = t + Λ(L/2) - t Λ(t L/2)

    For large t the published form is the exact one.
    """
    half = -math.log(b2) / 2
    steps = t.astype(dtype)
    y = steps * half
    missing = steps * _langevin(jnp.minimum(y, 1)) - _langevin(half)
    late = 2 / (1 - b2) - 1 - 2 * steps / jnp.expm1(2 * y)
    return lambda less: jnp.where(y < 1, (t - less).astype(dtype) - missing, late - less)


def _langevin(y: Any) -> Any:
    """``coth(y) - 1/y`` for 0 <= y <= 1: Gauss's continued fraction y/(3 + y²/(5 + y²/(7 + ...)))."""
    denominator = 19.0
    for odd in range(17, 1, -2):
        denominator = odd + y * y / denominator
    return y / denominator
