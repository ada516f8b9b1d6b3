"""Code at the top of a file that is in no function, as in a notebook: it becomes a function, `main`."""

import ast
from collections.abc import Mapping, Sequence

from jaxrnn.port.classes import Port
from jaxrnn.port.kinds import Kinds, Scope
from jaxrnn.port.names import Names, free_in

ENTRY = 'if __name__ == "__main__":'
_RNGS = "    rngs = nnx.Rngs(0)\n"


def find_script(tree: ast.Module, names: Names, chosen: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that run when a file does, besides those chosen; none if nothing concerns torch."""
    kinds = Kinds(names, Scope())
    found = [
        node
        for node in tree.body
        if node not in chosen
        and not isinstance(
            node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        )
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign) and kinds.is_device(node.value))
    ]
    ours = {name for name, node in {**names.functions, **names.classes}.items() if node in chosen}
    return found if any(free_in(node) & ours or names.mentions_torch(node) for node in found) else []


def definitions_for(script: Sequence[ast.stmt], bound: Mapping[str, ast.stmt]) -> list[str]:
    """Return the functions and classes that a script uses."""
    used = {name for node in script for name in free_in(node)}
    return [n for n, node in bound.items() if n in used and isinstance(node, ast.FunctionDef | ast.ClassDef)]


def port_script(port: Port, script: list[ast.stmt], taken: set[str]) -> str:
    """Return a script's code: one that is guarded stays where it is, another becomes a function, called if run."""
    draws = port.draws(script, port.needing_rngs)
    if len(script) == 1 and is_entry(script[0]):
        entry = script[0]
        assert isinstance(entry, ast.If)
        port.script(entry.body, "main")
        if draws:
            port.text.replace_header(entry, f"{ENTRY}\n{_RNGS.rstrip()}")
        return port.text.with_comments(entry)
    name = "main" if "main" not in taken else "script"
    port.script(script, name)
    code = "".join(_behind(port, before, node) for before, node in zip([None, *script], script, strict=False))
    return f"def {name}():\n{_RNGS if draws else ''}{_indented(code)}\n\n{ENTRY}\n    {name}()\n"


def _behind(port: Port, before: ast.stmt | None, node: ast.stmt) -> str:
    """Return a statement's code, with the empty line in front that it had; nothing for one in the line before."""
    end = 0 if before is None else before.end_lineno or 0
    if node.lineno <= end:
        return ""
    code = port.text.with_comments(node)
    return f"\n{code}" if before is not None and port.text.first_line(node) > end + 1 else code


def _indented(code: str) -> str:
    """Return code one level further in; lines that begin inside of a string stay."""
    strings = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
    ]
    inside = {n for node in strings for n in range(node.lineno + 1, (node.end_lineno or 0) + 1)}
    lines = enumerate(code.splitlines(keepends=True), 1)
    return "".join(line if number in inside or not line.strip() else f"    {line}" for number, line in lines)


def is_entry(node: ast.stmt) -> bool:
    """Return whether it is ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"
