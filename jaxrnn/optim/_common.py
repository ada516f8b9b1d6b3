"""What the optimizers share: the order of torch's stages, arithmetic leaf by leaf, checks of hyperparameters."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Momentum: TypeAlias = float | optax.Schedule  # a schedule, because torch's one-cycle policy cycles it


class ScheduleState(NamedTuple):
    """Where a learning rate schedule is."""

    step: Int[Array, ""]  # updates made so far


def descend(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    *,
    decoupled: bool = False,
    maximize: bool = False,
) -> optax.GradientTransformation:
    """Step against ``direction`` in torch's order: maximize, weight decay, direction, learning rate::

    g = -g                            if maximize
    g = g + weight_decay p            if coupled
    p = p - lr direction(g)
    p = p - lr weight_decay p         if decoupled; p is the one before the step
    """
    _flag("maximize", maximize)
    at_least_zero("weight_decay", weight_decay, "weight_decay value")
    if isinstance(learning_rate, int | float):
        at_least_zero("learning_rate", learning_rate, "learning rate")
    decay = [_add_decay(weight_decay)] if weight_decay else []
    return optax.chain(
        *([negate()] if maximize else []),
        *([direction, *decay] if decoupled else [*decay, direction]),
        _scale_by_negative(learning_rate),
    )


def negate() -> optax.GradientTransformation:
    """Turn the gradient of what is to be maximized into one of what is to be minimized."""
    return optax.stateless(lambda grads, params: jax.tree.map(lambda g: -g, grads))


def _add_decay(weight_decay: float) -> optax.GradientTransformation:
    @in_float32
    def decayed(g: Array, p: Array) -> Array:
        return g + weight_decay * p

    def update(grads: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("weight_decay needs the parameters: call update(grads, state, params).")
        return jax.tree.map(decayed, grads, params)

    return optax.stateless(update)


def _scale_by_negative(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    def scaled(updates: optax.Updates, rate: Any) -> optax.Updates:
        return jax.tree.map(in_float32(lambda u: -as_scalar(rate, u.dtype) * u), updates)

    if not callable(learning_rate):
        return optax.stateless(lambda updates, params: scaled(updates, learning_rate))

    def init(params: optax.Params) -> ScheduleState:
        del params
        return ScheduleState(jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates, state: ScheduleState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScheduleState]:
        del params
        updates = scaled(updates, learning_rate(state.step))
        return updates, ScheduleState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)


# Arithmetic


def elementwise(
    state_type: Callable[..., Any], rule: Callable[..., tuple[Array, ...]], **starts: float
) -> optax.GradientTransformation:
    """Make a transformation of ``rule(t, g, *buffers)``, which gives direction and new buffers element by element.

    ``t`` is the number of the update, from 1. The buffers are those fields of ``state_type`` that ``starts``
    names, in this order, each like the parameters and filled with the number given. `rule` computes in float32
    or better.
    """

    def init(params: optax.Params) -> Any:
        buffers = {name: optax.tree.full_like(params, start) for name, start in starts.items()}
        return state_type(jnp.zeros([], jnp.int32), **buffers)

    def update(grads: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[Any, Any]:
        del params
        t = optax.safe_increment(state.step)
        buffers = (getattr(state, name) for name in starts)
        direction, *new = map_leaves(lambda *leaves: rule(t, *leaves), grads, *buffers)
        return direction, state_type(t, **dict(zip(starts, new, strict=True)))

    return optax.GradientTransformation(init, update)


def map_leaves(rule: Callable[..., tuple[Array, ...]], *trees: Any) -> tuple[Any, ...]:
    """As many trees as given, of what ``rule(*leaves)`` returns; the i-th keeps the dtypes of the i-th given."""
    first: list[Any]
    structure: Any
    first, structure = jax.tree.flatten(trees[0])
    columns = [first, *(structure.flatten_up_to(tree) for tree in trees[1:])]
    rows = [in_float32(rule)(*leaves) for leaves in zip(*columns, strict=True)]
    return tuple(structure.unflatten([row[i] for row in rows]) for i in range(len(trees)))


def in_float32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """``rule`` computed in float32 or better; the i-th result comes in the dtype of the i-th argument.

    A bfloat16 array would round the constants too: 0.999 to 1. torch computes each operation on bfloat16 in
    float32 and rounds its result; here only what is stored is rounded.
    """

    def rounded(*leaves: Array) -> Any:
        leaves = tuple(jnp.asarray(leaf) for leaf in leaves)
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"gradients and parameters: expected floating point arrays, got {leaf.dtype}{leaf.shape}; "
                    "take it out with optax.masked or nnx.Optimizer's wrt."
                )
        wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
        results = rule(*(leaf.astype(wide) for leaf in leaves))
        if not isinstance(results, tuple):
            return results.astype(leaves[0].dtype)
        return tuple(result.astype(leaf.dtype) for result, leaf in zip(results, leaves, strict=True))

    return rounded


def as_scalar(value: Any, dtype: jax.typing.DTypeLike) -> Any:
    """Leave a Python number as it is, so that its differences are exact; make anything else an array of dtype."""
    return value if isinstance(value, int | float) else jnp.asarray(value, dtype)


def at_update(value: Momentum, t: Int[Array, ""], dtype: jax.typing.DTypeLike) -> Any:
    """Momentum at the t-th update, from 1; a schedule receives 0 at the first."""
    return as_scalar(value(t - 1), dtype) if callable(value) else value


def lerp(start: Array, end: Array, weight: Any) -> Array:
    """``start + weight (end - start)``, from whichever end is nearer, as torch's `lerp` does."""
    if not isinstance(weight, int | float):
        return jnp.where(weight < 0.5, start + weight * (end - start), end - (end - start) * (1 - weight))
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


