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
_UNCHANGING = (
    jax.Array, type, types.ModuleType, types.CodeType, types.FunctionType, types.BuiltinFunctionType,
)  # fmt: skip


def compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function by `nnx.jit`; the same code over the same values is not compiled again.

    A step that is defined inside of the function that trains is another function at each call, which `nnx.jit`
    alone compiles anew::

        def train(model, optimizer, batches, criterion):
            @jaxrnn.compiled_once
            def step(model, optimizer, x, y): ...

    The values that it takes from around it and from its file, and those that functions of its file take, are the
    same if they cannot change and are equal: numbers, text, tuples, functions, modules, arrays of JAX that are one.
    With any other value it is compiled again.
    """
    kept = _KEPT.setdefault(function.__code__, deque(maxlen=_EACH))
    described = _described(function, function.__globals__, ())
    for earlier, compiled in kept:
        if _same(earlier, described):
            return compiled
    kept.append((described, nnx.jit(function)))
    return kept[-1][1]


def _described(value: Any, file: dict[str, Any], inside: tuple[Any, ...]) -> Any:
    """Return a value with each function of a file as its code and what it takes from elsewhere, as it is now."""
    if isinstance(value, functools.partial):
        value = (value.func, value.args, *sorted(value.keywords.items()))
    if isinstance(value, tuple):
        return tuple(_described(each, file, inside) for each in value)
    if not isinstance(value, types.FunctionType) or value.__globals__ is not file:
        return value
    if value in inside:  # it calls itself
        return value.__code__
    taken = (
        value.__defaults__,
        *sorted((value.__kwdefaults__ or {}).items()),
        *_around(value),
        *_of_file(value),
    )
    return value.__code__, _described(taken, file, (*inside, value))


def _same(first: Any, second: Any) -> bool:
    """Return whether two values are equal and cannot change."""
    if type(first) is not type(second):
        return False
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, int | float | complex | str | bytes | None):
        return first == second
    return first is second and isinstance(first, _UNCHANGING)


def _around(function: types.FunctionType) -> list[Any]:
    """Return what a function takes from around it; an object of its own for what is not there yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(object())
    return found


def _of_file(function: types.FunctionType) -> list[Any]:
    """Return the values of the names at the top of its file that a function reads, in it or in one inside of it."""
    codes = [function.__code__]
    for code in codes:  # which grows on the way
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    names = sorted({name for code in codes for name in code.co_names} & function.__globals__.keys())
    return [function.__globals__[name] for name in names]
