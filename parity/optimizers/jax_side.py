"""Runs an optax transformation on recorded gradients: one compiled program, a scan over the steps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn import optim
from parity.gates import Array
from parity.optimizers.replay import Replay
from parity.specs import Call, attribute, parse

# A transformation, or what makes one of a learning rate: a function of the update's number.
Candidate: TypeAlias = optax.GradientTransformation | Callable[[Any], optax.GradientTransformation]

ROOTS = {"optax": optax, "jaxrnn.optim": optim}


def is_transformation(candidate: Any) -> bool:
    """Tell a finished transformation from what makes one of a learning rate."""
    return hasattr(candidate, "init") and hasattr(candidate, "update")


def from_text(text: str) -> Candidate:
    """Return what `optax.adamw(1e-3)` makes: names under `optax.` and `jaxrnn.optim.`, literals, calls of these.

    A learning rate that is written as a number is left open, so that a replay can change it from step to step; it
    is found by its parameter's name, `learning_rate`, wherever in the call it stands.

    Raises:
        ValueError: the text is no such call.
    """
    call = parse(text)
    lookup = functools.partial(attribute, ROOTS)
    made = call.make(lookup)
    if not is_transformation(made):
        raise ValueError(
            f"{text!r} makes a {type(made).__name__}, not an optax.GradientTransformation; write for example "
            "optax.adamw(1e-3)."
        )
    if not _rates(call):
        return made

    def candidate(factor: Any) -> optax.GradientTransformation:
        return _with_rate(call, factor).make(lookup)

    return candidate


def grouped(text: str, groups: Mapping[str, Mapping[str, Any]], frozen: Collection[str] = ()) -> Candidate:
    """Return a transformation with parameter groups, as `parity.optimizers.torch_side.grouped` has them."""
    call, lookup = parse(text), functools.partial(attribute, ROOTS)

    def label(name: str) -> str:
        if any(part in name for part in frozen):
            return "frozen"
        return next((part for part in groups if part in name), "")

    def candidate(factor: Any) -> optax.GradientTransformation:
        made = {"frozen": optax.set_to_zero()}
        for part in ("", *groups):
            options = {**call.options, **groups.get(part, {})}
            made[part] = _with_rate(dataclasses.replace(call, options=options), factor).make(lookup)
        return optax.multi_transform(made, lambda params: {name: label(name) for name in params})

    return candidate


def _rates(call: Call) -> list[float]:
    """Return the learning rates that are numbers and can be schedules instead."""
    inner = [value for value in (*call.args, *call.options.values()) if isinstance(value, Call)]
    found = [rate for each in inner for rate in _rates(each)]
    place = _place_of_rate(call)
    return [*found, *([] if place is None else [place[1]])]


def _place_of_rate(call: Call) -> tuple[str | int, float] | None:
    """Where a call's learning rate is, and what; the default counts."""
    try:
        function = attribute(ROOTS, call.name)
        signature = dict(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return None
    if "learning_rate" not in signature or _takes_numbers_only(call.name):
        return None
    position = list(signature).index("learning_rate")
    if position < len(call.args):
        value: Any = call.args[position]
        where: str | int = position
    else:
        value = call.options.get("learning_rate", signature["learning_rate"].default)
        where = "learning_rate"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (where, float(value)) if is_number else None


def _takes_numbers_only(name: str) -> bool:
    """Schedules start from a number, and `optax.rprop` has no other rate than the first."""
    return name.endswith(("_lr", "_schedule", "reduce_on_plateau")) or name == "optax.rprop"


def _with_rate(call: Call, factor: Any) -> Call:
    """Return the call with every learning rate multiplied by a function of the update's number."""

    def rated(value: Any) -> Any:
        return _with_rate(value, factor) if isinstance(value, Call) else value

    args, options = [rated(each) for each in call.args], {k: rated(v) for k, v in call.options.items()}
    place = _place_of_rate(call)
    if place is not None:
        where, rate = place

        def schedule(step: Any) -> Any:
            return rate * factor(step)

        if isinstance(where, int):
            args[where] = schedule
        else:
            options[where] = schedule
    return Call(call.name, tuple(args), options)


def run(candidate: Candidate, replay: Replay, dtype: str) -> dict[str, Array]:
    """Return every parameter after every step, `[steps, *shape]`."""
    with _x64(dtype):
        width = jnp.dtype(dtype)
        start = {name: jnp.asarray(value, width) for name, value in replay.start.items()}
        gradients = {name: jnp.asarray(value, width) for name, value in replay.gradients.items()}
        runs = _program(_Kept(candidate))(start, gradients, jnp.asarray(replay.rates))
        return {name: np.asarray(steps) for name, steps in runs.items()}


class _Kept:
    """A candidate as a key: the same object is the same program."""

    def __init__(self, candidate: Any) -> None:
        self.candidate = candidate

    def __hash__(self) -> int:
        return id(self.candidate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.candidate is other.candidate


@functools.lru_cache(maxsize=64)
def _program(kept: _Kept) -> Callable[..., dict[str, jax.Array]]:
    candidate: Any = kept.candidate

    @jax.jit
    def program(start: Any, gradients: Any, rates: jax.Array) -> dict[str, jax.Array]:
        # In float32 the rates are rounded once, as torch's are where they meet the parameters.
        made = candidate if is_transformation(candidate) else candidate(lambda step: rates[step])
        transformation = optax.with_extra_args_support(made)

        def step(carry: Any, gradient: Any) -> tuple[Any, Any]:
            params, state = carry
            updates, state = transformation.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (start, transformation.init(start)), gradients)[1]

    return program


def _x64(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
