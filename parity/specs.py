"""Calls written as text, `AdamW(lr=1e-3)`, read without running anything but what they name. NumPy only.

A text is parsed, never evaluated: names that begin with an allowed prefix are looked up, calls are made with
literal arguments, and everything else is refused.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Lookup = Callable[
    [str], Any
]  # a dotted name -> what it stands for; raises ValueError where it is not allowed


@dataclass(frozen=True)
class Call:
    """A parsed call: a dotted name, its arguments; arguments may be calls themselves."""

    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, lookup: Lookup) -> Any:
        """Make the call, inner calls first."""
        args = [_made(value, lookup) for value in self.args]
        options = {name: _made(value, lookup) for name, value in self.options.items()}
        return lookup(self.name)(*args, **options)


@dataclass(frozen=True)
class Name:
    """A dotted name that is not called."""

    name: str


def parse(text: str) -> Call:
    """Read one call, or a bare name as a call without arguments.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not a call: {error.msg}. Write it as Name(option=1e-3).") from error
    value = _value(tree, text)
    if isinstance(value, Name):
        return Call(value.name)
    if not isinstance(value, Call):
        raise ValueError(f"{text!r} is not a call. Write it as Name(option=1e-3).")
    return value


def _value(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Call(func=function, args=args, keywords=keywords):
            if any(keyword.arg is None for keyword in keywords):
                raise ValueError(f"{text!r}: ** is not understood. Write the options out.")
            options = {str(keyword.arg): _value(keyword.value, text) for keyword in keywords}
            return Call(_dotted(function, text), tuple(_value(each, text) for each in args), options)
        case ast.Name() | ast.Attribute():
            name = _dotted(node, text)
            return math.inf if name in ("inf", "math.inf") else Name(name)
        case ast.Tuple(elts=elements):
            return tuple(_value(each, text) for each in elements)
        case ast.List(elts=elements):
            return [_value(each, text) for each in elements]
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {
                _value(key, text): _value(value, text)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(
            f"{text!r}: {ast.unparse(node)!r} is neither a literal nor a call. Write numbers, texts, tuples, lists "
            "and calls; for more than that name a factory, pkg.mod:factory."
        ) from error


def _dotted(node: ast.expr, text: str) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name) if not name.startswith("_"):
            return f"{_dotted(value, text)}.{name}"
    raise ValueError(f"{text!r}: {ast.unparse(node)!r} is not a dotted name. Name what is called.")


def require_literals(call: Call, text: str) -> None:
    """Raise ValueError if an argument is a name or a call."""
    for value in (*call.args, *call.options.values()):
        if isinstance(value, Call | Name):
            raise ValueError(
                f"{text!r}: {value.name} is not a literal. Write a number, a text, a tuple or a list."
            )


def _made(value: Any, lookup: Lookup) -> Any:
    match value:
        case Call():
            return value.make(lookup)
        case Name(name=name):
            return lookup(name)
        case list() | tuple():
            return type(value)(_made(each, lookup) for each in value)
        case dict():
            return {key: _made(each, lookup) for key, each in value.items()}
    return value


def attribute(roots: Mapping[str, Any], name: str) -> Any:
    """Look a dotted name up under the roots allowed: `attribute({"optax": optax}, "optax.adam")`.

    Raises:
        ValueError: the name is under no root, private, or not there.
    """
    root = max((each for each in roots if name == each or name.startswith(f"{each}.")), key=len, default=None)
    if root is None:
        raise ValueError(f"{name} is none of {', '.join(f'{each}.*' for each in roots)}.")
    found = roots[root]
    for part in name.removeprefix(root).strip(".").split("."):
        if part.startswith("_") or not hasattr(found, part):
            raise ValueError(f"{name}: {root} has nothing called {part!r}.")
        found = getattr(found, part)
    return found
