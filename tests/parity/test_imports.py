"""Who may import what: the gates judge arrays on a machine that has NumPy alone."""

import ast
import sys
from pathlib import Path

import pytest

import parity

ROOT = Path(parity.__file__).parent


def imported(path):
    """The modules named in a file's import statements, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", ["compare", "gates", "probe", "trace", "verdict"])
def test_the_gates_import_numpy_and_the_standard_library_only(name):
    """They may import each other; `verdict` reaches for a report's format when it is asked to print itself."""
    allowed = {"numpy", "ml_dtypes", *sys.stdlib_module_names}  # the last is imported where bfloat16 is there
    ours = tuple(f"parity.{name}" for name in ("gates", "probe", "report", "trace", "verdict"))
    for module in imported(ROOT / f"{name}.py"):
        assert module.partition(".")[0] in allowed or module.startswith(ours), module


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_the_frameworks_meet_in_no_single_file(path):
    """What crosses between PyTorch and JAX is NumPy: no file of the judge imports both."""
    roots = {name.partition(".")[0] for name in imported(path)}
    if path.name != "environment.py":  # which asks each for its version
        assert not ({"torch", "torch_ref"} & roots and {"jax", "flax", "optax"} & roots)
