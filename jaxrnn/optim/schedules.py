"""torch's learning rate schedulers as pure functions of the update, counted from 0.

``schedule(k)`` is the learning rate of the k-th update in a loop that calls ``scheduler.step()`` after every
``optimizer.step()``. `k` may be traced. The result has JAX's default float dtype; in float32 nothing is lost
but a few roundings, however far `k` counts: differences that would cancel are taken between integers. For a
scheduler that is stepped once per epoch there is `by_epochs`.

Most of torch's schedulers multiply the rate before by a factor, and collect a rounding at each step. Here the
closed form is computed; the difference is said where it is more than a rounding per step.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxrnn.optim._common import at_least_zero, number

INT_MAX = np.iinfo(np.int32).max


def by_epochs(schedule: optax.Schedule, updates_per_epoch: int) -> optax.Schedule:
    """``schedule(k // updates_per_epoch)``, for a loop of torch that calls ``scheduler.step()`` once per epoch.

    `updates_per_epoch` is ``len(loader)`` where each batch is an update.
    """
    check_count("updates_per_epoch", updates_per_epoch)
    return lambda k: schedule(as_step(k) // updates_per_epoch)


def step_lr(learning_rate: float, step_size: int, *, gamma: float = 0.1) -> optax.Schedule:
    """``learning_rate gamma^(k // step_size)``, torch's `StepLR`; it counts updates, or epochs by `by_epochs`."""
    check_rate(learning_rate)
    check_count("step_size", step_size)
    power = powers("gamma", gamma)
    return lambda k: learning_rate * power(as_step(k) // step_size)


def multi_step_lr(learning_rate: float, milestones: Sequence[int], *, gamma: float = 0.1) -> optax.Schedule:
    """``learning_rate gamma^(milestones reached)``, torch's `MultiStepLR`; one given twice counts twice.

    Milestones are updates, or epochs by `by_epochs`.
    """
    check_rate(learning_rate)
    for milestone in milestones:
        check_count("milestones", milestone, least=0)
    power = powers("gamma", gamma)
    ends = np.asarray(sorted(milestones), np.int32)
    return lambda k: learning_rate * power(jnp.sum(as_step(k) >= ends))


def exponential_lr(learning_rate: float, gamma: float) -> optax.Schedule:
    """``learning_rate gammaᵏ``, torch's `ExponentialLR`; it counts updates, or epochs by `by_epochs`."""
    check_rate(learning_rate)
    power = powers("gamma", gamma)
    return lambda k: learning_rate * power(as_step(k))


def constant_lr(learning_rate: float, *, factor: float = 1 / 3, total_iters: int = 5) -> optax.Schedule:
    """``learning_rate factor`` for the first `total_iters` updates, then ``learning_rate``: torch's `ConstantLR`.

    torch divides by `factor` at the end: factor 0 raises there, where it is fine here.
    """
    check_rate(learning_rate)
    number("factor", factor)
    if not 0 <= factor <= 1:
        raise ValueError(f"Constant multiplicative factor expected to be between 0 and 1. factor={factor}.")
    _check_total_iters(total_iters)
    return lambda k: learning_rate * jnp.where(as_step(k) < total_iters, factor, 1.0)


def linear_lr(
    learning_rate: float, *, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
) -> optax.Schedule:
    """``learning_rate`` times a factor that goes from start to end in `total_iters` updates: torch's `LinearLR`."""
    check_rate(learning_rate)
    number("start_factor", start_factor)
    number("end_factor", end_factor)
    if not 0 < start_factor <= 1:
        raise ValueError(
            "Starting multiplicative factor expected to be greater than 0 and less or equal to 1. "
            f"start_factor={start_factor}."
        )
    if not 0 <= end_factor <= 1:
        raise ValueError(
            f"Ending multiplicative factor expected to be between 0 and 1. end_factor={end_factor}."
        )
    _check_total_iters(total_iters)

    def schedule(k: Any) -> Array:
        done = jnp.minimum(as_step(k), total_iters)
        left = as_float(total_iters - done)
        return learning_rate * ((start_factor * left + end_factor * as_float(done)) / total_iters)

    return schedule


def polynomial_lr(learning_rate: float, *, total_iters: int = 5, power: float = 1.0) -> optax.Schedule:
    """``learning_rate (1 - k / total_iters)^power``, 0 from then on: torch's `PolynomialLR`."""
    check_rate(learning_rate)
    at_least_zero("power", power, "power")
    _check_total_iters(total_iters)
    exponent = int(power) if float(power).is_integer() else power  # whole powers are products, exact

    def schedule(k: Any) -> Array:
        left = as_float(jnp.maximum(total_iters - as_step(k), 0)) / total_iters
        return learning_rate * left**exponent

    return schedule


def cosine_annealing_lr(learning_rate: float, T_max: int, *, eta_min: float = 0.0) -> optax.Schedule:
    """Half a cosine down to `eta_min` in `T_max` updates and back up in the next: torch's `CosineAnnealingLR`.

    ::

        eta_min + (learning_rate - eta_min) (1 + cos(π k / T_max)) / 2

    This is torch's closed form. Its ``step()`` computes a recursion instead, which drifts from it: over 10 T_max
    updates by 2e-14 of the rate for T_max = 10, 2e-13 for 100, and over 20 000 by up to 2e-11 for 1000.
    `optax.cosine_decay_schedule` stays at the bottom after `T_max`, and its `alpha` is a fraction of the rate.
    """
    check_rate(learning_rate)
    check_count("T_max", T_max)
    number("eta_min", eta_min)

    def schedule(k: Any) -> Array:
        from_bottom = jnp.abs(T_max - as_step(k) % (2 * T_max))
        return eta_min + (learning_rate - eta_min) * half_cosine(as_float(from_bottom) / T_max)

    return schedule


def cosine_annealing_warm_restarts(
    learning_rate: float, T_0: int, *, T_mult: int = 1, eta_min: float = 0.0
) -> optax.Schedule:
    """Half a cosine from `learning_rate` to `eta_min`, again and again: torch's `CosineAnnealingWarmRestarts`.

    The first takes `T_0` updates, each further one `T_mult` times as many (SGDR, Loshchilov & Hutter, 2017).
    """
    check_rate(learning_rate)
    if not is_count(T_0):
        raise ValueError(
            f"Expected positive integer T_0, but got {T_0}. T_0 counts the first cycle's updates."
        )
    if not is_count(T_mult):
        raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}. 1 keeps the cycles equally long.")
    number("eta_min", eta_min)
    starts, lengths = [0], [T_0]
    while T_mult > 1 and starts[-1] + lengths[-1] <= INT_MAX:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * T_mult)

    def schedule(k: Any) -> Array:
        k = as_step(k)
        cycle = jnp.sum(k >= np.asarray(starts, np.int32)) - 1
        done = k % T_0 if T_mult == 1 else k - jnp.asarray(starts, jnp.int32)[cycle]
        length = as_float(np.asarray(lengths, np.float64))[cycle]
        return eta_min + (learning_rate - eta_min) * half_cosine((length - as_float(done)) / length)

    return schedule


def lambda_lr(learning_rate: float, lr_lambda: Callable[[Any], Any]) -> optax.Schedule:
    """``learning_rate lr_lambda(k)``, torch's `LambdaLR`.

    The function receives an integer array, traced under jit: write ``jnp.minimum(1.0, (k + 1) / 10)`` for a
    warm-up, not ``min``, and `jnp.where`, not `if`.
    """
    check_rate(learning_rate)
    if not callable(lr_lambda):
        raise TypeError(f"lr_lambda: expected a function of the update, got {type(lr_lambda).__name__}.")
    # In the default int dtype, so that under x64 its quotients are float64.
    return lambda k: learning_rate * as_float(lr_lambda(as_step(k).astype(jnp.result_type(int))))


def sequential_lr(schedules: Sequence[optax.Schedule], milestones: Sequence[int]) -> optax.Schedule:
    """One schedule after the other, each counting from 0 at its milestone: torch's `SequentialLR`."""
    if len(schedules) < 1:
        raise ValueError(
            "SequentialLR expects at least one scheduler, but got no scheduler. Pass a schedule."
        )
    if len(milestones) != len(schedules) - 1:
        raise ValueError(
            "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
            f"milestone points, but got number of schedulers {len(schedules)} and the number of milestones to be "
            f"equal to {len(milestones)}. A milestone is where the next schedule begins."
        )
    for milestone in milestones:
        check_count("milestones", milestone)
    starts = [0, *milestones]
    if starts != sorted(set(starts)):
        raise ValueError(f"milestones={list(milestones)}: expected rising numbers of updates.")

    def schedule(k: Any) -> Array:
        k = as_step(k)
        rates = [as_float(each(jnp.maximum(k - s, 0))) for each, s in zip(schedules, starts, strict=True)]
        return jnp.stack(rates)[jnp.sum(k >= np.asarray(starts, np.int32)) - 1]

    return schedule


def chained_lr(learning_rate: float, schedules: Sequence[optax.Schedule]) -> optax.Schedule:
    """``learning_rate`` times the product of schedules that start from 1: torch's `ChainedScheduler`.

    For torch's schedulers that multiply the rate: step, multi-step, constant, linear, exponential, polynomial. ::

        chained_lr(0.1, [constant_lr(1.0, factor=0.1), exponential_lr(1.0, 0.9)])
    """
    check_rate(learning_rate)
    if len(schedules) < 1:
        raise ValueError(
            "ChainedScheduler expects at least one scheduler to be chained, but got no scheduler. Pass a schedule."
        )
    return lambda k: learning_rate * math.prod(as_float(each(k)) for each in schedules)


# Arithmetic without loss


def as_step(k: Any) -> Array:
    """Make a signed integer array of the update's number; `nnx.Optimizer` counts without a sign."""
    k = jnp.asarray(k)
    return k if jnp.issubdtype(k.dtype, jnp.signedinteger) else k.astype(jnp.int32)


def as_float(value: Any) -> Array:
    """In JAX's default float dtype."""
    return jnp.asarray(value, jnp.result_type(float))


def half_cosine(from_end: Array) -> Array:
    """``(1 + cos(π (1 - from_end))) / 2``, from 1 at the start to 0 at the end.

    As a square of a sine it keeps all digits also near the end, where ``1 + cos`` cancels.
    """
    return jnp.sin(math.pi / 2 * from_end) ** 2


def powers(name: str, base: float) -> Callable[[Array], Array]:
    """``n -> baseⁿ`` for integers n >= 0, right to seven roundings for any n and to three below 65536.

    A float32 ``base**n`` errs by n roundings of the base. Here each byte of n looks up a power computed in float64.
    """
    at_least_zero(name, base, name)
    with np.errstate(all="ignore"):  # powers beyond float64 are 0 or infinite
        table = np.float64(base) ** (np.arange(256) * 256.0 ** np.arange(4)[:, None])

    def power(n: Array) -> Array:
        rows = np.arange(4)
        with np.errstate(all="ignore"):
            rounded = table.astype(jnp.result_type(float))
        return jnp.prod(jnp.asarray(rounded)[rows, (n >> (8 * rows)) & 255])

    return power


# Checks


def check_rate(learning_rate: Any) -> None:
    """Raise unless it is a Python number of at least 0."""
    at_least_zero("learning_rate", learning_rate, "learning rate")


def is_count(value: Any) -> bool:
    """Whether it is an integer of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Raise unless it is an integer of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: expected whole updates, an int, got {value!r}.")
    if value < least:
        raise ValueError(f"{name}={value}: expected at least {least}.")


def _check_total_iters(total_iters: Any) -> None:
    check_count("total_iters", total_iters, least=0)
    if total_iters == 0:
        raise ValueError(
            "total_iters=0: expected at least 1 update; torch would keep the first factor for ever. "
            "Without a first phase, leave the schedule out."
        )