def bias_correction(decay: Any, t: Int[Array, ""], dtype: jax.typing.DTypeLike) -> Float[Array, ""]:
    """``1 - decay**t`` without cancellation, in float32 or better."""
    log_decay: Any = -math.inf
    if not isinstance(decay, int | float):
        log_decay = jnp.log(decay)
    elif decay > 0:
        log_decay = math.log(decay)
    return -jnp.expm1(t.astype(jnp.promote_types(dtype, jnp.float32)) * log_decay)


# Checks: torch's message where torch raises one, then what was expected


def at_least_zero(name: str, value: Any, torchs_name: str) -> None:
    """Raise unless the value is a finite number of at least 0."""
    number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(
            f"Invalid {torchs_name}: {value}. {name}={value}: expected a finite number of at least 0."
        )


def below_one(name: str, value: Any, torchs_name: str) -> None:
    """Raise unless 0 <= value < 1."""
    number(name, value)
    if not 0 <= value < 1:
        raise ValueError(
            f"Invalid {torchs_name}: {value}. {name}={value}: expected at least 0 and less than 1; torch's "
            f"defaults are b1=0.9 and b2=0.999."
        )


def check_betas(b1: Momentum, b2: float) -> None:
    """Raise unless both are decays; a schedule for b1 is trusted."""
    if not callable(b1):
        below_one("b1", b1, "beta parameter at index 0")
    below_one("b2", b2, "beta parameter at index 1")


def check_momentum(momentum: Momentum) -> None:
    """Raise unless it is at least 0; a schedule is trusted."""
    if not callable(momentum):
        at_least_zero("momentum", momentum, "momentum value")


def check_flags(**flags: Any) -> None:
    """Raise unless every option is a bool."""
    for name, value in flags.items():
        _flag(name, value)


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}.")


def number(name: str, value: Any) -> None:
    """Raise unless it is a Python number."""
    if not isinstance(value, int | float):
        raise TypeError(
            f"{name}: expected a Python number, got {type(value).__name__}. Only the learning rate may be "
            f"an array or a schedule (momentum and b1 a schedule); with optax.inject_hyperparams, list {name} "
            "in static_args."
        )
