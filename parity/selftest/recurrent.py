"""Mutants of recurrent layers: every fault of the catalogue, planted in the candidate of a faithful pair."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from parity.cases import Case
from parity.faults import RECURRENT, Fault
from parity.longhand import jax_modules, surface, torch_modules
from parity.longhand.recurrent import Network, Recipe
from parity.selftest.subject import case_of, subject
from parity.selftest.trial import Trial
from parity.verdict import CaseResult

FAMILY = "recurrent"
# A fault is planted in the first of these that can have it ...
_HOMES = ("lstm", "gru", "peephole_lstm", "rnn_tanh", "rnn_relu", "lstm_proj", "gru_dropout")
# ... but for those that would not show there.
_OTHER_HOMES = {
    "S01": "lstm_plain",
    "S06": "lstm_unbatched",
    **dict.fromkeys(("S18", "S18-anew", "S18-cut"), "windows"),
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
    """Judge a pair in whose candidate a fault was planted."""
    chosen = subject(case_id)

    def recipe_of(name: str, network: Network) -> Recipe:
        return fault.recipe(network)

    return chosen.judge(jax_modules.plant(chosen.case.candidate(), recipe_of), fault.name)


def _home(fault: Fault) -> Case:
    homes = [_OTHER_HOMES[fault.id]] if fault.id in _OTHER_HOMES else _HOMES
    return next(case for case in map(case_of, homes) if any(map(fault.possible, _networks(case))))


def _networks(case: Case) -> list[Network]:
    parts = torch_modules.recurrent_parts(case.reference())
    return [surface.network_of(part) for part in parts.values()]
