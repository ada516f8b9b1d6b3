"""What the judge measures of ever smaller changes, on either side of its limit: the ladder as curves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from parity import gates
from parity.compare import compare_arrays
from parity.report import facts
from parity.selftest.ladder import PLACES, RUNGS, Rung
from parity.verdict import DIVERGENT, TensorResult
from parity.weighing import Judgement


class Point(NamedTuple):
    """A change as a share of its tensor's size, what is measured of it in limits, and whether it is found."""

    share: float
    limits: float
    found: bool


class Curve(NamedTuple):
    """Changes in the tensor in which the judge sees least, the largest first."""

    rung: Rung
    points: tuple[Point, ...]


def curves(judgement: Judgement, rungs: Iterable[Rung]) -> list[Curve]:
    """Measure every change again in the tensors that the rungs name."""
    found = []
    for rung in rungs:
        results = ((2.0**-step, _changed(judgement, rung, 2.0**-step)) for step in RUNGS)
        points = (Point(share, facts.excess(r), r.verdict == DIVERGENT) for share, r in results)
        found.append(Curve(rung, tuple(points)))
    return found


def _changed(judgement: Judgement, rung: Rung, share: float) -> TensorResult:
    """Judge a tensor with a change in it: in both precisions, or only in the one under test."""
    evidence, trace, trace64 = judgement.evidence, judgement.trace, judgement.trace64
    assert evidence is not None
    assert trace is not None
    assert trace64 is not None
    name, oracle = rung.tensor, evidence.oracle[rung.tensor]
    where = PLACES[rung.place](oracle) if oracle.ndim else ()
    change = np.zeros(oracle.shape)
    change[where] = share * gates.rms(oracle[np.isfinite(oracle)])
    changed = (gates.float64(trace[name]) + change).astype(trace[name].dtype)
    (result,) = compare_arrays(
        {name: changed},
        {name: evidence.measured[name]},
        {name: oracle},
        {name: trace64[name] + change * (rung.tier == "semantic")},
        kinds={name: evidence.measured.kinds[name]},
        redrawn={each: error for each, error in evidence.redrawn.items() if each == name},
    )
    return result
