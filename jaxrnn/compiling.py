"""A function that is compiled once, however often the code that defines it runs."""

import functools
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

_KEPT: dict[types.CodeType, deque[tuple[Any, Any]]] = {}
_EACH = 4  # of one code, the last ones that differ in their values


def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function by `nnx.jit`; the same code over the same values is not compiled again.

    A step that is defined inside of the function that trains is another function at each call, which `nnx.jit`
    alone compiles anew::

        def train(model, optimizer, batches, criterion):
            @jaxrnn.compiled_once
            def step(model, optimizer, x, y): ...

    The values that it takes from around it are the same if they cannot change and are equal: numbers, text, tuples,
    functions with such values, arrays of JAX that are one. With any other value it is compiled again.
    """
    kept = _KEPT.setdefault(function.__code__, deque(maxlen=_EACH))
    for earlier, compiled in kept:
        if _same(earlier, function):
            return compiled
    kept.append((function, nnx.jit(function)))
    return kept[-1][1]


def _same(first: Any, second: Any) -> bool:
    """Return whether two values are equal and cannot change."""
    if type(first) is not type(second):
        return False
    if isinstance(first, types.FunctionType):
        return first is second or (
            first.__code__ is second.__code__
            and first.__globals__ is second.__globals__
            and _same(first.__defaults__, second.__defaults__)
            and _same(_items(first.__kwdefaults__), _items(second.__kwdefaults__))
            and _same(_around(first), _around(second))
        )
    if isinstance(first, functools.partial):
        parts = ((each.func, each.args, _items(each.keywords)) for each in (first, second))
        return _same(*parts)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, int | float | complex | str | bytes | None):
        return first == second
    return first is second and isinstance(
        first, jax.Array | type | types.BuiltinFunctionType | types.ModuleType
    )


def _items(of: Any) -> tuple[Any, ...] | None:
    return None if of is None else tuple(sorted(of.items()))


def _around(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what a function takes from around it; an object of its own for what is not there yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(object())
    return tuple(found)
