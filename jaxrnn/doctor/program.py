"""What is noted of a program while it is read: its calls, its indices, what it makes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxrnn.doctor.library import Arguments
from jaxrnn.doctor.values import Class, Made, Value
from jaxrnn.source import Source


@dataclass(frozen=True)
class Call:
    """A call: of what, with what; `frame` tells one reading of a function from all others."""

    node: ast.Call
    target: Value
    arguments: Arguments
    frame: int
    function: ast.AST | None


@dataclass(frozen=True)
class Index:
    """An index into an output, a state or an array: ``base[index]``."""

    node: ast.Subscript
    base: Value
    index: tuple[ast.expr, ...]
    frame: int
    function: ast.AST | None


@dataclass(eq=False)
class Program:
    """Sources that were read together, and what was noted."""

    sources: tuple[Source, ...]
    made: list[Made] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    indices: list[Index] = field(default_factory=list)
    targets: dict[ast.AST, list[Value]] = field(default_factory=dict)  # what each call calls
    classes: dict[ast.AST, Class] = field(default_factory=dict)
    nodes: list[ast.AST] = field(init=False)
    parents: dict[ast.AST, ast.AST] = field(init=False)
    reached: dict[ast.AST, list[ast.AST]] = field(default_factory=dict)  # by `within`, which fills it

    def __post_init__(self) -> None:
        self.nodes = [node for source in self.sources for node in ast.walk(source.tree)]
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what a node is in, from the inside out."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def source_of(self, node: ast.AST) -> Source:
        """Return the source that a node is in."""
        tree = [node, *self.around(node)][-1]
        return next(source for source in self.sources if source.tree is tree)


Facts = dict[tuple[str, str], dict[str, Any]]  # (class, attribute) of a module that was built: its options
