"""Every recurrent mutant of the catalogue is found by the gate meant for it, and named."""

import pytest

pytest.importorskip("torch")

from parity.faults import RECURRENT
from parity.selftest import recurrent
from parity.selftest.trial import run_trial
from parity.verdict import EXPLAINS

TRIALS = list(recurrent.trials())
FAST = ("G03", "L22")


@pytest.mark.parametrize(
    "trial",
    [pytest.param(trial, marks=[] if trial.id in FAST else pytest.mark.slow) for trial in TRIALS],
    ids=lambda trial: trial.id,
)
def test_a_mutant_is_found_by_its_gate_and_named(trial):
    outcome = run_trial(trial)
    assert outcome.error is None
    assert outcome.killed, (outcome.verdict, outcome.gates)
    assert outcome.named, outcome.diagnosed


def test_the_catalogue_has_no_id_twice_and_a_fix_for_each():
    ids = [fault.id for fault in RECURRENT]
    assert len(set(ids)) == len(ids)
    assert len({fault.name for fault in RECURRENT}) == len(ids)
    assert all(fault.fix for fault in RECURRENT)
    assert len(TRIALS) >= 65


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "where", "words"),
    [
        ("L06", lambda at: at.layer == 1, "in layer 1 only"),
        ("L10", lambda at: at.direction == 1, "in the reverse direction only"),
    ],
)
def test_a_mistake_in_one_layer_or_direction_is_named_with_its_place(id, where, words):
    fault = next(fault for fault in RECURRENT if fault.id == id)
    result = recurrent.judge_planted("lstm", fault.confined(where))
    (explanation,) = result.diagnosis.explanations
    assert explanation.id == id
    assert explanation.name.endswith(words)


def test_an_unknown_mistake_gets_no_name():
    """Nothing in the catalogue doubles the cell state."""
    known = next(fault for fault in RECURRENT if fault.id == "L14")
    parts = {"remember": lambda at, i, f, g, before: 2.0 * (f * before + i * g)}
    unknown = type(known)("X01", "cell state doubled", "", parts, known.possible)
    result = recurrent.judge_planted("lstm_plain", unknown)
    assert result.verdict == "DIVERGENT"
    assert result.diagnosis.explanations == ()
    assert result.diagnosis.next_best.misfit > 1e4 * EXPLAINS
