"""A file with classes of PyTorch, and the file of JAX that has the chosen ones and what they use."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxrnn import source
from jaxrnn.port.classes import Port
from jaxrnn.port.kinds import Kinds, Scope
from jaxrnn.port.loading import KEPT, kept_in_torch
from jaxrnn.port.modules import LAYERS
from jaxrnn.port.names import Names, bound_by, free_in, used_in
from jaxrnn.port.problems import Problem
from jaxrnn.port.script import definitions_for, find_script, port_script
from jaxrnn.port.text import Text

OURS = {
    "contextlib": "import contextlib",
    "functools": "import functools",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "nnx": "from flax import nnx",
    "jaxrnn": "import jaxrnn",
    "torch": "import torch",
}
LINE_LENGTH = 110
_THIRD_PARTY = ["--config", "lint.isort.known-third-party = ['jaxrnn']"]  # wherever the command runs


@dataclass(frozen=True)
class Ported:
    """The code of a file in JAX, and what is not as it was."""

    code: str
    names: tuple[str, ...]  # of classes and functions
    untranslated: tuple[Problem, ...]  # there the code raises NotImplementedError
    notes: tuple[Problem, ...]  # what was left out, or differs once it is compiled


def port_file(path: Path, wanted: Sequence[str] = ()) -> Ported:
    """Return what `port_source` makes of a `.py` file, or of a notebook's cells of code."""
    return port_source(source.read(path).text, wanted, name=path.name)


def port_source(text: str, wanted: Sequence[str] = (), *, name: str = "source") -> Ported:
    """Return a source's classes of `torch.nn.Module` and functions in JAX, those wanted with what they use.

    Without names they are all classes and functions; then code at the top of the file, as in a notebook, becomes a
    function too, `main`.

    Raises ValueError for a name that is not there or is something else, and SyntaxError for what is no Python.
    """
    tree = ast.parse(text, name)
    names, bound = Names(tree), bound_by(tree.body)
    modules = _modules(tree, names)
    functions = {n: node for n, node in bound.items() if isinstance(node, ast.FunctionDef)}
    known = [n for n, node in bound.items() if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    unknown = [n for n in wanted if n not in modules and n not in functions]
    if unknown or not (wanted or known or find_script(tree, names, [])):
        raise ValueError(
            f"{name}: no class of torch.nn.Module and no function is called {', '.join(map(repr, unknown))}; "
            f"at the top of the file are {[*modules, *functions]}."
            if unknown
            else f"{name}: there is no class and no function in it, and nothing of torch."
        )
    if taken := sorted(({*OURS} - {"torch"}) & {*bound}):
        raise ValueError(f"{name}: {taken[0]!r} is what JAX code calls something else; rename it.")
    if any(star.partition(".")[0] == "torch" for star in names.stars):
        raise ValueError(
            f"{name}: 'from {names.stars[0]} import *' hides where names come from; import them by name."
        )
    devices = _devices(names, bound)
    for device in devices:
        del bound[device]
    chosen = _with_what_they_use(wanted or known, bound)
    script = [] if wanted else find_script(tree, names, chosen)
    if script:
        chosen = _with_what_they_use([*known, *definitions_for(script, bound)], bound)
        script = find_script(tree, names, chosen)
    kept = [name for name in kept_in_torch(names, bound) if bound[name] in chosen]
    port = Port(
        Text(text),
        names,
        {n: node for n, node in modules.items() if node in chosen},
        {n: node for n, node in functions.items() if node in chosen and n not in kept},
        devices,
        notes=[Problem(bound[name].lineno, name, KEPT) for name in kept],
    )
    for node in chosen:
        if getattr(node, "name", "") not in kept:
            port.statement(node)
    parts = [port.text.with_comments(node) for node in chosen]
    body = "\n\n".join([*parts, port_script(port, script, {*bound})] if script else parts)
    imports = _imports(tree, body)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level and ast.unparse(node) in imports:
            port.notes.append(
                Problem(node.lineno, ast.unparse(node), "imported as it is: port that file too")
            )
    code = f"{_head(name, port)}\n{imports}\n\n{body}"
    return Ported(
        _formatted(code),
        tuple(n for n in known if bound[n] in chosen),
        tuple(port.untranslated),
        tuple(port.notes),
    )


def _modules(tree: ast.Module, names: Names) -> dict[str, ast.ClassDef]:
    found: dict[str, ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and names.bases(node) & {"torch.nn.Module", *LAYERS, *found}:
            found[node.name] = node
    return found


def _devices(names: Names, bound: dict[str, ast.stmt]) -> set[str]:
    """Return the names at the top of a file that stand for devices."""
    kinds = Kinds(names, Scope())
    return {
        name for name, node in bound.items() if isinstance(node, ast.Assign) and kinds.is_device(node.value)
    }


def _with_what_they_use(wanted: Sequence[str], bound: dict[str, ast.stmt]) -> list[ast.stmt]:
    """Return the statements that bind the names, and those that these use, in the file's order."""
    found, open_names = dict[str, ast.stmt](), list(wanted)
    while open_names:
        name = open_names.pop()
        if name in bound and name not in found:
            found[name] = bound[name]
            open_names += free_in(bound[name])
    return sorted(dict.fromkeys(found.values()), key=lambda node: node.lineno)


def _imports(tree: ast.Module, body: str) -> str:
    """Return the imports that code needs: ours, and those of the source, torch's for loading data alone."""
    used = used_in(ast.parse(body))
    lines = [line for name, line in OURS.items() if name in used]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            lines.append(ast.unparse(node))
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            bound = alias.asname or alias.name.partition(".")[0]
            if bound in {*used, "*"}:
                single = (
                    ast.ImportFrom(node.module, [alias], node.level)
                    if isinstance(node, ast.ImportFrom)
                    else ast.Import([alias])
                )
                lines.append(ast.unparse(single))
    return "\n".join(sorted(dict.fromkeys(lines), key=lambda line: "__future__" not in line))


def _head(name: str, port: Port) -> str:
    text = f"Ported from {name} by `jaxrnn port`.\n"
    text += "\nWeights load by name: `jaxrnn.load_state_dict(model, theirs.state_dict())`, or the path of a file.\n"
    if port.untranslated:
        text += (
            f"\nNot translated, {len(port.untranslated)} in all; there functions raise NotImplementedError, and "
            "other code is a comment.\n"
        )
    return f'"""{text}"""\n'


def _formatted(code: str) -> str:
    """Return code as ruff lays it out, if it is installed; as it is otherwise."""
    ast.parse(code)  # whatever else it is, it is Python
    if importlib.util.find_spec("ruff") is None:
        return code
    ruff = [sys.executable, "-m", "ruff"]
    line = f"--line-length={LINE_LENGTH}"
    for command in (
        ["check", "--isolated", "--fix-only", "--quiet", "--select=F401,I,PIE790", line, *_THIRD_PARTY, "-"],
        ["format", "--isolated", "--quiet", line, "-"],
    ):
        code = subprocess.run(
            [*ruff, *command], input=code, capture_output=True, text=True, check=True
        ).stdout
    return code
