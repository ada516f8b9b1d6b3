"""What names in a file stand for: `nn.LSTM`, `F.relu` and the like by their full names."""

import ast
import copy
import symtable
from collections.abc import Iterable, Iterator

# What torch offers under two names.
SAME = {
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.nn.modules.Module": "torch.nn.Module",
    "torch.nn.parameter.Parameter": "torch.nn.Parameter",
}


class Names:
    """The imports of a file: what each name that it binds stands for."""

    def __init__(self, tree: ast.Module):
        self.imported = {
            alias.asname or alias.name.partition(".")[0]: _target(node, alias)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        self.packages = {target.partition(".")[0] for target in self.imported.values()}
        self.functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self.classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
        self.stars = [
            node.module or "."
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        ]

    def full(self, node: ast.AST) -> str:
        """Return the full name of a dotted expression, "torch.nn.LSTM"; of a name of the file's own, that name."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        name = ".".join([self.imported.get(node.id, node.id), *reversed(parts)])
        return SAME.get(name, name)

    def bases(self, node: ast.ClassDef) -> set[str]:
        """Return the full names of a class's bases."""
        return {self.full(base) for base in node.bases}

    def of_torch(self, node: ast.AST) -> str | None:
        """Return the full name of what belongs to torch, or None."""
        name = self.full(node)
        return name if name == "torch" or name.startswith("torch.") else None

    def mentions_torch(self, node: ast.AST) -> bool:
        """Return whether something of torch is in a piece of code."""
        return any(self.of_torch(n) for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute))

    def called(self, function: ast.expr, owner: str) -> ast.arguments | None:
        """Return the parameters, but `self`, of what a call runs, if it is in this file, as far as the code tells.

        `owner` is the class in which the call stands.
        """
        if isinstance(function, ast.Name):
            plain = self.functions.get(function.id)
            return self._of_method(function.id, "__init__") if plain is None else plain.args
        if not isinstance(function, ast.Attribute):
            return None
        if self.full(function.value) == "self":
            return self._of_method(owner, function.attr)
        if isinstance(function.value, ast.Call) and self.full(function.value.func) == "super":
            return self._of_bases(owner, function.attr)
        having = [name for name, node in self.classes.items() if _method(node, function.attr) is not None]
        return self._of_method(having[0], function.attr) if len(having) == 1 else None

    def _of_method(self, owner: str, name: str) -> ast.arguments | None:
        """Return the parameters of a class's method, or of that of its bases."""
        node = _method(self.classes[owner], name) if owner in self.classes else None
        if node is None:
            return self._of_bases(owner, name)
        found = copy.copy(node.args)
        if not any(self.full(decorator) == "staticmethod" for decorator in node.decorator_list):
            found.args = found.args[1:]
            found.defaults = found.defaults[-len(found.args) :] if found.args else []
        return found

    def _of_bases(self, owner: str, name: str) -> ast.arguments | None:
        bases = self.bases(self.classes[owner]) if owner in self.classes else set()
        return next((found for base in bases if (found := self._of_method(base, name)) is not None), None)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def with_defaults(of: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Yield a function's parameters with their defaults."""
    positional = [*of.posonlyargs, *of.args]
    yield from zip(positional, [*[None] * (len(positional) - len(of.defaults)), *of.defaults], strict=True)
    yield from zip(of.kwonlyargs, of.kw_defaults, strict=True)


def _target(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    if isinstance(node, ast.ImportFrom):
        return f"{node.module}.{alias.name}"
    return alias.name if alias.asname else alias.name.partition(".")[0]


def bound_by(statements: Iterable[ast.stmt]) -> dict[str, ast.stmt]:
    """Return the names that statements at the top of a file bind, with the last statement that binds each."""
    found: dict[str, ast.stmt] = {}
    for statement in statements:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                found |= dict.fromkeys((n.id for n in ast.walk(target) if isinstance(n, ast.Name)), statement)
    return found


def used_in(node: ast.AST) -> set[str]:
    """Return the names that a piece of code reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def free_in(statement: ast.stmt) -> set[str]:
    """Return the names that a statement takes from the file around it; a function's own variables are not."""
    table = symtable.symtable(ast.unparse(statement), "statement", "exec")
    found, inside = set[str](), [table]
    while inside:
        scope = inside.pop()
        inside += scope.get_children()
        symbols = [s for s in scope.get_symbols() if s.is_referenced()]
        found |= {s.get_name() for s in symbols if scope is table or s.is_global()}
    return found
