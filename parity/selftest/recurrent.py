"""Mutants of recurrent layers: every fault of the catalogue, planted in the candidate of a registered case."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

from parity.cases import CASES, Case
from parity.explaining import diagnose, explain
from parity.faults import RECURRENT, Fault
from parity.longhand import jax_modules, surface
from parity.longhand.recurrent import Network, Recipe
from parity.oracle.evidence import Evidence, gather
from parity.selftest.trial import Trial
from parity.verdict import DIVERGENT, CaseResult
from parity.weighing import weigh

FAMILY = "recurrent"
# A fault is planted in the first of these that can have it ...
_HOMES = ("lstm", "gru", "peephole_lstm", "rnn_tanh", "rnn_relu", "lstm_proj", "gru_dropout")
# ... but for those that would not show there.
_OTHER_HOMES = {
    "S01": "lstm_plain",
    "S06": "lstm_unbatched",
    **dict.fromkeys(("S14", "S15", "S16", "S17", "S17-inverted"), "gru_dropout"),
}


def trials() -> Iterator[Trial]:
    """Yield a trial of every fault that is not one of many of its kind."""
    for fault in RECURRENT:
        if not fault.variant:
            case = _home(fault)
            judge = functools.partial(judge_planted, case.id, fault)
            yield Trial(fault.id, fault.name, FAMILY, case.id, fault.gate, judge)


def judge_planted(case_id: str, fault: Fault) -> CaseResult:
    """Judge a registered case in whose candidate a fault was planted."""
    subject = _subject(case_id)

    def recipe_of(name: str, network: Network) -> Recipe:
        return fault.recipe(network)

    candidate = jax_modules.plant(subject.case.candidate(), recipe_of)
    judgements = [weigh(candidate, evidence) for evidence in subject.evidence]
    result = CaseResult(case_id, fault.name, tuple(judgement.comparison for judgement in judgements))
    if result.verdict != DIVERGENT:
        return result
    return dataclasses.replace(result, diagnosis=explain.name(judgements, subject.dictionary))


class _Subject(NamedTuple):
    case: Case
    evidence: list[Evidence]
    dictionary: diagnose.Dictionary


@functools.cache
def _subject(case_id: str) -> _Subject:
    """Return a case with all that its mutants share."""
    case = _case(case_id)
    reference = case.reference()
    found = [gather(reference, probe) for probe in case.probes("designed", 0)]
    return _Subject(case, found, diagnose.Dictionary())


def _home(fault: Fault) -> Case:
    homes = [_OTHER_HOMES[fault.id]] if fault.id in _OTHER_HOMES else _HOMES
    return next(case for case in map(_case, homes) if fault.possible(surface.network_of(case.reference())))


def _case(id: str) -> Case:
    return next(case for case in CASES if case.id == id)
