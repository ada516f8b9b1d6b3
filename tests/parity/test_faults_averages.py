"""Exponential averages that are not torch's are found and called by their names."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.faults.averages import AVERAGES  # noqa: E402
from parity.longhand import averages as longhand  # noqa: E402
from parity.selftest import average_mutants as mutants  # noqa: E402
from parity.selftest import averages as selftest  # noqa: E402
from parity.selftest.trial import run_trial  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("trial", list(selftest.trials()), ids=lambda trial: trial.id)
def test_the_mutant_is_killed_by_its_gate_and_called_by_its_name(trial):
    outcome = run_trial(trial)
    assert outcome.killed, outcome
    assert outcome.named, outcome.diagnosed


def test_the_faithful_average_is_equivalent_and_gets_no_diagnosis():
    result = selftest.judge_average(mutants.incremental(lambda t: 1.0 - selftest.DECAY))
    assert (result.verdict, result.diagnosis) == ("EQUIVALENT", None)


def test_an_average_that_nothing_explains_gets_no_name():
    result = selftest.judge_average(mutants.incremental(lambda t: 0.03))
    assert result.verdict == "DIVERGENT"
    assert result.diagnosis.explanations == ()
    assert result.diagnosis.next_best.misfit > 1e6


def test_the_spelled_out_average_is_torchs():
    values = selftest._walk()
    expected = selftest._of_torch(values, torch.float64)
    found = longhand.run(values.astype(np.float64), selftest.DECAY)
    np.testing.assert_allclose(found, expected, rtol=1e-14)  # 40 updates of three roundings each


@pytest.mark.parametrize("fault", AVERAGES, ids=lambda fault: fault.id)
def test_every_fault_exchanges_one_part_and_changes_the_average(fault):
    values = selftest._walk().astype(np.float64)
    found, faithful = (longhand.run(values, selftest.DECAY, r) for r in (fault.recipe, longhand.FAITHFUL))
    assert np.max(np.abs(found - faithful)) > 0.1
    assert set(fault.parts) <= {field.name for field in dataclasses.fields(longhand.Recipe)}


def test_a_debiased_average_of_constants_is_the_constant_and_a_biased_one_is_smaller():
    ones = np.ones((5, 2))
    debiased, biased = (
        longhand.run(ones, 0.9, fault.recipe) for fault in AVERAGES if fault.id in ("O27", "O27-biased")
    )
    np.testing.assert_allclose(debiased, ones, rtol=1e-15)
    np.testing.assert_allclose(biased[:, 0], 1 - 0.9 ** np.arange(1, 6), rtol=1e-15)
