"""A learning rate that drops when a metric stops getting better."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxrnn.optim._common import at_least_zero, in_float32, number
from jaxrnn.optim.schedules import check_count, check_rate


class PlateauState(NamedTuple):
    """Where torch's ReduceLROnPlateau is."""

    learning_rate: Float[Array, ""]
    best: Float[Array, ""]
    bad: Int[Array, ""]  # metrics in a row that were no better; torch's num_bad_epochs
    cooldown: Int[Array, ""]  # metrics that do not count yet


def reduce_on_plateau(
    learning_rate: float,
    *,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the updates by a learning rate that drops as torch's `ReduceLROnPlateau` makes it drop.

    A metric is better if it is below ``best (1 - threshold)``, or ``best - threshold`` with `threshold_mode` "abs"
    (mode "max": above, with +). After more than `patience` metrics in a row that were not, the rate becomes
    ``max(factor rate, min_lr)``, unless that is less than `eps` away; then `cooldown` metrics do not count.
    (`optax.contrib.reduce_on_plateau` drops one metric earlier.)

    Put it after an optimizer with learning rate 1 and say at each update what was measured::

        optimizer = optax.chain(adam(1.0), reduce_on_plateau(1e-3, patience=5))
        updates, state = optimizer.update(grads, state, params, value=loss)

    `value` counts after the update, as in ``optimizer.step(); scheduler.step(loss)``. What was measured since the
    update before, as once per epoch, is passed to the next one as `validation` and counts before it, as in
    ``scheduler.step(validation_loss)`` between two epochs. In the other updates say ``value=None``.
    """
    check_rate(learning_rate)
    _check(mode, factor, threshold, threshold_mode)
    check_count("patience", patience, least=0)
    check_count("cooldown", cooldown, least=0)
    at_least_zero("min_lr", min_lr, "min_lr")
    at_least_zero("eps", eps, "eps")
    sign = 1 if mode == "min" else -1

    def init(params: optax.Params) -> PlateauState:
        del params
        rate = jnp.asarray(learning_rate, jnp.result_type(float))
        zero = jnp.zeros([], jnp.int32)
        return PlateauState(rate, jnp.full_like(rate, sign * jnp.inf), zero, zero)

    def observed(state: PlateauState, metric: Any) -> PlateauState:
        metric = jnp.asarray(metric, state.best.dtype)
        # As a difference: best (1 - threshold) rounded in float32 would decide some metrics otherwise than torch.
        margin = threshold * (state.best if threshold_mode == "rel" else 1.0)
        beats = sign * (state.best - metric) > margin
        better = jnp.where(jnp.isinf(state.best), sign * metric < sign * state.best, beats)
        cooling = state.cooldown > 0
        bad = jnp.where(better | cooling, 0, state.bad + 1)
        drops = bad > patience
        lower = jnp.maximum(state.learning_rate * factor, min_lr)
        moves = drops & (state.learning_rate - lower > eps)
        return PlateauState(
            learning_rate=jnp.where(moves, lower, state.learning_rate),
            best=jnp.where(better, metric, state.best),
            bad=jnp.where(drops, 0, bad),
            cooldown=jnp.where(drops, cooldown, state.cooldown - cooling),
        )

    def update(
        updates: optax.Updates, state: PlateauState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, PlateauState]:
        del params
        if not extra.keys() & {"value", "validation"}:
            raise TypeError(
                "reduce_on_plateau: expected a metric, got none: call update(grads, state, params, value=loss), "
                "with value=None where there is nothing to report."
            )
        if extra.get("validation") is not None:
            state = observed(state, extra["validation"])
        scale = in_float32(lambda u: state.learning_rate.astype(u.dtype) * u)
        updates = jax.tree.map(scale, updates)
        if extra.get("value") is not None:
            state = observed(state, extra["value"])
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def _check(mode: str, factor: float, threshold: float, threshold_mode: str) -> None:
    number("factor", factor)
    if factor >= 1:
        raise ValueError(f"Factor should be < 1.0. factor={factor} would not lower the learning rate.")
    at_least_zero("factor", factor, "factor")
    if mode not in ("min", "max"):
        raise ValueError(f"mode {mode} is unknown! Use 'min' for a loss, 'max' for an accuracy.")
    if threshold_mode not in ("rel", "abs"):
        raise ValueError(f"threshold mode {threshold_mode} is unknown! Use 'rel' or 'abs'.")
    at_least_zero("threshold", threshold, "threshold")
    if threshold_mode == "rel" and threshold >= 1:
        raise ValueError(f"threshold={threshold}: expected a part of the best metric, less than 1.")
