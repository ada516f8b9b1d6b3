"""What names in a file stand for: `nn.LSTM`, `F.relu` and the like by their full names."""

import ast
from collections.abc import Iterable

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
