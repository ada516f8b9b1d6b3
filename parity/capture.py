"""Runs one side of a comparison and writes it down, where the two frameworks are not on one machine.

capture_reference([Subject("mine", "my model", model, probes)], "reference")    # torch, no JAX
capture_candidate({"mine": model}, "reference", "candidate")                    # JAX, no torch
compare_dumps("candidate", "reference")                                         # parity.dumps: NumPy alone
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parity.compare import misfitting
from parity.dumps import (
    CANDIDATE,
    REFERENCE,
    Dump,
    DumpError,
    Writer,
    cotangents,
    packed,
    read,
    writing,
)
from parity.probe import Probe
from parity.trace import Trace
from parity.weighing import side_of


class Subject(NamedTuple):
    """A reference to capture, and the probes to put to it."""

    id: str
    summary: str
    model: Any
    probes: Sequence[Probe]


def capture_reference(
    subjects: Iterable[Subject], folder: str | Path, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Run torch modules on their probes and write all that a candidate is judged by. JAX is not needed.

    Raises DumpError where `folder` is not new, and whatever the models raise; nothing is written then.
    """
    with writing(folder) as writer:
        cases = []
        for number, subject in enumerate(subjects):
            if side_of(subject.model).__name__ != "parity.running.torch_side":
                raise TypeError(
                    f"the reference must be a torch.nn.Module, not {type(subject.model).__name__}."
                )
            progress(subject.id)
            entries = [
                _answers(writer, f"{number}.{index}", subject.model, probe)
                for index, probe in enumerate(subject.probes)
            ]
            cases.append({"id": subject.id, "summary": subject.summary, "probes": entries})
        writer.finish(REFERENCE, cases)


def capture_candidate(
    candidates: Mapping[str, Any],
    source: str | Path,
    folder: str | Path,
    *,
    own_weights: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Run candidates, by the ids of the cases in a reference's dump, on its probes. torch is not needed.

    They are given the weights of the dump, or keep their own, which must be equal then. Raises DumpError where the
    dump cannot be used or `folder` is not new, and whatever the models raise; nothing is written then.
    """
    dump = read(source, REFERENCE)
    ids = [case["id"] for case in dump.cases]
    if sorted(ids) != sorted(candidates):
        raise DumpError(f"{dump.folder}: holds {ids}, but there are candidates for {sorted(candidates)}.")
    with writing(folder) as writer:
        cases = []
        for number, case in enumerate(dump.cases):
            progress(case["id"])
            entries = [
                _attempt(writer, f"{number}.{index}", candidates[case["id"]], dump, entry, own_weights)
                for index, entry in enumerate(case["probes"])
            ]
            cases.append({"id": case["id"], "probes": entries})
        writer.finish(CANDIDATE, cases, made_from=dump.identity)


def require_reference(model: Any) -> None:
    """Raise TypeError for what is no torch module."""
    if side_of(model).__name__ != "parity.running.torch_side":
        raise TypeError(f"the reference must be a torch.nn.Module, not {type(model).__name__}.")


def _answers(writer: Writer, place: str, reference: Any, probe: Probe) -> dict[str, Any]:
    """Write what a reference answers to one probe."""
    from parity.oracle.evidence import gather

    started = time.perf_counter()
    evidence = gather(reference, probe)
    fields, inputs = packed(evidence.probe)
    files = {
        "inputs": writer.save(f"{place}.inputs", inputs),
        "measured": writer.save(f"{place}.measured", evidence.measured),
        "oracle": writer.save(f"{place}.oracle", evidence.oracle),
    }
    return {
        "name": evidence.probe.name,
        "probe": fields,
        "description": evidence.description,
        "notes": list(evidence.notes),
        "redrawn": {name: list(error) for name, error in evidence.redrawn.items()},
        "cotangents": cotangents(evidence.probe, evidence.measured),
        "seconds": time.perf_counter() - started,
        "files": files,
    }


def _attempt(
    writer: Writer, place: str, candidate: Any, dump: Dump, entry: Mapping[str, Any], own_weights: bool
) -> dict[str, Any]:
    """Write what a candidate answers to one probe; of one that cannot hold the weights, its own shapes."""
    started = time.perf_counter()
    probe, measured = dump.probe(entry), dump.trace(entry, "measured")
    _require_same_cotangents(dump, entry, probe, measured)
    ours, weights = side_of(candidate), measured.of_kind("param")
    shapes, paths = (
        {name: value.shape for name, value in ours.parameters(candidate).items()},
        ours.paths(candidate),
    )
    if misfitting(shapes, {name: array.shape for name, array in weights.items()}, paths):
        return {"name": probe.name, "seconds": 0.0, "parameters": shapes, "paths": paths, "files": {}}
    if not own_weights:
        candidate = ours.with_weights(candidate, weights)
    gradients = {name: measured[f"grad({name})"] for name in weights}
    files = {
        name: writer.save(f"{place}.{name}", ours.run(candidate, probe, dtype, gradients))
        for name, dtype in (("measured", probe.dtype), ("measured64", "float64"))
    }
    return {"name": probe.name, "seconds": time.perf_counter() - started, "files": files}


def _require_same_cotangents(dump: Dump, entry: Mapping[str, Any], probe: Probe, measured: Trace) -> None:
    if cotangents(probe, measured) != entry["cotangents"]:
        theirs = dump.manifest["environment"].get("numpy")
        raise DumpError(
            f"{dump.folder}: this machine's NumPy draws other random numbers than that of the reference "
            f"({theirs}): the gradients would be taken in other directions. Install the same version on both."
        )
