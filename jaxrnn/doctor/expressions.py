"""Names and expressions: the half of reading a program that gives values."""

from __future__ import annotations

import ast
import builtins
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxrnn.doctor import library, operations
from jaxrnn.doctor.library import Arguments
from jaxrnn.doctor.program import Call, Index, Program
from jaxrnn.doctor.values import (
    Array,
    Bound,
    Class,
    Constant,
    Function,
    Instance,
    Items,
    Made,
    Many,
    Module,
    Name,
    Output,
    Packed,
    Scope,
    Shape,
    State,
    Super,
    Value,
    merge,
)

_SELF_RETURNING = frozenset(
    ["to", "cuda", "cpu", "eval", "train", "float", "double", "half", "apply", "requires_grad_"]
)


@dataclass(eq=False)
class Expressions:
    """Reads expressions in a scope; what one of the program's own functions returns is for `enter` to say."""

    program: Program
    enter: Callable[[Function, Arguments, Value], Value]
    scope: Scope = field(default_factory=lambda: Scope({}))
    frame: int = 0  # which reading of a function this is
    yielded: list[list[Value]] = field(default_factory=lambda: [[]])  # by the functions that are being read
    functions: dict[ast.AST, Function] = field(default_factory=dict)  # all that were met
    changing: set[tuple[Scope, str]] = field(default_factory=set)  # names of modules with several values
    modules: dict[str, Scope] = field(
        default_factory=dict
    )  # what was imported of the sources, by dotted names

    def bind(self, name: str, value: Value) -> None:
        """Give a name a value."""
        if self.scope.outer is None and self.scope.names.get(name, value) != value:
            self.changing.add((self.scope, name))
        self.scope.names[name] = value

    def assign(self, target: ast.expr, value: Value) -> None:
        """Give what stands on the left of an assignment its value."""
        match target:
            case ast.Name():
                self.bind(target.id, value)
            case ast.Attribute():
                owner = self.value(target.value)
                if isinstance(owner, Instance):
                    owner.attributes[target.attr] = value
                elif isinstance(owner, Made):
                    owner.options[target.attr] = value
            case ast.Tuple() | ast.List():
                for each, part in zip(target.elts, operations.parts(value, target.elts), strict=True):
                    self.assign(each, part)
            case ast.Starred():
                self.assign(target.value, Array())
            case _:
                self.children(target)

    # Expressions

    def value(self, node: ast.expr) -> Value:
        """Return what is known of an expression's value."""
        match node:
            case ast.Constant():
                return Constant(node.value)
            case ast.Name():
                return self._name(node.id)
            case ast.Attribute():
                return self._attribute(self.value(node.value), node.attr)
            case ast.Call():
                return self._call(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.Tuple() | ast.List() if not any(isinstance(each, ast.Starred) for each in node.elts):
                return Items(tuple(map(self.value, node.elts)))
            case ast.Lambda():
                function = Function(node, self.scope)
                self.functions.setdefault(node, function)
                return function
            case ast.IfExp():
                test, yes, no = map(self.value, (node.test, node.body, node.orelse))
                return (yes if test.value else no) if isinstance(test, Constant) else merge(yes, no)
            case ast.ListComp() | ast.GeneratorExp():
                return self._comprehension(node)
            case ast.NamedExpr():
                value = self.value(node.value)
                self.assign(node.target, value)
                return value
            case ast.BinOp() | ast.UnaryOp() | ast.Compare():
                return self._operation(node)
            case ast.Yield(value=ast.expr() as given):
                self.yielded[-1].append(self.value(given))
                return Array()
            case ast.Await():
                return self.value(node.value)
        self.children(node)
        return Array()

    def children(self, node: ast.AST) -> None:
        """Read all expressions in something of which nothing else is known."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
            elif not isinstance(child, ast.stmt):
                self.children(child)

    def _name(self, name: str) -> Value:
        found = self.scope.find(name)
        if found is not None:
            return found
        return Name(name) if hasattr(builtins, name) else Array()

    def _attribute(self, value: Value, name: str) -> Value:
        match value:
            case Name():
                dotted = f"{value.dotted}.{name}"
                return Module(self.modules[dotted]) if dotted in self.modules else Name(dotted)
            case Module():
                return value.scope.names.get(name, Array())
            case Instance():
                return self._of_instance(value, name)
            case Made() if name in ("num_layers", "bidirectional", "batch_first"):
                default = {"num_layers": 1}.get(name, False)
                known = value.known(name, default)
                return Array() if known is None else Constant(known)
            case Array() | Output() if name == "shape":
                return Shape(value.root)
            case Packed() if name == "data":
                return Array()
        return Bound(value, name)

    def _of_instance(self, instance: Instance, name: str) -> Value:
        if name in instance.attributes:
            return instance.attributes[name]
        method = instance.cls.method(name)
        if method and "property" in operations.decorators(method.node):
            return self.enter(method, Arguments(), instance)
        return Bound(instance, name)

    def _operation(self, node: Any) -> Value:
        match node:
            case ast.BinOp():
                left, right = self.value(node.left), self.value(node.right)
                operation = operations.OPERATIONS.get(type(node.op))
                if (
                    operation
                    and operations.is_number(left)
                    and operations.is_number(right)
                    and (right.value or left.value)
                ):
                    return operations.computed(operation, left.value, right.value)
            case ast.UnaryOp():
                operand = self.value(node.operand)
                if isinstance(operand, Constant):
                    if isinstance(node.op, ast.Not):
                        return Constant(not operand.value)
                    if isinstance(node.op, ast.USub) and operations.is_number(operand):
                        return Constant(-operand.value)
            case ast.Compare():
                left, *rest = map(self.value, (node.left, *node.comparators))
                if (
                    len(rest) == 1
                    and isinstance(node.ops[0], ast.Is | ast.IsNot)
                    and rest[0] == Constant(None)
                ):
                    return operations.is_none(left, isinstance(node.ops[0], ast.Is))
                if len(rest) == 1 and isinstance(left, Constant) and isinstance(rest[0], Constant):
                    return operations.compared(node.ops[0], left.value, rest[0].value)
        return Array()

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Value:
        before, self.scope = self.scope, Scope({}, self.scope, self.scope.function)
        for generator in node.generators:
            self.assign(generator.target, library.iterated(self.iterable(generator.iter)))
            for condition in generator.ifs:
                self.value(condition)
        item = self.value(node.elt)
        self.scope = before
        return Many(item)

    def iterable(self, node: ast.expr) -> Value:
        """Return the value of what a loop goes through; of a data loader, the batches that its function makes."""
        return self._batches(self.value(node))

    def _batches(self, value: Value) -> Value:
        if isinstance(value, Made) and value.name == "torch.utils.data.DataLoader":
            collate = value.options.get("collate_fn")
            made = isinstance(collate, Function | Class | Instance | Bound)
            return Many(self._apply(collate, Arguments((Array(),), ()), value.node) if made else Array())
        return value

    def _subscript(self, node: ast.Subscript) -> Value:
        base = self.value(node.value)
        whole = isinstance(node.slice, ast.Tuple) and node.slice.elts
        index = whole or [node.slice]
        values = [Array() if isinstance(each, ast.Slice) else self.value(each) for each in index]
        if isinstance(base, Output | State | Array):
            note = Index(node, base, tuple(index), self.frame, self.scope.function)
            self.program.indices.append(note)
        return operations.indexed(base, index, values)

    def _call(self, node: ast.Call) -> Value:
        target = self.value(node.func)
        arguments = self._arguments(node)
        note = Call(node, target, arguments, self.frame, self.scope.function)
        self.program.calls.append(note)
        self.program.targets.setdefault(node, []).append(target)
        found = self._apply(target, arguments, node)
        if isinstance(target, Name) and isinstance(found, Made) and found.node is node:
            self.program.made.append(found)
        return found

    def _arguments(self, node: ast.Call) -> Arguments:
        spread = any(isinstance(each, ast.Starred) for each in node.args) or any(
            each.arg is None for each in node.keywords
        )
        positional = list(itertools.takewhile(lambda each: not isinstance(each, ast.Starred), node.args))
        values = tuple(self._batches(self.value(each)) for each in positional)
        for each in node.args[len(positional) :]:
            self.value(each)
        named = [(keyword.arg, self.value(keyword.value)) for keyword in node.keywords]
        keywords = {name: value for name, value in named if name is not None}
        return Arguments(values, tuple(positional), keywords, not spread)

    def _apply(self, target: Value, arguments: Arguments, node: Any) -> Value:
        match target:
            case Name():
                return library.call(target, arguments, node)
            case Super():  # super()
                return target
            case Function():
                return self.enter(target, arguments, None)
            case Class():
                instance = Instance(target)
                if constructor := target.method("__init__"):
                    self.enter(constructor, arguments, instance)
                return instance
            case Instance():
                method = target.cls.method("forward") or target.cls.method("__call__")
                return self.enter(method, arguments, target) if method else Array()
            case Made() if target.name == "torch.nn.Sequential":
                return self._sequence(target, arguments, node)
            case Made():
                return library.apply(target, arguments)
            case Bound():
                return self._method(target, arguments)
        return Array()

    def _sequence(self, made: Made, arguments: Arguments, node: Any) -> Value:
        value = arguments.first()
        for item in made.items:
            value = self._apply(item, Arguments((value,), arguments.nodes[:1]), node)
        return value

    def _method(self, target: Bound, arguments: Arguments) -> Value:
        if isinstance(target.value, Super):
            inherited = target.value.cls.inherited(target.name)
            return self.enter(inherited, arguments, target.value.instance) if inherited else Array()
        if not isinstance(target.value, Instance):
            value = target.value
            kept = isinstance(value, Made) and target.name in _SELF_RETURNING
            return value if kept else library.method(value, target.name, arguments)
        method = target.value.cls.method(target.name)
        if method:
            return self.enter(method, arguments, target.value)
        return target.value if target.name in _SELF_RETURNING else Array()
