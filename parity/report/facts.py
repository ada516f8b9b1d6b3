"""What every face of a report says, worked out once: what failed first, what was not asked, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from parity.verdict import (
    DIVERGENT,
    EQUIVALENT,
    ERROR,
    INCONCLUSIVE,
    NOT_RUN,
    CaseResult,
    Comparison,
    Element,
    Node,
    Report,
    TensorResult,
)

_URGENCY = (ERROR, DIVERGENT, NOT_RUN, INCONCLUSIVE, EQUIVALENT)  # the order of the exit codes
_KINDS = {
    "state": "final states",
    "grad": "gradients",
    "step": "an optimizer step",
    "refusal": "arguments that the reference refuses",
}


def urgency(verdict: str) -> int:
    """Return the rank of a verdict among those to look at, 0 first."""
    return _URGENCY.index(verdict)


def by_urgency(cases: Iterable[CaseResult]) -> list[CaseResult]:
    """Return cases with the one to look at first in front; equals stay in the order of the run."""
    return sorted(cases, key=lambda case: urgency(case.verdict))


def first_failing(case: CaseResult) -> Comparison | None:
    """Return the probe to look at first; `None` where all passed."""
    failing = [comparison for comparison in case.comparisons if comparison.verdict != EQUIVALENT]
    return min(failing, key=lambda comparison: urgency(comparison.verdict), default=None)


def worst_first(tensors: Iterable[TensorResult]) -> list[TensorResult]:
    """Return tensors by gravity, then by how many times they exceed their limits; the unmeasured lead."""
    return sorted(tensors, key=lambda tensor: (urgency(tensor.verdict), -excess(tensor)))


def excess(tensor: TensorResult) -> float:
    """Return the largest measure of a tensor as a multiple of its limit; infinite where nothing was measured."""
    ratios = [tensor.semantic_ratio]
    if tensor.rho_limits is not None:
        for rho, limit in zip((tensor.rho_rms, tensor.rho_max), tensor.rho_limits, strict=True):
            ratios.append(None if rho is None else rho / limit)
    measured = [math.inf if math.isnan(ratio) else ratio for ratio in ratios if ratio is not None]
    return max(measured, default=0.0 if tensor.verdict == EQUIVALENT else math.inf)


def names(tensor: TensorResult) -> str:
    """Return torch's name and Flax's, once where they are the same."""
    if tensor.name == tensor.candidate_name:
        return tensor.name
    return f"{tensor.name} / {tensor.candidate_name}"


def shape(tensor: TensorResult) -> str:
    """Return a shape as `9x5x7`."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def reason(tensor: TensorResult) -> str:
    """Return why a tensor did not pass: the gate, what it says beyond its name, and the first element."""
    said = tensor.gate or ""
    if tensor.message and not (tensor.gate in ("semantic", "numeric") and tensor.first):
        said += f": {tensor.message}"
    if tensor.first is not None:
        said += f"; first at {element(tensor.first)}"
    return said


def element(found: Element) -> str:
    """Return an element as `[1, 2]: 0.5, expected 0.25`."""
    against = found.oracle if found.oracle is not None else found.reference
    expected = "nothing" if against is None else f"{against:.6g}"
    return f"{list(found.index)}: {found.candidate:.6g}, expected {expected}"


def sensitivity(report: Report) -> str:
    """Say what would not have been missed: the other half of every "equivalent"."""
    tiers = {
        "semantic, float64": report.semantic_sensitivity,
        "numeric": report.numeric_sensitivity,
    }
    stated = [f"{value:.0e} ({tier})" for tier, value in tiers.items() if value is not None]
    if not stated:
        return "sensitivity: no tensor was measured"
    return (
        f"sensitivity: a relative (rms) change of any tensor by {', '.join(stated)} would have been detected"
    )


def unexercised(report: Report) -> tuple[str, ...]:
    """Return what this report tells nothing about, however well everything passed."""
    compared = [tensor for tensor in report.tensors if tensor.compared]
    if not compared:
        return ("anything: no array was compared", *reservations(report))
    kinds = {tensor.kind for tensor in compared}
    found = [words for kind, words in _KINDS.items() if kind not in kinds]
    found += _missing_tiers(report)
    not_run = sum(case.verdict == NOT_RUN for case in report.cases)
    found += [f"{count(not_run, 'case')} that could not run"] if not_run else []
    dtypes = sorted({tensor.dtype for tensor in compared if "float" in tensor.dtype})
    found += [f"precisions other than {' and '.join(dtypes)}"] if dtypes else []
    device = report.environment.get("jax device")
    found += [f"devices other than {device.partition(' ')[0]}"] if device else []
    found += ["training beyond one step"] if "step" in kinds else []
    return (*found, *reservations(report))


