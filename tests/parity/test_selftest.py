"""The judge judged: enough mutants, a ladder of small changes, and nothing empty that passes."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from parity.cli import main, selftest_run
from parity.report import ladder_curves
from parity.selftest import families, ladder, vacuity
from parity.selftest.trial import Trial, run_trial
from parity.verdict import CaseResult, Comparison, Diagnosis, Explanation, TensorResult


def outcome_of(verdict="DIVERGENT", gate="semantic", named=("X1",), meant="semantic"):
    """Return what becomes of a mutant that the judge answers in this way."""
    tensor = TensorResult("y", "y", "output", verdict, gate=None if verdict == "EQUIVALENT" else gate)
    found = Diagnosis(tuple(Explanation(id, id, "", 0.1) for id in named), None, 5)
    result = CaseResult("case", comparisons=(Comparison("1x", (tensor,), 1),), diagnosis=found)
    return run_trial(Trial("X1", "a mistake", "family", "case", meant, lambda: result))


@pytest.mark.parametrize("situation", list(vacuity.situations()), ids=lambda situation: situation[0])
def test_nothing_empty_dead_or_missing_passes(situation):
    _, judge = situation
    report = judge()
    assert report.verdict != "EQUIVALENT"
    assert report.exit_code != 0


@pytest.mark.slow
def test_the_judge_sees_changes_as_small_as_it_must():
    rungs = ladder.climb(selftest_run._faithful())
    assert [rung for rung in rungs if not rung.sharp] == []
    assert {(rung.place, rung.tier) for rung in rungs} == set(ladder.REQUIRED)
    blunt = dataclasses.replace(rungs[0], smallest=2.0**-10)
    assert not blunt.sharp


def test_there_are_more_than_a_hundred_faults_in_more_than_two_hundred_mutants():
    trials = families.choose([])
    assert {trial.family for trial in trials} == set(families.FAMILIES)
    assert len(trials) > 200
    assert len({(trial.family, trial.id) for trial in trials}) > 180
    with pytest.raises(KeyError, match="Z99"):
        families.choose(["Z99"])


def test_a_mutant_counts_as_killed_only_by_the_gate_meant_for_it():
    assert outcome_of().killed
    assert not outcome_of(gate="numeric").killed
    assert not outcome_of(verdict="EQUIVALENT").killed
    assert not outcome_of(verdict="INCONCLUSIVE").killed


def test_a_mutant_counts_as_named_only_by_the_one_right_name():
    assert outcome_of().named
    assert not outcome_of(named=()).named
    assert not outcome_of(named=("X2",)).named
    several = outcome_of(named=("X1", "X2"))
    assert (several.named, several.narrowed) == (False, True)


def test_a_survivor_makes_the_command_fail_and_is_listed(tmp_path, monkeypatch):
    passed = CaseResult(
        "case", comparisons=(Comparison("1x", (TensorResult("y", "y", "output", "EQUIVALENT"),), 1),)
    )
    trial = Trial("X1", "a mistake", "family", "case", "semantic", lambda: passed)
    monkeypatch.setattr(families, "choose", lambda wanted: [trial])
    path, page = tmp_path / "selftest.json", tmp_path / "selftest.html"
    result = CliRunner().invoke(main, ["selftest", "X1", "--json", str(path), "--html", str(page)])
    assert result.exit_code == 1
    assert "SURVIVED X1" in result.stdout
    assert "BLUNT" in result.stdout
    (mutant,) = json.loads(path.read_text())["mutants"]
    assert (mutant["killed"], mutant["verdict"]) == (False, "EQUIVALENT")
    assert '<td class="bad">survived</td>' in page.read_text("utf-8")


def test_a_page_of_another_kind_is_refused_before_any_mutant(tmp_path):
    result = CliRunner().invoke(main, ["selftest", "--html", str(tmp_path / "page.txt")])
    assert result.exit_code == 2
    assert "ends in .html" in result.stderr


@pytest.mark.slow
def test_the_curves_of_the_ladder_cross_the_limit_where_the_rungs_say():
    judgement = selftest_run._faithful()
    rungs = ladder.climb(judgement)
    for curve in ladder_curves.curves(judgement, rungs):
        found = [point.share for point in curve.points if point.found]
        assert min(found) == curve.rung.smallest
        assert all(point.found == (point.limits > 1) for point in curve.points), curve.rung


def test_an_unknown_mutant_is_a_usage_error():
    result = CliRunner().invoke(main, ["selftest", "Z99"])
    assert result.exit_code == 2
    assert "'Z99' is no mutant" in result.stderr
