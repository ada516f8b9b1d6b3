"""A faithful pair with what its mutants share: evidence and hypotheses are computed once for all of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from parity.cases import CASES, Case
from parity.explaining import diagnose, explain
from parity.oracle.evidence import Evidence, gather
from parity.subjects.table import STACK, SUBJECTS
from parity.verdict import DIVERGENT, CaseResult
from parity.weighing import weigh


class Subject(NamedTuple):
    """A pair, what its reference answers to the designed probes, and the hypotheses about it."""

    case: Case
    evidence: list[Evidence]
    dictionary: diagnose.Dictionary

    def judge(self, candidate: Any, name: str = "") -> CaseResult:
        """Judge another candidate in the place of the faithful one; diagnose it where it diverges."""
        judgements = [weigh(candidate, evidence) for evidence in self.evidence]
        comparisons = tuple(judgement.comparison for judgement in judgements)
        result = CaseResult(self.case.id, name, comparisons)
        if result.verdict != DIVERGENT:
            return result
        return dataclasses.replace(result, diagnosis=explain.name(judgements, self.dictionary))


@functools.cache
def subject(id: str) -> Subject:
    """Return a registered case, or a model that exists for its mistakes, with all that its mutants share."""
    case = case_of(id)
    reference = case.reference()
    found = [gather(reference, probe) for probe in case.probes("designed", 0)]
    return Subject(case, found, diagnose.Dictionary())


def case_of(id: str) -> Case:
    """Return a case by its id."""
    return next(case for case in (*CASES, *SUBJECTS, STACK) if case.id == id)
