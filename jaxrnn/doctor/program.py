"""What is noted of a program while it is read: its calls, its indices, what it makes."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from jaxrnn.doctor.library import Arguments
from jaxrnn.doctor.source import Source
from jaxrnn.doctor.values import Instance, Made, Value


@dataclass(frozen=True)
class Call:
    """A call: of what, with what; `frame` tells one reading of a function from all others."""

    node: ast.Call
    target: Value
    arguments: Arguments
    frame: int
    function: ast.AST | None
    owner: Value = None  # of a method: the object


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
    """A source that was read, and what was noted."""

    source: Source
    made: list[Made] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    indices: list[Index] = field(default_factory=list)
    targets: dict[ast.AST, list[Value]] = field(default_factory=dict)  # what each call calls
    instances: list[Instance] = field(default_factory=list)  # of each class, made with unknown arguments
    imports: set[str] = field(default_factory=set)
    together: list[Program] = field(default_factory=list)  # what is examined in one go, this one included
    reached: dict[ast.AST, list[ast.AST]] = field(
        default_factory=dict
    )  # from code, through calls; by `within`
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parents |= {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @property
    def tree(self) -> ast.Module:
        """The program's syntax."""
        return self.source.tree


Facts = dict[tuple[str, str], dict[str, Any]]  # (class, attribute) of a module that was built: its options
