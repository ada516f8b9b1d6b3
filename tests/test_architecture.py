"""The rooms of the project and the doors between them, read from the sources; `docs/design.md` explains them."""

import ast
import graphlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import jaxrnn

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)
ORDER = ("cells", "ops", "layers", "models", "train")  # in jaxrnn; each may import what is to its left


class Import(NamedTuple):
    """One import, wherever it stands in a file."""

    name: str  # dotted; `from a import b` is "a.b", whether b is a module or not
    at_once: bool  # runs when the file is imported; False inside a function


def imports_in(node: ast.AST, at_once: bool = True) -> Iterator[Import]:
    """Every import in a piece of code, however it is spelled."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name, at_once) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (Import(f"{module}.{alias.name}", at_once) for alias in names)
            case ast.ImportFrom():
                raise ValueError(f"line {child.lineno}: write the import with the package's whole name")
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield Import(name, at_once)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        yield from imports_in(child, at_once and not is_function and not is_for_types)


def modules_of(*packages: str) -> dict[str, Path]:
    """{dotted name: file} of everything in these folders."""
    found = {}
    for path in (file for package in packages for file in sorted((ROOT / package).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules_of("jaxrnn", "torch_ref", "parity", "benchmarks")
COMPILED = {"jaxrnn.ops.native._kernels"}  # of C++, which imports nothing
IMPORTS = {name: list(imports_in(ast.parse(path.read_text("utf-8")))) for name, path in MODULES.items()}


def target(name: str) -> str:
    """The module that an import reaches: "jaxrnn.ops" for `from jaxrnn.ops import unroll`."""
    parent = name.rpartition(".")[0]
    return parent if name not in {*MODULES, *COMPILED} and parent in MODULES else name


def reached(module: str, follow: Callable[[Import], bool] = lambda found: True) -> set[str]:
    """All that a module imports, directly or through modules of this project."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for found in filter(follow, IMPORTS.get(waiting.pop(), [])):
            if target(found.name) not in seen:
                seen.add(target(found.name))
                waiting.append(target(found.name))
    return seen


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def room(module: str) -> str:
    """The room of a module of jaxrnn: "ops" for jaxrnn.ops.scan."""
    return module.split(".")[1] if "." in module else ""


def test_the_rooms_are_where_the_tests_look():
    assert {"jaxrnn", "jaxrnn.ops.scan", "torch_ref.layers", "parity.compare"} <= set(MODULES)
    assert set(ORDER) <= {room(module) for module in modules_of("jaxrnn")}


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import numpy, torch.nn as tnn",
        "from torch import nn",
        "from torch.nn import functional as F",
        "try:\n    import torch\nexcept ImportError:\n    pass",
        "def late():\n    if True:\n        import torch",
        "class A:\n    async def late(self):\n        from torch import nn",
        "import importlib\nnn = importlib.import_module('torch.nn')",
    ],
)
def test_no_spelling_of_an_import_is_overlooked(source):
    found = list(imports_in(ast.parse(source)))
    assert "torch" in packages({each.name for each in found})
    assert all(each.at_once == ("def" not in source) for each in found)


def test_an_import_through_other_modules_is_found(monkeypatch):
    assert "torch" not in packages(reached("jaxrnn.cells"))
    monkeypatch.setitem(MODULES, "jaxrnn.middle", Path("middle.py"))
    monkeypatch.setitem(IMPORTS, "jaxrnn.middle", [Import("torch.nn", at_once=True)])
    monkeypatch.setitem(IMPORTS, "jaxrnn.cells", [Import("jaxrnn.middle.nn", at_once=False)])
    assert "torch" in packages(reached("jaxrnn.cells"))


# The packages


@pytest.mark.parametrize("module", modules_of("jaxrnn"))
def test_jaxrnn_knows_neither_torch_nor_the_other_packages(module):
    forbidden = {"torch", "torch_ref", "parity", "examples", "benchmarks", "tests"}
    # `jaxrnn bench` hands its arguments on to the other room, and only when it is called.
    handed_on = {Import("benchmarks.cli.bench", at_once=False)} if module == "jaxrnn.cli" else set()
    assert not packages({found.name for found in IMPORTS[module] if found not in handed_on}) & forbidden


