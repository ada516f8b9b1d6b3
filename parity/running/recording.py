"""Every number that a JAX function computes on its way: the intermediate values of its program, loops included.

Whoever wants to know where a computation goes wrong needs no hooks in it: JAX can write any function down as a
program (a jaxpr), and the program is evaluated here operation by operation, keeping what each one returns. Inside a
loop the values of all steps are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from parity.gates import Array

OPAQUE = ("while", "cond", "pallas_call", "custom_call")  # only what they return is seen


def recorded(function: Callable[..., Any]) -> Callable[..., list[jax.Array]]:
    """Return a function that returns every floating-point array that `function` computes, inputs included."""

    def record(*args: Any) -> list[jax.Array]:
        program = jax.make_jaxpr(function)(*args)
        leaves = jax.tree.leaves(args)
        _, values = _evaluate(program.jaxpr, program.consts, leaves)
        return [value for value in (*leaves, *values) if _is_floating(value)]

    return record


class Values:
    """A set of numbers, to be asked which others are among them."""

    def __init__(self, arrays: Iterable[Any]) -> None:
        flat = [np.asarray(array, np.float64).ravel() for array in arrays]
        numbers = np.concatenate([np.zeros(1), *flat])
        self._sorted = np.unique(numbers[np.isfinite(numbers)])

    def __len__(self) -> int:
        return len(self._sorted)

    def distance(self, wanted: Array) -> Array:
        """Return how far each number is from the nearest one here."""
        after = np.searchsorted(self._sorted, wanted)
        near = [self._sorted[np.clip(after + shift, 0, len(self._sorted) - 1)] for shift in (-1, 0)]
        return np.minimum(*(np.abs(number - wanted) for number in near))


def _evaluate(program: Any, consts: Any, args: Any) -> tuple[list[Any], list[Any]]:
    """Return a program's results and all values that it computed on the way."""
    known: dict[Any, Any] = {}
    seen: list[Any] = []

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else known[variable]

    known |= zip(program.constvars, consts, strict=True)
    known |= zip(program.invars, args, strict=True)
    for equation in program.eqns:
        inputs = [read(variable) for variable in equation.invars]
        outputs, inside = _apply(program, equation, inputs)
        known |= zip(equation.outvars, outputs, strict=True)
        seen += [*inside, *(value for value in outputs if _is_floating(value))]
    return [read(variable) for variable in program.outvars], seen


def _apply(program: Any, equation: Any, inputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return what an operation returns, and what it computed inside."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return _scan(params, inputs)
    inner = [value for value in params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr)]
    if name not in OPAQUE and len(inner) == 1:
        body, consts = _opened(inner[0])
        if len(body.invars) == len(inputs):
            return _evaluate(body, consts, inputs)
    return _alone(program, equation, inputs), []


def _alone(program: Any, equation: Any, inputs: list[Any]) -> list[Any]:
    """Return what one operation of a program returns, as a program of its own."""
    given = {
        variable: value
        for variable, value in zip(equation.invars, inputs, strict=True)
        if not isinstance(variable, core.Literal)
    }
    alone = program.replace(constvars=[], invars=list(given), outvars=list(equation.outvars), eqns=[equation])
    return list(core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*given.values()))


def _scan(params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Run a loop that stacks, beside its own outputs, all values of its body."""
    consts, carry, series = _roles(params, inputs)
    body, body_consts = _opened(params["jaxpr"])

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
        results, seen = _evaluate(body, body_consts, [*consts, *carry, *slices])
        after, outputs = results[: len(carry)], results[len(carry) :]
        after = [jnp.asarray(new, old.dtype) for new, old in zip(after, carry, strict=True)]
        return after, (outputs, seen)

    after, (outputs, seen) = jax.lax.scan(
        step, list(carry), list(series), length=params["length"], reverse=params["reverse"]
    )
    return [*after, *outputs], seen


def _roles(params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return what a loop uses at every step, what it carries, and what it runs along."""
    if "num_consts" in params:
        counts = [params["num_consts"], params["num_carry"]]
    else:  # JAX 0.12 keeps the inputs' nesting instead of the counts
        counts = [len(list(group)) for group in params["ft_in"].unpack()][:2]
    end = sum(counts)
    return inputs[: counts[0]], inputs[counts[0] : end], inputs[end:]


def _opened(program: Any) -> tuple[Any, Any]:
    """Return a program and its constants, which JAX 0.12 keeps in the program itself."""
    inside = getattr(program, "jaxpr", program)
    return inside, getattr(program, "consts", ())


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)
