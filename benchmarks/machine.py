"""What machine, which versions, and how fast it can be at all: `python -m benchmarks.machine OUT`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import measure

PACKAGES = (
    "jaxrnn", "jax", "jaxlib", "flax", "numpy", "torch", "dm-haiku", "equinox", "keras",
)  # fmt: skip
# Settings that change speed behind a program's back.
VARIABLES = re.compile(r"(XLA|JAX|OMP|GOMP|KMP|MKL|OPENBLAS|MALLOC|GLIBC|TORCH|TORCHINDUCTOR)_.*|LD_PRELOAD")

GEMM = 2048  # the side of the matrices
COPIED = 2**26  # float32 numbers, 256 MiB: more than a cache holds
BUDGET = 3.0  # seconds


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return names and values; no framework is imported."""
    return {
        "cpu": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)") or 0) * 1024 or None,
        "huge_pages": _first(Path("/sys/kernel/mm/transparent_hugepage/enabled"), r"\[(\w+)\]"),
        "os": platform.platform(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": {
            name: value for name, value in sorted(os.environ.items()) if value and VARIABLES.fullmatch(name)
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def peak_bytes() -> int:
    """Return the most memory that this program has held resident.

    Linux's `ru_maxrss` begins at what the process held before it became this program: a child of a process of 6 GiB
    reports 6 GiB. `VmHWM` counts from the start of the program.
    """
    kibibytes = _first(Path("/proc/self/status"), r"VmHWM:\s*(\d+)")
    if kibibytes is not None:
        return int(kibibytes) * 1024
    import resource  # neither file nor module exists on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_peaks() -> dict[str, Any]:
    """Return the speed of a large matrix product and of memory, in float32 through JAX.

    The fastest of several rounds, not the median: a bound is what nothing beats, even if others compute meanwhile.
    """
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.standard_normal((GEMM, GEMM), np.float32)) for _ in range(2))
    product = jax.jit(jnp.matmul)
    in_place = jax.jit(lambda x: x + 1, donate_argnums=0)  # fresh memory would measure page faults
    held = [jnp.zeros(COPIED, jnp.float32)]

    def read_and_write() -> None:
        held[0] = in_place(held[0]).block_until_ready()

    contenders = {"gemm": lambda: product(left, right).block_until_ready(), "memory": read_and_write}
    rounds = measure(contenders, BUDGET, seed=0)
    gemm, memory = (float(rounds.seconds(name).min()) for name in contenders)
    device = jax.devices()[0]
    return {
        "device": f"{device.platform} ({device.device_kind})",
        "gemm_gflops": float(f"{2e-9 * GEMM**3 / gemm:.4g}"),
        "memory_gbytes": float(f"{2e-9 * 4 * COPIED / memory:.4g}"),
        "peaks_noisy": rounds.noisy,
    }


def _first(path: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, path.read_text("utf-8"))
    except OSError:
        return None
    return found and found[1].strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main(arguments: Sequence[str]) -> None:
    """Write the description and the peaks to the file named."""
    (path,) = arguments
    Path(path).write_text(json.dumps(describe() | measure_peaks()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