@pytest.mark.parametrize("module", modules_of("torch_ref"))
def test_torch_ref_imports_torch_and_nothing_else(module):
    assert packages({found.name for found in IMPORTS[module]}) <= STANDARD | {"torch", "torch_ref"}


def test_the_judge_and_the_reference_serve_tests_and_examples_only():
    """The two packages themselves are held to it above; this is what else there is."""
    for path in modules_of("benchmarks").values():
        found = {each.name for each in imports_in(ast.parse(path.read_text("utf-8")))}
        assert not packages(found) & {"parity", "torch_ref"}, path


def test_the_command_that_starts_benchmarks_loads_no_framework():
    """What it computes beside its children would count as theirs, and its help is there at once."""
    loaded = packages(reached("benchmarks.cli", lambda found: found.at_once))
    assert loaded <= STANDARD | {"numpy", "click", "rich", "benchmarks"}


def test_the_gates_of_the_judge_need_numpy_alone():
    """What `from parity.compare import compare_arrays` loads, the package around it included."""
    loaded = {
        name for module in ("parity", "parity.compare") for name in reached(module, lambda i: i.at_once)
    }
    assert packages(loaded) <= STANDARD | {"numpy", "parity"}


def test_jaxrnn_loads_where_torch_is_missing_and_loads_no_more_than_it_needs():
    program = """
        import sys
        sys.modules["torch"] = None  # importing it raises
        import jaxrnn
        print(*{name.partition(".")[0] for name in sys.modules})
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stdout.split())
    assert {"jaxrnn", "flax"} <= loaded
    assert not loaded & {
        "torch_ref",
        "parity",
        "examples",
        "orbax",
        "matplotlib",
        "pandas",
        "bokeh_sampledata",
    }


# Inside jaxrnn


@pytest.mark.parametrize("module", modules_of("jaxrnn"))
def test_each_room_of_jaxrnn_reaches_only_what_is_to_its_left(module):
    """Modules outside the five rooms may be used by any of them, as long as they lead to no room on the right."""
    if room(module) in ORDER:
        right = set(ORDER[ORDER.index(room(module)) + 1 :])
        assert not {name for name in reached(module) if name.startswith("jaxrnn.") and room(name) in right}


@pytest.mark.parametrize("module", [name for name in modules_of("jaxrnn") if room(name) in ("cells", "ops")])
def test_the_recurrence_knows_nothing_of_flax(module):
    assert packages(reached(module)) <= STANDARD | {"jax", "jaxtyping", "numpy", "jaxrnn"}


def test_no_module_imports_itself_through_others():
    graph = {name: {target(found.name) for found in IMPORTS[name]} for name in modules_of("jaxrnn")}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


# Names and docstrings


def undocumented(path: Path) -> Iterator[str]:
    """The public functions, classes and methods of a file that say nothing about themselves."""
    for node in ast.parse(path.read_text("utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
        for each in (node, *members):
            public = isinstance(each, ast.FunctionDef | ast.ClassDef) and not each.name.startswith("_")
            if public and not ast.get_docstring(each):
                yield f"{path.name}: {each.name}"


@pytest.mark.parametrize("module", modules_of("jaxrnn"))
def test_everything_public_in_jaxrnn_has_a_docstring(module):
    assert list(undocumented(MODULES[module])) == []


@pytest.mark.parametrize("name", jaxrnn.__all__)
def test_every_public_name_of_jaxrnn_has_a_docstring(name):
    assert getattr(jaxrnn, name).__doc__


@pytest.mark.parametrize("module", [name for name in modules_of("tests") if ".test_" in name])
def test_the_name_of_every_test_is_a_sentence(module):
    nodes = ast.walk(ast.parse(modules_of("tests")[module].read_text("utf-8")))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    tests = [name for name in functions if name.startswith("test_")]
    assert tests
    assert [name for name in tests if len(name.split("_")) < 5] == []


def test_every_test_in_the_list_of_long_ones_exists():
    """A list that is stale would keep nothing out of the inner loop; `--write-long` writes it anew."""
    for name in (ROOT / "tests/long.txt").read_text("utf-8").split():
        path, *_, function = name.split("::")
        assert f"def {function}(" in (ROOT / path).read_text("utf-8"), name
