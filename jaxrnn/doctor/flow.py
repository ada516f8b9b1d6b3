"""Reads a program as if it ran, with what is known of its values, and notes each call and each index.

Every function is read by itself, with arguments of which nothing is known, and wherever the program calls it, with
the arguments given there. Of two branches both are read; what they disagree on is not known behind them. A loop is
read once, as its first round. What is left open is not known, and no rule speaks of what is not known.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from jaxrnn.doctor import library, operations
from jaxrnn.doctor.expressions import Expressions
from jaxrnn.doctor.library import Arguments
from jaxrnn.doctor.operations import Kept
from jaxrnn.doctor.program import Facts, Program
from jaxrnn.doctor.values import (
    Array,
    Class,
    Constant,
    Function,
    Instance,
    Made,
    Many,
    Module,
    Name,
    Scope,
    Super,
    Value,
)
from jaxrnn.source import Source, find

Block = Sequence[ast.stmt]
_MOST_NODES = 100_000  # a file, read in calls of functions; beyond, what they return is not known
_DEEPEST = 8


def follow(sources: Sequence[Source], facts: Facts) -> Program:
    """Return what happens in programs, which may import each other; `facts` say what a built module holds.

    Raises ValueError for a program whose expressions are nested too deeply to be read.
    """
    reader = _Reader(sources, facts)
    try:
        reader.read()
    except RecursionError as error:
        names = ", ".join(source.path for source in sources)
        raise ValueError(f"{names}: nested too deeply to be read; split the longest expression.") from error
    return reader.program


class _Reader:
    def __init__(self, sources: Sequence[Source], facts: Facts) -> None:
        self.program = Program(tuple(sources))
        self.facts = facts
        self._scopes: dict[Source, Scope] = {}
        self.now = Expressions(self.program, self._enter)
        self._frames = itertools.count(1).__next__
        self._running: list[ast.AST] = []
        self._results: list[list[Value]] = [[]]
        self._nodes, self._most_nodes = 0, _MOST_NODES * len(sources)
        self._size = functools.cache(operations.size)

    def read(self) -> None:
        """Read the modules, then each of their classes and functions by itself."""
        for source in self.program.sources:
            self._module(source)
        for scope, name in self.now.changing:
            scope.names[name] = Array()  # a function may be called before or after
        done: set[ast.AST] = set()
        while True:  # reading one may meet others
            classes = [each for each in self.program.classes.values() if each.node not in done]
            functions = [each for each in self.now.functions.values() if each.node not in done]
            if not classes and not functions:
                return
            for cls in classes:
                self._class(cls)
            for function in functions:
                self._enter(function, Arguments(complete=False), None)
            done.update(each.node for each in classes)
            done.update(each.node for each in functions)

    def _module(self, source: Source) -> Scope:
        """Read a module, once; return its names."""
        if source not in self._scopes:
            self._scopes[source] = scope = Scope({}, source=source)
            before, self.now.scope = self.now.scope, scope
            self._block(source.tree.body)
            self.now.scope = before
            self.now.changing |= {(scope, name) for name in operations.declared_global(source.tree)}
        return self._scopes[source]

    def _class(self, cls: Class) -> None:
        instance = Instance(cls)
        if constructor := cls.method("__init__"):
            self._enter(constructor, Arguments(complete=False), instance)
        self._add_facts(instance)
        methods = [each for each in cls.node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        methods = [each for each in methods if each.name != "__init__"]
        for name in {name for method in methods for name in operations.stored_attributes(method)}:
            instance.attributes[name] = Array()
        attributes = dict(instance.attributes)
        for method in methods:
            self._enter(Function(method, cls.scope, cls), Arguments(complete=False), instance)
            instance.attributes.clear()
            instance.attributes.update(attributes)

    def _add_facts(self, instance: Instance) -> None:
        for (name, attribute), options in self.facts.items():
            if name != instance.cls.node.name:
                continue
            found = instance.attributes.get(attribute)
            known = {key: Constant(value) for key, value in options.items() if key != "class"}
            if isinstance(found, Made):
                given = {key: value for key, value in found.options.items() if isinstance(value, Constant)}
                layer = Made(found.name, found.node, known | given)
            else:
                layer = Made(options["class"], operations.assignment(instance.cls.node, attribute), known)
            instance.attributes[attribute] = layer
            self.program.made.append(layer)

    # Calls of functions of the program

    def _enter(self, function: Function, arguments: Arguments, owner: Value) -> Value:
        """Read a function's body with arguments; return what it returns."""
        node = function.node
        deep = len(self._running)
        if node in self._running or deep >= _DEEPEST or (deep and self._nodes >= self._most_nodes):
            return Array()
        self._nodes += deep and self._size(node)
        names = self._bound(node, arguments, owner, function.scope)
        if function.cls and isinstance(owner, Instance):
            names["super"] = Super(owner, function.cls)
        before, self.now.scope = self.now.scope, Scope(names, function.scope, node)
        frame, self.now.frame = self.now.frame, self._frames()
        self._running.append(node)
        self._results.append([])
        self.now.yielded.append([])
        if isinstance(node, ast.Lambda):
            self._results[-1].append(self.now.value(node.body))
        elif not self._block(node.body) and not self._results[-1]:
            self._results[-1].append(Constant(None))
        self.now.scope, self.now.frame = before, frame
        self._running.pop()
        results, yielded = self._results.pop(), self.now.yielded.pop()
        return Many(operations.merged(yielded)) if yielded else operations.merged(results)

    def _bound(self, node: Any, arguments: Arguments, owner: Value, scope: Scope) -> dict[str, Value]:
        parameters = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        values = arguments.values
        if owner is not None and "staticmethod" not in operations.decorators(node):
            values = (owner, *values)
        names: dict[str, Value] = {each: Array() for each in parameters}
        names |= {each.arg: Array() for each in node.args.kwonlyargs}
        if arguments.complete:
            names |= self._defaults(node, scope)
        names |= dict(zip(parameters, values, strict=False))
        names |= {k: v for k, v in (arguments.keywords or {}).items() if k in names}
        for rest in filter(None, (node.args.vararg, node.args.kwarg)):
            names[rest.arg] = Array()
        return names

    def _defaults(self, node: Any, scope: Scope) -> dict[str, Value]:
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs = list(zip(reversed(positional), reversed(node.args.defaults), strict=False))
        pairs += [
            (a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None
        ]
        before, self.now.scope = self.now.scope, scope
        found = {each.arg: self.now.value(default) for each, default in pairs}
        self.now.scope = before
        return found

    # Statements

    def _block(self, body: Block) -> bool:
        """Read statements; return whether none behind them is reached."""
        return any(self._statement(each) for each in body)

    def _statement(self, node: ast.stmt) -> bool:
        match node:
            case ast.Return():
                self._results[-1].append(self.now.value(node.value) if node.value else Constant(None))
                return True
            case ast.Raise() | ast.Continue() | ast.Break():
                self.now.children(node)
                return True
            case ast.If():
                return self._if(node)
            case ast.For() | ast.AsyncFor():
                self.now.assign(node.target, library.iterated(self.now.iterable(node.iter)))
                self._block(node.body)
                self._block(node.orelse)
            case ast.While():
                self.now.value(node.test)
                self._block(node.body)
                self._block(node.orelse)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.now.value(item.context_expr)
                    if item.optional_vars:
                        self.now.assign(item.optional_vars, value)
                return self._block(node.body)
            case ast.Try() | ast.TryStar():
                return self._try(node)
            case ast.Match():
                self.now.value(node.subject)
                return self._branches([*[case.body for case in node.cases], []])
            case _:
                self._simple(node)
        return False

    def _simple(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                function = Function(node, self.now.scope)
                self.now.functions.setdefault(node, function)
                self.now.bind(node.name, function)
                for decorator in node.decorator_list:
                    self.now.value(decorator)
            case ast.ClassDef():
                cls = Class(node, self.now.scope, tuple(map(self.now.value, node.bases)))
                self.program.classes.setdefault(node, cls)
                self.now.bind(node.name, cls)
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Assign():
                value = self.now.value(node.value)
                for target in node.targets:
                    self.now.assign(target, value)
            case ast.AnnAssign(value=ast.expr() as given):
                self.now.assign(node.target, self.now.value(given))
            case ast.AugAssign():
                self.now.value(node.value)
                self.now.assign(node.target, Array())
            case _:
                self.now.children(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._import_whole(alias)
            return
        module = self._found(node.module or "", node.level)
        for alias in node.names:
            inner = self._found(f"{node.module}.{alias.name}" if node.module else alias.name, node.level)
            if inner is None and module is not None and alias.name == "*":
                self.now.scope.names.update(module.names)
            elif inner is not None:
                self.now.bind(alias.asname or alias.name, Module(inner))
            elif module is not None:
                self.now.bind(alias.asname or alias.name, module.names.get(alias.name, Array()))
            else:
                unknown = Array() if node.level else Name(f"{node.module}.{alias.name}")
                self.now.bind(alias.asname or alias.name, unknown)

    def _import_whole(self, alias: ast.alias) -> None:
        first = alias.name.partition(".")[0]
        scope = self._found(alias.name, 0)
        if scope is not None:
            self.now.modules[alias.name] = scope
        if scope is not None and (alias.asname or first == alias.name):
            self.now.bind(alias.asname or first, Module(scope))
        else:
            self.now.bind(alias.asname or first, Name(alias.name if alias.asname else first))

    def _found(self, dotted: str, level: int) -> Scope | None:
        """Return the names of a module that is one of the sources, which is read if it was not."""
        importer = self.now.scope.module().source
        assert importer is not None
        source = find(self.program.sources, importer, dotted, level)
        return None if source is None else self._module(source)

    def _if(self, node: ast.If) -> bool:
        test = self.now.value(node.test)
        if isinstance(test, Constant):
            return self._block(node.body if test.value else node.orelse)
        return self._branches([node.body, node.orelse])

    def _try(self, node: Any) -> bool:
        ended = self._branches([[*node.body, *node.orelse], *[each.body for each in node.handlers]])
        return self._block(node.finalbody) or ended

    def _branches(self, bodies: Sequence[Block]) -> bool:
        """Read one of several; what they disagree on is not known behind them."""
        start, ends = self._kept(), []
        for body in bodies:
            operations.restore(start)
            if not self._block(body):
                ends.append(self._kept())
        operations.restore(operations.merged_states(ends) if ends else start)
        return not ends

    def _kept(self) -> Kept:
        """Return the names of the scope, and the attributes of the objects in it: where they are, and copies."""
        tables = [self.now.scope.names]
        tables += [value.attributes for value in self.now.scope.names.values() if isinstance(value, Instance)]
        return {id(table): (table, dict(table)) for table in tables}
