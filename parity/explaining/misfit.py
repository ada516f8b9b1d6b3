"""How far a candidate's answers are from what a hypothesis would answer, in units of the semantic limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from parity import gates
from parity.gates import Array
from parity.oracle.evidence import Evidence
from parity.trace import AMPLIFYING, Trace


@dataclass(frozen=True)
class Answer:
    """What a candidate answered to one probe, in float64, and what the reference says of it."""

    evidence: Evidence
    candidate: Trace


def misfit(answer: Answer, supposed: Mapping[str, Array]) -> float:
    """Return the largest distance of any array, as a multiple of its limit; infinite where shapes differ."""
    found = answer.candidate.of_kind(*AMPLIFYING)
    if set(found) != set(supposed):
        return np.inf
    limits = Limits(answer.evidence)
    return max((limits.distance(name, found[name], supposed[name]) for name in found), default=np.inf)


class Limits:
    """The semantic limits of one probe's arrays."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def distance(self, name: str, found: Array, supposed: Array) -> float:
        """Return how far two arrays are apart, as a multiple of the limit; infinite where shapes differ."""
        if found.shape != supposed.shape:
            return np.inf
        places = np.isfinite(supposed)
        if not np.array_equal(places, np.isfinite(found)):
            return np.inf
        found, supposed = gates.float64(found)[places], gates.float64(supposed)[places]
        scale = max(gates.rms(supposed), self.size(name))
        error = gates.rms(found - supposed)
        if error == 0.0 or scale == 0.0:
            return 0.0 if error == 0.0 else np.inf
        return error / scale / self.limit(name)

    def size(self, name: str) -> float:
        """Return what a supposed zero is judged by: the size of what the oracle has in its place."""
        oracle = self.evidence.oracle.get(name)
        return 0.0 if oracle is None else 0.1 * gates.rms(gates.float64(oracle[np.isfinite(oracle)]))

    def limit(self, name: str) -> float:
        """Return the semantic limit of an array."""
        return self.evidence.limits.get(name, gates.SEMANTIC_FLOOR * gates.U64)
