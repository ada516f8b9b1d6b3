"""Files and notebooks of Python, as programs whose lines can be found again."""

from __future__ import annotations

import ast
import functools
import io
import json
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# A line that only IPython understands: a magic, a shell command, a question.
_MAGIC = re.compile(r"^(\s*)(?:[%!]|\?|[\w.]+\?\??\s*$|[\w., ]+=\s*[%!])")
_OTHER_LANGUAGE = re.compile(r"^%%(?!time\b|timeit\b|capture\b|prun\b)")
_IGNORE = re.compile(r"#\s*jaxrnn:\s*ignore\[([^\]]*)\]")


class Place(NamedTuple):
    """Where a line is: in a file, or in a cell of a notebook, both counted from 1."""

    path: str
    line: int
    cell: int | None = None

    def __str__(self) -> str:
        """`path:line`, which editors jump to; in a notebook `path:cell 3:line`."""
        cell = "" if self.cell is None else f"cell {self.cell}:"
        return f"{self.path}:{cell}{self.line}"


@dataclass(frozen=True, eq=False)
class Source:
    """A program: its tree, where each of its lines is, and the rules that a line asks to be left out."""

    path: str
    text: str  # of a notebook, that of its cells of code
    tree: ast.Module
    places: tuple[Place, ...]  # of each line, from the first
    ignored: dict[int, frozenset[str]]

    def place(self, node: ast.AST) -> Place:
        """Return where a piece of the program begins."""
        return self.places[getattr(node, "lineno", 1) - 1]

    def ignores(self, rule: str, node: ast.AST) -> bool:
        """Tell whether one of a node's lines asks to be spared a rule."""
        first = getattr(node, "lineno", 1)
        last = getattr(node, "end_lineno", None) or first
        return any(rule in self.ignored.get(line, ()) for line in range(first, last + 1))


def blocks_of(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements in a statement, not those within these."""
    found = (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
    yield from (each for each in found if isinstance(each, list))


def find_modules_here() -> None:
    """Let modules be found in the current folder, where an installed command does not look."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def read(path: Path) -> Source:
    """Return the program in a `.py` file or an `.ipynb` notebook.

    Raises ValueError for what is neither, or is no Python, and OSError for what cannot be read.
    """
    if path.suffix == ".ipynb":
        return _notebook(path)
    if path.suffix != ".py":
        raise ValueError(f"{path}: expected a .py file, an .ipynb notebook or package.module:factory.")
    check_exists(path)
    with tokenize.open(path) as file:  # whatever encoding its first lines name
        text = file.read()
    lines = max(1, len(text.splitlines()))
    return _source(str(path), text, [Place(str(path), line + 1) for line in range(lines)])


def check_exists(path: Path) -> None:
    """Raise FileNotFoundError, in plain words, for a path with nothing there."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: No such file; check the path, and the folder that it begins in.")


def _notebook(path: Path) -> Source:
    check_exists(path)
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no notebook that can be read ({error}); save it as .ipynb again."
        ) from error
    lines: list[str] = []
    places: list[Place] = []
    for number, cell in enumerate(cells, 1):
        if cell.get("cell_type") != "code":
            continue
        for line, text in enumerate(_python(cell.get("source", "")), 1):
            lines.append(text)
            places.append(Place(str(path), line, number))
    return _source(str(path), "\n".join(lines), places or [Place(str(path), 1, 1)])


def _python(source: Any) -> list[str]:
    """Return a cell's lines with `pass` in place of what only IPython understands."""
    lines = "".join(source).splitlines()
    if _parses("\n".join(lines)):
        return lines
    if lines and _OTHER_LANGUAGE.match(lines[0]):
        return ["pass"] * len(lines)
    return [f"{found[1]}pass" if (found := _MAGIC.match(line)) else line for line in lines]


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _source(path: str, text: str, places: list[Place]) -> Source:
    try:
        tree = ast.parse(text)
        ignored = _ignored(text)
    except (SyntaxError, tokenize.TokenError) as error:
        line = min(getattr(error, "lineno", None) or 1, len(places))
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ValueError(
            f"{places[line - 1]}: no Python {version} ({error.args[0]}). Mend it, or use the Python that it is for."
        ) from error
    return Source(path, text, tree, tuple(places), ignored)


def _ignored(text: str) -> dict[int, frozenset[str]]:
    """Return {line: rules} of the comments `# jaxrnn: ignore[rule, another]`."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (match := _IGNORE.search(token.string)):
            found[token.start[0]] = frozenset(name.strip() for name in match[1].split(","))
    return found


def find(sources: Sequence[Source], importer: Source, dotted: str, level: int) -> Source | None:
    """Return the source that an import means: beside the importer, or in a folder above it, as packages lie.

    A relative import, of `level` dots, begins at its folder.
    """
    known = _by_path(tuple(sources))
    folders = list(Path(importer.path).resolve().parents)
    parts = dotted.split(".") if dotted else []
    for folder in folders[level - 1 : level] if level else folders:
        place = folder.joinpath(*parts)
        for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if path in known and known[path] is not importer:
                return known[path]
    return None


@functools.lru_cache(maxsize=1)
def _by_path(sources: tuple[Source, ...]) -> dict[Path, Source]:
    return {Path(source.path).resolve(): source for source in sources}
