"""What the judge measures of ever smaller changes, on either side of its limit: the ladder as curves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from parity.report import facts
from parity.selftest.ladder import RUNGS, Rung, judge_changed
from parity.verdict import DIVERGENT
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
        shares = [2.0**-step for step in RUNGS]
        results = [judge_changed(judgement, rung.tensor, rung.place, rung.tier, share) for share in shares]
        points = (
            Point(share, facts.excess(result), result.verdict == DIVERGENT)
            for share, result in zip(shares, results, strict=True)
        )
        found.append(Curve(rung, tuple(points)))
    return found
