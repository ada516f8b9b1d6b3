"""What operators, indices and branches make of values."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxrnn.doctor import library
from jaxrnn.doctor.values import Array, Bound, Constant, Items, Made, Many, Output, Shape, Value, merge

Kept = dict[int, tuple[dict[str, Value], dict[str, Value]]]  # tables of names by identity, and what they held
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def merged(values: Sequence[Value]) -> Value:
    """Return what is known of a value that is one of several."""
    found = values[0] if values else Array()
    for each in values[1:]:
        found = merge(found, each)
    return found


def restore(kept: Kept) -> None:
    """Let tables hold again what they held."""
    for table, copy in kept.values():
        table.clear()
        table.update(copy)


def merged_states(ends: list[Kept]) -> Kept:
    """Return what tables hold behind one of several branches."""
    found: Kept = {}
    for end in ends:
        for key, (table, names) in end.items():
            _, known = found.setdefault(key, (table, dict(names)))
            for name, value in names.items():
                known[name] = merge(known.get(name, value), value)
    return found


def parts(value: Value, targets: Sequence[ast.expr]) -> Iterator[Value]:
    """Yield what each target of an unpacking gets."""
    starred = any(isinstance(each, ast.Starred) for each in targets)
    if isinstance(value, Items) and len(value.items) == len(targets) and not starred:
        yield from value.items
    elif isinstance(value, Shape) and not starred:
        yield from (library.size(value.root, Constant(axis)) for axis in range(len(targets)))
    else:
        yield from (value.item if isinstance(value, Many) else Array() for _ in targets)


def indexed(base: Value, index: Sequence[ast.expr], values: Sequence[Value]) -> Value:
    """Return what an index gives."""
    first = values[0].value if isinstance(values[0], Constant) else None
    if (
        isinstance(base, Items | Made)
        and isinstance(first, int)
        and -len(base.items) <= first < len(base.items)
    ):
        return base.items[first]
    if isinstance(base, Items | Made | Many):
        return library.iterated(base) if not isinstance(index[0], ast.Slice) else Array()
    if isinstance(base, Shape):
        return library.size(base.root, values[0])
    if isinstance(base, Array):
        sliced = all(isinstance(each, ast.Slice) for each in index)
        return Array(padding=base.padding if sliced else None, activation=base.activation)
    return Array(activation=base.activation) if isinstance(base, Output) else Array()


def is_number(value: Value) -> bool:
    """Tell whether a value is a number that is known."""
    return isinstance(value, Constant) and isinstance(value.value, int | float)


def computed(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Value:
    """Return the result of an operation on numbers."""
    try:
        return Constant(operation(left, right))
    except (ArithmeticError, ValueError):
        return Array()


def is_none(value: Value, wanted: bool) -> Value:
    """Return what `value is None` gives, or, if that is not `wanted`, `value is not None`."""
    if isinstance(value, Array | Bound):
        return Array()
    return Constant((value == Constant(None)) is wanted)


def compared(operator: ast.cmpop, left: Any, right: Any) -> Value:
    """Return what a comparison of two known values gives."""
    try:
        match operator:
            case ast.Eq():
                return Constant(left == right)
            case ast.NotEq():
                return Constant(left != right)
            case ast.Gt():
                return Constant(left > right)
            case ast.Lt():
                return Constant(left < right)
    except TypeError:
        pass
    return Array()


def decorators(node: Any) -> set[str]:
    """Return the plain names among the decorators of a function."""
    return {each.id for each in getattr(node, "decorator_list", ()) if isinstance(each, ast.Name)}


def stored_attributes(method: ast.AST) -> Iterator[str]:
    """Yield the attributes that a method assigns."""
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def assignment(cls: ast.ClassDef, attribute: str) -> ast.AST:
    """Return the statement that gives an attribute its value, or else the class."""
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign) and any(getattr(t, "attr", None) == attribute for t in node.targets):
            return node
    return cls


def declared_global(tree: ast.AST) -> set[str]:
    """Return the names of the module that a function may give another value."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def size(tree: ast.AST) -> int:
    """Return how much there is to read in a function."""
    return sum(1 for _ in ast.walk(tree))