def reservations(report: Report) -> tuple[str, ...]:
    """Return what the probes could not ask, each once."""
    said = (note for case in report.cases for probe in case.comparisons for note in probe.notes)
    return tuple(dict.fromkeys(said))


def notes(report: Report) -> tuple[str, ...]:
    """Return what is to be known beside the verdicts of the cases, such as what was assumed, each once."""
    return tuple(dict.fromkeys(note for case in report.cases for note in case.notes))


class Failed(NamedTuple):
    """Of the arrays that the reference has, how many did not pass; and how many only the candidate has."""

    failing: int
    expected: int
    unexpected: int

    def __str__(self) -> str:
        beside = f" and {self.unexpected} unexpected" if self.unexpected else ""
        return f"{self.failing} of {count(self.expected, 'tensor')}{beside}"


def failed(comparisons: Iterable[Comparison]) -> Failed:
    """Count the arrays of some probes that did not pass."""
    comparisons = tuple(comparisons)
    failures = [tensor for comparison in comparisons for tensor in comparison.failures]
    unexpected = sum(tensor.unexpected for tensor in failures)
    expected = sum(comparison.expected for comparison in comparisons)
    return Failed(len(failures) - unexpected, expected, unexpected)


def divergent(report: Report) -> str:
    """Return `3 divergent`, and how many of them the reference does not have."""
    found = [tensor for tensor in report.tensors if tensor.verdict == DIVERGENT]
    unexpected = sum(tensor.unexpected for tensor in found)
    return f"{len(found)} divergent" + (f" ({unexpected} of them unexpected)" if unexpected else "")


class Grid(NamedTuple):
    """The distances of one layer in one direction; a quantity that a step does not have is `None`."""

    part: str
    layer: int
    direction: int
    steps: tuple[int, ...]
    quantities: tuple[str, ...]
    distances: tuple[tuple[float | None, ...], ...]  # a row for each quantity, a column for each step

    @property
    def title(self) -> str:
        """The place in words: `encoder: layer 1 reverse`."""
        part = f"{self.part}: " if self.part else ""
        return f"{part}layer {self.layer} {('forward', 'reverse')[self.direction]}"


def grids(distances: Mapping[Node, float]) -> tuple[Grid, ...]:
    """Sort distances by place, kept to three digits so that files stay small."""
    places: dict[tuple[str, int, int], dict[tuple[str, int], float]] = {}
    for node, distance in distances.items():
        known = places.setdefault((node.part, node.layer, node.direction), {})
        known[node.quantity, node.step] = float(f"{distance:.3g}")
    found = []
    for place, known in places.items():
        quantities = tuple(dict.fromkeys(quantity for quantity, _ in known))
        steps = tuple(sorted({step for _, step in known}))
        rows = tuple(tuple(known.get((quantity, step)) for step in steps) for quantity in quantities)
        found.append(Grid(*place, steps, quantities, rows))
    return tuple(found)


def _missing_tiers(report: Report) -> list[str]:
    probes = [
        probe
        for case in report.cases
        for probe in case.comparisons
        if any(tensor.kind != "refusal" for tensor in probe.tensors)
    ]
    found = []
    for tier in ("semantic", "numeric"):
        missing = sum(tier not in probe.tiers for probe in probes)
        if missing:
            found.append(f"the {tier} tier" + (f" in {missing} of {len(probes)} probes" * (len(probes) > 1)))
    return found


def count(how_many: int, what: str) -> str:
    """Return `1 case`, `2 cases`."""
    return f"{how_many} {what}" + ("" if how_many == 1 else "s")


def largest(values: Iterable[float | None]) -> float | None:
    """Return the largest of the measured values, NaN before any other."""
    measured = [value for value in values if value is not None]
    return max(measured, key=lambda value: math.inf if math.isnan(value) else value, default=None)


def number(value: float | None) -> str:
    """Return a number in at most eight characters; a dash is "not measured"."""
    if value is None:
        return "-"
    return f"{value:.2f}" if 0.005 <= abs(value) < 1000 else f"{value:.1e}" if value else "0"
