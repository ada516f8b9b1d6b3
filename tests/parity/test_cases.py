"""One table of cases: complete, readable without a framework, and every case in it holds."""

import importlib.util
import inspect
import subprocess
import sys

import pytest
from flax import nnx

import jaxrnn
from parity.cases import CASES, INSTALL
from parity.judge import judge_case
from parity.probe import SCALES

QUICK = ("lstm_plain", "gru_cell")
IDS = [case.id for case in CASES]


def public_modules():
    """The layers and models that jaxrnn offers."""
    offered = [getattr(home, name) for home in (jaxrnn, jaxrnn.models) for name in home.__all__]
    return {value for value in offered if inspect.isclass(value) and issubclass(value, nnx.Module)}


def test_every_public_layer_and_model_has_a_case():
    covered = {type(module) for case in CASES for _, module in nnx.iter_modules(case.candidate())}
    assert public_modules() >= {jaxrnn.RNN, jaxrnn.PeepholeLSTMCell}
    assert not public_modules() - covered


def test_ids_are_unique_and_summaries_are_written():
    assert len(set(IDS)) == len(IDS)
    assert all(case.summary for case in CASES)
    assert {package for case in CASES for package in case.requires} <= set(INSTALL)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_both_sides_of_a_case_hold_the_same_parameters(case):
    torch_side = pytest.importorskip("parity.running.torch_side")
    from parity.running import jax_side

    reference, candidate = case.reference(), case.candidate()
    shapes = {name: value.shape for name, value in torch_side.parameters(reference).items()}
    assert {name: value.shape for name, value in jax_side.parameters(candidate).items()} == shapes


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_probes_of_a_case_follow_from_the_seed(case):
    if case.missing():
        pytest.skip(case.missing())
    assert len(case.probes("quick", 3)) == 1
    assert 1 < len(case.probes("designed", 3)) <= len(SCALES["designed"])
    assert (
        case.probes("quick", 3)[0].seed == case.probes("quick", 3)[0].seed != case.probes("quick", 4)[0].seed
    )


@pytest.mark.essential
@pytest.mark.parametrize("case", [case for case in CASES if case.id in QUICK], ids=QUICK)
def test_a_few_cases_hold(case):
    pytest.importorskip("torch")
    result = judge_case(case, "quick")
    assert result.verdict == "EQUIVALENT", result


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_registered_case_is_equivalent(case):
    if case.missing():
        pytest.skip(case.missing())
    result = judge_case(case)
    assert result.verdict == "EQUIVALENT", result
    assert all(comparison.compared == comparison.expected > 0 for comparison in result.comparisons)


def test_a_case_whose_package_is_missing_is_not_run(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = judge_case(CASES[0])
    assert result.verdict == "NOT RUN"
    assert result.not_run == "torch not installed; pip install 'jaxrnn[torch]'"


def test_the_table_can_be_read_without_either_framework():
    check = (
        "import sys, parity, parity.cases, parity.cli\n"
        "assert not {'torch', 'jax', 'flax'} & set(sys.modules), sorted(sys.modules)\n"
        "assert callable(parity.compare)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
