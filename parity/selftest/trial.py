"""One mutant put before the judge, and what the judge made of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parity.verdict import DIVERGENT, CaseResult


@dataclass(frozen=True)
class Trial:
    """A faithful pair with one fault planted in the candidate.

    id, name: of the fault, as the diagnosis should have it. gate: the one that is meant to find it.
    judge: puts the pair before the judge.
    """

    id: str
    name: str
    family: str
    case: str
    gate: str
    judge: Callable[[], CaseResult] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    trial: Trial
    verdict: str
    gates: tuple[str, ...]  # those that found it
    diagnosed: tuple[str, ...]  # ids of all explanations; several cannot be told apart
    error: str | None
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether the mutant was found, by the gate that was meant to find it."""
        return self.verdict == DIVERGENT and self.trial.gate in self.gates

    @property
    def named(self) -> bool:
        """Whether the one diagnosis is the right one."""
        return self.diagnosed == (self.trial.id,)

    @property
    def narrowed(self) -> bool:
        """Whether the right diagnosis is among several that these probes cannot tell apart."""
        return len(self.diagnosed) > 1 and self.trial.id in self.diagnosed


def run_trial(trial: Trial) -> Outcome:
    """Put a mutant before the judge."""
    started = time.perf_counter()
    result = trial.judge()
    errors = [result.error, *(comparison.error for comparison in result.comparisons)]
    explanations = result.diagnosis.explanations if result.diagnosis else ()
    return Outcome(
        trial,
        result.verdict,
        tuple(dict.fromkeys(t.gate for t in result.tensors if t.verdict == DIVERGENT and t.gate)),
        tuple(dict.fromkeys(explanation.id for explanation in explanations)),
        next(filter(None, errors), None),
        time.perf_counter() - started,
    )
