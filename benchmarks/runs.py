"""A run: the machine and every job, each in a process of its own, as one document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import ALLOCATORS, Job

SCHEMA = "jaxrnn-bench/1"
ROOT = Path(__file__).parents[1]

Document = dict[str, Any]  # schema, command, machine, records
Record = dict[str, Any]  # a job, and what was found: see `benchmarks.child.run`; or its error


class ChildError(Exception):
    """A process ended without a result; the message is its last word."""


def run(
    jobs: Sequence[Job], command: str, progress: Callable[[str], None], save: Callable[[Document], None]
) -> Document:
    """Measure the machine, then every job. `save` gets the document whenever there is more of it.

    A job that fails leaves its error in the document and does not keep the others from running.
    """
    progress("the machine")
    document: Document = {"schema": SCHEMA, "command": command}
    document["machine"] = spawn("benchmarks.machine", "", "default")
    document["machine"]["threads"] = {"torch": jobs[0].threads, "xla": document["machine"]["usable_cores"]}
    document["records"] = []
    for job in jobs:
        progress(str(job))
        try:
            record = bound(
                spawn("benchmarks.child", json.dumps(job.to_json()), job.allocator), document["machine"]
            )
        except ChildError as error:
            record = job.to_json() | {"error": str(error)}
        document["records"].append(record)
        save(document)
    return document


def bound(record: Record, machine: dict[str, Any]) -> Record:
    """Add what no contender can beat: the products alone at the speed of a large one, and the traffic alone."""
    return record | {
        "bound_ms": float(f"{1e-6 * record['flops'] / machine['gemm_gflops']:.4g}"),
        "memory_ms": float(f"{1e-6 * record['traffic_bytes'] / machine['memory_gbytes']:.4g}"),
    }


def spawn(module: str, text: str, allocator: str) -> dict[str, Any]:
    """Run `python -m module OUT` with `text` for its input; return what it wrote to OUT."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        finished = subprocess.run(
            [sys.executable, "-m", module, str(out)],
            input=text,
            env=environment(allocator),
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode < 0:
            raise ChildError(f"killed by signal {-finished.returncode}; for want of memory, if it is 9.")
        if finished.returncode or not out.exists():
            raise ChildError((finished.stderr.strip().splitlines() or ["no word"])[-1])
        return json.loads(out.read_text("utf-8"))


def environment(allocator: str) -> dict[str, str]:
    """Return the environment of a child: this one's, but for the allocator and what would spoil compile times."""
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    ours = {each.partition("=")[0] for settings in ALLOCATORS.values() for each in settings}
    tunables = [each for each in tunables if each and each.partition("=")[0] not in ours]
    tunables += ALLOCATORS[allocator]
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "GLIBC_TUNABLES": ":".join(tunables),
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(path),
    }


# Files ----------------------------------------------------------------------------------------------------


def write(document: Document, path: Path) -> None:
    """Write a document, a record on each line; at no time is half a document in the file."""
    head = {name: value for name, value in document.items() if name != "records"}
    records = ",\n".join(json.dumps(record) for record in document["records"])
    half = path.with_name(path.name + ".part")
    half.write_text(f'{json.dumps(head)[:-1]}, "records": [\n{records}\n]}}\n', encoding="utf-8")
    half.replace(path)


def read(path: Path) -> Document:
    """Read a document."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}.") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{path}: its schema is {found!r}, expected {SCHEMA!r}: `jaxrnn bench --json` writes it."
        )
    return document
