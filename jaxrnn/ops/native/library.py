"""The compiled kernels, where this installation and this processor have them."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

_kernels: Any
try:
    _kernels = importlib.import_module("jaxrnn.ops.native._kernels")
except ImportError:  # not built: no compiler, or no platform that the sources are for
    _kernels = None

FORWARD, BACKWARD = "jaxrnn_forward", "jaxrnn_backward"  # as programs call them
if _kernels:
    jax.ffi.register_ffi_target(FORWARD, _kernels.forward, platform="cpu")
    jax.ffi.register_ffi_target(BACKWARD, _kernels.backward, platform="cpu")


def why_missing() -> str | None:
    """Return why there are no kernels, None where there are."""
    if _kernels is None:
        remedy = (
            "" if sys.platform == "win32" else ": install a C++ compiler, then pip install jaxrnn once more"
        )
        return f"was not compiled when jaxrnn was installed{remedy}"
    if not instruction_sets():
        return "needs a processor with AVX2, AVX-512 or NEON"
    return None


def instruction_sets() -> list[str]:
    """Return those of this processor that there are kernels for, the fastest, which is used, first."""
    return _kernels.instruction_sets() if _kernels else []


@contextmanager
def using(instruction_set: str) -> Iterator[None]:
    """Use the kernels for another of the `instruction_sets`, in programs that are compiled and run in here."""
    _kernels.use(instruction_set)
    try:
        yield
    finally:
        _kernels.use(instruction_sets()[0])


def workspace(
    cell: int, steps: int, rows: int, inputs: int, hidden: int, projected: int, *, backward: bool
) -> int:
    """Return the floats of memory that a call needs besides its results; `projected` is 0 without a projection."""
    return _kernels.workspace(cell, steps, rows, inputs, hidden, projected, backward)
