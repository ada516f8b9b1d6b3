"""Dumps: one side of a comparison in a folder, so that two machines can be judged on a third. NumPy only.

    python -m parity.dumps CANDIDATE REFERENCE    # is `parity compare` where click and rich are not installed

A folder holds `manifest.json` and traces as `.npz` files, each named in the manifest with its SHA-256. That of a
reference has, for each probe, the inputs, the weights, the answers in the precision under test and in float64,
and the error as redrawn. That of a candidate has its answers in both, and names the run and the manifest that it
was made from. Whatever does not fit is an error and never a pass: a file of another run, one that was cut short
or is not there, an older schema.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from parity.compare import compare_traces, misfitting
from parity.environment import environment
from parity.gates import Array, ReferenceError, is_float
from parity.probe import Probe
from parity.report import facts
from parity.trace import Entry, Trace
from parity.verdict import (
    DIVERGENT,
    EQUIVALENT,
    EXIT_ERROR,
    CaseResult,
    Comparison,
    Report,
    TensorResult,
)
from parity.weighing import put_in_words

SCHEMA = "parity-dump/1"
REFERENCE, CANDIDATE = "reference", "candidate"
_MANIFEST = "manifest.json"
_KEYS = {
    REFERENCE: ("run_id", "created", "environment", "cases", "files"),
    CANDIDATE: ("run_id", "created", "environment", "cases", "files", "made_from"),
}
_NOT_EXPLAINED = (
    "not located or explained: for that, run both models on one machine (parity run, parity check)"
)
_ELSEWHERE = ("jax", "flax", "optax", "x64", "matmul precision", "XLA_FLAGS", "JAX_")


class DumpError(Exception):
    """A dump that cannot be judged; the message says which file it is and what to do."""


# Writing


class Writer:
    """Collects the files of one dump, which appears in its place whole or not at all; see `writing`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._digests: dict[str, str] = {}

    def save(self, name: str, trace: Trace) -> str:
        """Write a trace, and return the name of its file."""
        file = f"{name}.npz"
        trace.save(self._folder / file)
        self._digests[file] = _digest_of(self._folder / file)
        return file

    def finish(self, role: str, cases: Sequence[Mapping[str, Any]], **more: Any) -> None:
        """Write the manifest, with a fresh run id."""
        manifest = {
            "schema": SCHEMA,
            "role": role,
            "run_id": uuid.uuid4().hex,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": environment(),
            **more,
            "cases": list(cases),
            "files": self._digests,
        }
        (self._folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def writing(folder: str | Path) -> Iterator[Writer]:
    """Let a dump be written; without an exception it is moved to `folder`, which must be new or empty."""
    folder = Path(folder)
    require_new(folder)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    try:
        yield Writer(partial)
        partial.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(folder: str | Path) -> None:
    """Refuse a folder in which files of an older run could be taken for those of this one."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DumpError(f"{folder}: exists and is not an empty folder; capture into a new one.")


def packed(probe: Probe) -> tuple[dict[str, Any], Trace]:
    """Return a probe as JSON and the arrays in it."""
    arrays: dict[str, Array] = {}
    fields = {field.name: _packed(getattr(probe, field.name), arrays) for field in dataclasses.fields(probe)}
    # Inputs have no kind of their own; that of outputs lets them be any number.
    return fields, Trace({name: Entry(array, "output", name) for name, array in arrays.items()})


def unpacked(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> Probe:
    """Return the probe that `packed` took apart."""
    known = [field.name for field in dataclasses.fields(Probe)]
    if sorted(fields) != sorted(known):
        raise DumpError(
            f"a probe of {sorted(fields)}, expected {sorted(known)}: use one version on all machines."
        )
    return Probe(**{name: _unpacked(value, arrays) for name, value in fields.items()})


def _packed(tree: Any, arrays: dict[str, Array]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {"dict": {str(key): _packed(child, arrays) for key, child in tree.items()}}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_packed(child, arrays) for child in tree]}
    if isinstance(tree, np.ndarray | np.generic):
        name = str(len(arrays))
        arrays[name] = np.asarray(tree)
        return {"array" if isinstance(tree, np.ndarray) else "scalar": name}
    if type(tree) in (bool, int, float, str):
        return {"value": tree}
    raise TypeError(
        f"a dump holds arrays, numbers and texts in tuples, lists and dicts, not {type(tree).__name__}."
    )


def _unpacked(tree: Any, arrays: Mapping[str, Array]) -> Any:
    if tree is None:
        return None
    ((kind, content),) = tree.items()
    if kind == "dict":
        return {key: _unpacked(child, arrays) for key, child in content.items()}
    if kind in ("tuple", "list"):
        children = [_unpacked(child, arrays) for child in content]
        return tuple(children) if kind == "tuple" else children
    if kind == "value":
        return content
    return arrays[content] if kind == "array" else arrays[content][()]


def cotangents(probe: Probe, answers: Trace) -> dict[str, str]:
    """Return a digest of the direction in which each output is differentiated.

    They are drawn again on the other machine, and the digests tell whether its NumPy draws the same.
    """
    outputs = answers.of_kind("output", "state")
    drawn = {name: probe.cotangent(name, a.shape) for name, a in outputs.items() if is_float(a)}
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in drawn.items()}


# Reading


@dataclass(frozen=True)
class Dump:
    """A folder whose files are all there and are those that its manifest names."""

    folder: Path
    manifest: Mapping[str, Any]
    digest: str  # of the manifest, and so of everything

    @property
    def cases(self) -> list[dict[str, Any]]:
        """One entry for each model, with one for each probe in it."""
        return list(self.manifest["cases"])

    @property
    def identity(self) -> dict[str, str]:
        """What a dump made from this one says about its origin."""
        return {"run_id": self.manifest["run_id"], "manifest": self.digest}

    def trace(self, entry: Mapping[str, Any], what: str) -> Trace:
        """Read one of the traces of a probe."""
        file = entry["files"][what]
        if file not in self.manifest["files"]:
            raise DumpError(f"{self.folder / file}: not among the files of the manifest; capture again.")
        return Trace.load(self.folder / file)

    def probe(self, entry: Mapping[str, Any]) -> Probe:
        """Return the probe that was captured."""
        return unpacked(entry["probe"], self.trace(entry, "inputs"))


def read(folder: str | Path, role: str) -> Dump:
    """Return the dump in a folder. Raises DumpError where it is not whole, or not of this role and schema."""
    folder = Path(folder)
    path = folder / _MANIFEST
    if not path.is_file():
        raise DumpError(
            f"{folder}: no dump, because there is no {_MANIFEST} in it; make one with parity capture."
        )
    text = path.read_bytes()
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise DumpError(f"{path}: cut short or damaged ({error}); capture again.") from error
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != SCHEMA:
        raise DumpError(f"{path}: schema {found!r}, expected {SCHEMA!r}; capture again with this version.")
    if manifest.get("role") != role:
        order = "give the candidate's folder first: parity compare CANDIDATE REFERENCE"
        raise DumpError(f"{path}: the dump of a {manifest.get('role')}, expected that of a {role}; {order}.")
    missing = [key for key in _KEYS[role] if key not in manifest]
    if missing:
        raise DumpError(f"{path}: {', '.join(missing)} missing; capture again.")
    for file, digest in manifest["files"].items():
        if not (folder / file).is_file():
            raise DumpError(f"{folder / file}: missing, though the manifest names it; copy the whole folder.")
        if _digest_of(folder / file) != digest:
            raise DumpError(
                f"{folder / file}: not the file that was captured (cut short or replaced); copy it again."
            )
    return Dump(folder, manifest, hashlib.sha256(text).hexdigest())


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Judging


def compare_dumps(candidate: str | Path, reference: str | Path) -> Report:
    """Judge a candidate's dump by the reference's that it was made from: the verdicts are those of one machine.

    Raises DumpError when one of them is not whole, or the candidate's was made from another one.
    """
    started = time.perf_counter()
    ours, theirs = read(candidate, CANDIDATE), read(reference, REFERENCE)
    if ours.manifest["made_from"] != theirs.identity:
        raise DumpError(
            f"{ours.folder} was made from run {ours.manifest['made_from'].get('run_id')}, but {theirs.folder} is "
            f"run {theirs.manifest['run_id']}: one of them is stale. Capture the candidate again from this one."
        )
    names = [
        [(case["id"], [p["name"] for p in case["probes"]]) for case in dump.cases] for dump in (ours, theirs)
    ]
    if names[0] != names[1]:
        raise DumpError(f"{ours.folder}: cases and probes {names[0]}, expected {names[1]}; capture again.")
    try:
        cases = tuple(_judged(ours, theirs, *pair) for pair in zip(ours.cases, theirs.cases, strict=True))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DumpError(f"{ours.folder} or {theirs.folder}: {put_in_words(error)}; capture again.") from error
    return Report(cases, _environment(ours, theirs), time.perf_counter() - started)


def _judged(ours: Dump, theirs: Dump, mine: Mapping[str, Any], their: Mapping[str, Any]) -> CaseResult:
    pairs = zip(mine["probes"], their["probes"], strict=True)
    result = CaseResult(
        their["id"], their["summary"], tuple(_compared(ours, theirs, *pair) for pair in pairs)
    )
    if result.verdict != DIVERGENT:
        return result
    return CaseResult(result.id, result.summary, result.comparisons, notes=(_NOT_EXPLAINED,))


def _compared(ours: Dump, theirs: Dump, mine: Mapping[str, Any], their: Mapping[str, Any]) -> Comparison:
    """Compare the answers to one probe."""
    probe, measured = theirs.probe(their), theirs.trace(their, "measured")
    if "parameters" in mine:
        weights = {name: array.shape for name, array in measured.of_kind("param").items()}
        found = misfitting(mine["parameters"], weights, mine["paths"])
        note = "the models cannot hold the same weights, so they were not run"
        return Comparison(probe.name, found, len(weights), notes=(note,), probe=probe.describe())
    c, c64 = ours.trace(mine, "measured"), ours.trace(mine, "measured64")
    redrawn = {name: ReferenceError(*pair) for name, pair in their["redrawn"].items()}
    comparison = compare_traces(c, measured, theirs.trace(their, "oracle"), c64, probe, redrawn)
    return dataclasses.replace(
        comparison,
        oracle=their["description"],
        notes=tuple(their["notes"]),
        seconds=mine["seconds"] + their["seconds"],
    )


def _environment(ours: Dump, theirs: Dump) -> dict[str, str]:
    """Say what each side ran on: JAX as on the candidate's machine, torch as on the reference's."""
    mine, their = dict(ours.manifest["environment"]), dict(theirs.manifest["environment"])
    here = environment()
    found = {
        name: value for name, value in here.items() if not name.startswith((*_ELSEWHERE, "torch", "NVIDIA"))
    }
    found |= {name: value for name, value in mine.items() if name.startswith(_ELSEWHERE)}
    found |= {name: value for name, value in their.items() if name.startswith(("torch", "NVIDIA"))}
    for who, there in (("candidate", mine), ("reference", their)):
        found |= {f"{who}'s {name}": there[name] for name in ("python", "machine", "numpy") if name in there}
    return found


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge two dumps with NumPy alone; returns the exit code of `parity run`."""
    parser = argparse.ArgumentParser(
        prog="parity compare", description="Judge a candidate's dump by a reference's."
    )
    parser.add_argument("candidate", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument(
        "--report", type=Path, default=Path("parity-report.json"), help="default: %(default)s"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="list every tensor, not only what failed"
    )
    given = parser.parse_args(arguments)
    given.report.unlink(missing_ok=True)  # if this run fails, no older report may be taken for its own
    try:
        report = compare_dumps(given.candidate, given.reference)
    except DumpError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_ERROR
    given.report.write_text(report.to_json(), encoding="utf-8")
    print(plain(report, verbose=given.verbose), f"report: {os.fspath(given.report)}", sep="\n")
    return report.exit_code


def plain(report: Report, *, verbose: bool = False) -> str:
    """Return a report as text, a line for each probe and for each tensor that failed. Needs no other package."""
    lines = []
    for case in report.cases:
        for probe in case.comparisons:
            numbers = (
                f"{label} {facts.number(facts.largest(getattr(tensor, field) for tensor in probe.tensors))}"
                for label, field in (
                    ("semantic/limit", "semantic_ratio"),
                    ("rho_rms", "rho_rms"),
                    ("rho_max", "rho_max"),
                )
            )
            counts = f"{probe.compared}/{probe.expected} tensors"
            lines.append(f"{case.id}  {probe.name}  {probe.verdict}  {counts}  {'  '.join(numbers)}")
            lines += [f"  {probe.error}"] if probe.error else []
            shown = probe.tensors if verbose else facts.worst_first(probe.failures)
            lines += [_line(tensor) for tensor in shown]
    lines += [facts.sensitivity(report), f"not exercised: {', '.join(facts.unexercised(report))}"]
    lines += [
        f"{report.verdict} (exit {report.exit_code})",
        *(f"note: {note}" for note in facts.notes(report)),
    ]
    return "\n".join(lines)


def _line(tensor: TensorResult) -> str:
    said = "" if tensor.verdict == EQUIVALENT else f"  {facts.reason(tensor)}"
    return f"  {facts.names(tensor)}  {facts.shape(tensor)}  {tensor.verdict}{said}"


if __name__ == "__main__":
    sys.exit(main())
