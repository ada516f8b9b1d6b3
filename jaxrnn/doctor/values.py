"""What is known of the values of a program that is read, but not run.

A value of which nothing is known is an `Array` without marks: its `root` still tells it from all others.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

_fresh = itertools.count().__next__


@dataclass(frozen=True)
class Name:
    """What was imported: a function, a class or a module of another package, by its dotted name."""

    dotted: str


@dataclass(frozen=True)
class Constant:
    """A number, a string, True, False or None."""

    value: Any


@dataclass(frozen=True)
class Items:
    """A tuple or a list whose length is known."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Many:
    """As many of a kind as there may be: a list comprehension, a data loader."""

    item: Any


@dataclass(frozen=True)
class Padding:
    """That rows of unequal lengths were filled up: with what, and which axis the rows are on."""

    value: Any  # a Constant, or whatever else
    batch_first: bool | None
    right: bool = True  # behind the sequences


@dataclass(frozen=True)
class Array:
    """A tensor, or anything else that is not known better."""

    root: int = field(default_factory=_fresh)  # equal where rows and steps are
    padding: Padding | None = None
    activation: str | None = None  # softmax, log_softmax, sigmoid
    shape: tuple[tuple[Any, ast.expr], ...] | None = None  # of a fresh one: each size, and as it is written


@dataclass(frozen=True)
class Shape:
    """The shape of an array."""

    root: int


@dataclass(frozen=True)
class Size:
    """One size of an array."""

    root: int
    axis: int


@dataclass(frozen=True, eq=False)
class Made:
    """An object of another package's class: a layer, a loss, an optimizer, with what it was made of."""

    name: str
    node: ast.AST
    options: dict[str, Any]
    items: tuple[Any, ...] = ()  # the modules of a Sequential or a ModuleList

    def known(self, option: str, default: Any) -> Any:
        """Return an option's plain value, the default where it was left out, None where it is not known."""
        if option not in self.options:
            return None if None in self.options else default  # None stands for **options
        value = self.options[option]
        return value.value if isinstance(value, Constant) else None


@dataclass(frozen=True)
class Output:
    """What a recurrent layer says of every step."""

    layer: Made
    time_axis: int | None
    padded: str | None = None  # how it is known that rows end earlier
    direct: bool = True  # no readout in between
    activation: str | None = None
    root: int = field(default_factory=_fresh)

    @property
    def padding(self) -> Padding | None:
        """That it is padded, where it is; with zeros, on the right."""
        rows_first = None if self.time_axis is None else self.time_axis == 1
        return Padding(Constant(0), rows_first) if self.padded else None


@dataclass(frozen=True)
class State:
    """What a recurrent layer holds behind the last step, `h_n` or `c_n`: [L * D, B, H]."""

    layer: Made
    root: int | None  # of the input
    over_padding: bool | None = None  # False where each row ended by itself, None where nobody knows


@dataclass(frozen=True)
class Packed:
    """Sequences without their padding."""

    of: Any


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the program, or a lambda."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    cls: Class | None = None  # where it is a method


@dataclass(frozen=True, eq=False)
class Class:
    """A class of the program."""

    node: ast.ClassDef
    scope: Scope
    bases: tuple[Any, ...]

    def method(self, name: str) -> Function | None:
        """Return a method, its own or one of its bases'."""
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return Function(node, self.scope, self)
        return self.inherited(name)

    def inherited(self, name: str) -> Function | None:
        """Return a method of the bases."""
        found = (base.method(name) for base in self.bases if isinstance(base, Class))
        return next(filter(None, found), None)


@dataclass(frozen=True, eq=False)
class Instance:
    """An object of a class of the program, and its attributes."""

    cls: Class
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Super:
    """An object as the bases of a class see it."""

    instance: Instance
    cls: Class


@dataclass(frozen=True)
class Bound:
    """A method of an object: of a class of the program, or, by its name alone, of any value."""

    value: Any
    name: str


@dataclass(eq=False)
class Scope:
    """The names of a module or a function, and the scope around it."""

    names: dict[str, Any]
    outer: Scope | None = None
    function: ast.AST | None = None
    source: Any = None  # of a module

    def module(self) -> Scope:
        """Return the scope of the module."""
        return self.outer.module() if self.outer else self

    def find(self, name: str) -> Any:
        """Return the value of a name, or None where it has none here."""
        if name in self.names:
            return self.names[name]
        return self.outer.find(name) if self.outer else None


@dataclass(frozen=True, eq=False)
class Module:
    """A program that was imported by another that is read with it."""

    scope: Scope


Value = Any  # one of the above


def merge(left: Value, right: Value) -> Value:
    """Return what is known of a value that is one of the two, and nobody knows which."""
    if left is right or left == right:
        return left
    if isinstance(left, Items) and isinstance(right, Items) and len(left.items) == len(right.items):
        return Items(tuple(map(merge, left.items, right.items)))
    return Array()


def same_rows(value: Value) -> Value:
    """Return the value behind what works on features: of the same rows and steps, with nothing else known."""
    if isinstance(value, Output):
        return replace(value, direct=False, activation=None)
    if isinstance(value, Array):
        return replace(value, activation=None, shape=None)
    return Array()


def activated(value: Value, name: str) -> Value:
    """Return the value behind a softmax or a sigmoid."""
    kept = same_rows(value)
    return replace(kept, activation=name)


RECURRENT = ("RNN", "GRU", "LSTM", "PeepholeLSTM")


def is_recurrent(value: Value) -> bool:
    """Tell a recurrent layer, torch's or this library's."""
    return isinstance(value, Made) and value.name in {
        f"{package}.{name}" for package in ("torch.nn", "jaxrnn", "torch_ref") for name in RECURRENT
    }


def is_cell(value: Value) -> bool:
    """Tell one step of a recurrent layer."""
    return isinstance(value, Made) and value.name.rpartition(".")[2] in {f"{name}Cell" for name in RECURRENT}


def directions(layer: Made) -> int | None:
    """Return how many directions a recurrent layer has, None where it is not known."""
    known = layer.known("bidirectional", False)
    return None if known is None else 1 + bool(known)


def blocks(layer: Made) -> int | None:
    """Return how many states a recurrent layer has, layers times directions, None where it is not known."""
    layers, each = layer.known("num_layers", 1), directions(layer)
    return layers * each if isinstance(layers, int) and each is not None else None
