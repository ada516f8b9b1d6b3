"""Mutants outside the recurrence: attention, norms, activations, precision, each planted by hand in a JAX model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from parity.cases import Case
from parity.explaining import diagnose, explain
from parity.faults import FUNCTIONS
from parity.faults.numerics import NUMERIC
from parity.oracle.evidence import Evidence, gather
from parity.selftest.trial import Trial
from parity.subjects.jax_mutants import MUTANTS, Mutant
from parity.subjects.table import SUBJECTS
from parity.verdict import DIVERGENT, CaseResult
from parity.weighing import weigh

FAMILY = "functions"


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant of the table."""
    names = {fault.id: fault.name for fault in NUMERIC}
    names |= {fault.id: fault.name for fault in FUNCTIONS}
    for mutant in MUTANTS:
        name = names.get(mutant.fault, mutant.fault)
        judge = functools.partial(judge_mutant, mutant.subject, mutant.parts, name)
        yield Trial(mutant.fault, name, FAMILY, mutant.subject, mutant.gate, judge)


def mutant_of(trial: Trial) -> Mutant:
    """Return the row of the table that a trial comes from."""
    return next(mutant for mutant in MUTANTS if (mutant.fault, mutant.subject) == (trial.id, trial.case))


def judge_mutant(subject_id: str, parts: Any, name: str = "") -> CaseResult:
    """Judge a subject whose candidate computes by other parts; diagnose it where it diverges."""
    subject = _subject(subject_id)
    build: Callable[..., Any] = subject.case.candidate
    candidate = build(parts)
    judgements = [weigh(candidate, evidence) for evidence in subject.evidence]
    result = CaseResult(subject_id, name, tuple(judgement.comparison for judgement in judgements))
    if result.verdict != DIVERGENT:
        return result
    return dataclasses.replace(result, diagnosis=explain.name(judgements, subject.dictionary))


class _Subject(NamedTuple):
    case: Case
    evidence: list[Evidence]
    dictionary: diagnose.Dictionary


@functools.cache
def _subject(id: str) -> _Subject:
    """Return a subject with all that its mutants share."""
    case = next(case for case in SUBJECTS if case.id == id)
    reference = case.reference()
    found = [gather(reference, probe) for probe in case.probes("designed", 0)]
    return _Subject(case, found, diagnose.Dictionary())
