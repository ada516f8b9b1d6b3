"""The command line: what it prints, writes and returns."""

import json

import click
import pytest
from click.testing import CliRunner

from parity import cases, cli
from parity.cases import CASES
from parity.cli import run_cases
from parity.verdict import CaseResult, Comparison, Report, TensorResult

torch = pytest.importorskip("torch")

WRONG = "tests.parity.wrong_models"


@pytest.fixture
def parity_run(tmp_path, monkeypatch):
    """Call `parity ARGS`; the report lies in `tmp_path`."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*args):
        report = ("--report", str(tmp_path / "parity-report.json")) if args[0] == "run" else ()
        return CliRunner().invoke(cli.main, [*args, *report], catch_exceptions=False)

    call.report = tmp_path / "parity-report.json"
    return call


@pytest.mark.essential
def test_equivalent_models_exit_0_with_a_table_and_a_report(parity_run):
    result = parity_run("run", "lstm_cell", "rnn_plain", "--probe", "quick")
    assert result.exit_code == 0, result.output
    for words in ("lstm_cell", "rnn_plain", "EQUIVALENT (exit 0)", "sensitivity:", "torch 2.", "jax 0."):
        assert words in result.stdout
    assert "\x1b" not in result.output
    report = json.loads(parity_run.report.read_text())
    assert (report["schema"], report["verdict"], report["exit_code"]) == ("parity/1", "EQUIVALENT", 0)
    assert report["totals"]["compared"] == report["totals"]["expected"] > 0
    assert str(parity_run.report) in result.stdout.replace("\n", "")


def test_verbose_lists_every_tensor(parity_run):
    brief = parity_run("run", "gru_cell", "--probe", "quick")
    verbose = parity_run("run", "gru_cell", "--probe", "quick", "-v")
    assert "grad(weight_hh)" not in brief.stdout
    for name in ("weight_hh", "h_1", "grad(input)", "grad(h_0)", "grad(bias_hh)", "step(weight_ih)"):
        assert name in verbose.stdout


def test_json_goes_to_stdout_and_the_table_elsewhere(parity_run, tmp_path):
    result = parity_run("run", "gru_cell", "--probe", "quick", "--json", "-")
    assert json.loads(result.stdout)["verdict"] == "EQUIVALENT"
    assert "EQUIVALENT (exit 0)" in result.stderr
    parity_run("run", "gru_cell", "--probe", "quick", "--json", str(tmp_path / "copy.json"))
    assert json.loads((tmp_path / "copy.json").read_text())["verdict"] == "EQUIVALENT"


@pytest.mark.parametrize(
    ("factory", "case", "named"),
    [
        ("swapped_gates", "lstm_plain", ["output", "h_n", "grad(weight_ih_l0)"]),
        ("dropped_b_hn", "gru_plain", ["output", "grad(bias_hh_l0)"]),
        ("cut_bptt", "lstm_plain", ["grad(weight_hh_l0)", "grad(input)"]),
        ("lengths_off_by_one", "rnn_tanh", ["output", "h_n", "grad(input)"]),
    ],
)
def test_a_wrong_model_exits_1_and_the_arrays_are_named(parity_run, factory, case, named):
    result = parity_run("run", case, "--probe", "quick", "--candidate", f"{WRONG}:{factory}", "-v")
    assert result.exit_code == 1, result.output
    report = json.loads(parity_run.report.read_text())
    (probe,) = report["cases"][0]["probes"]
    divergent = {t["reference_name"] for t in probe["tensors"] if t["verdict"] == "DIVERGENT"}
    assert set(named) <= divergent
    assert all(name in result.stdout for name in named)
    assert "first at [" in result.stdout
    if factory == "cut_bptt":
        assert not {"output", "h_n", "c_n"} & divergent


def test_a_candidate_that_cannot_hold_the_weights_exits_1_and_the_names_are_listed(parity_run):
    result = parity_run("run", "lstm_plain", "--probe", "quick", "--candidate", f"{WRONG}:without_a_bias")
    assert result.exit_code == 1
    assert "bias_ih_l0" in result.stdout
    assert "missing in the candidate" in result.stdout


def test_an_exception_in_one_case_exits_2_and_the_others_still_run(parity_run, monkeypatch):
    def fail():
        raise ZeroDivisionError("a bug in the factory")

    bad = cases.Case("bad", "", fail, fail, CASES[0].probes)
    good = next(case for case in CASES if case.id == "gru_cell")
    monkeypatch.setattr(run_cases, "CASES", (bad, good))
    result = parity_run("run", "--probe", "quick")
    assert result.exit_code == 2
    assert "ZeroDivisionError: a bug in the factory" in result.stdout.replace("\n", " ")
    report = json.loads(parity_run.report.read_text())
    assert [case["verdict"] for case in report["cases"]] == ["ERROR", "EQUIVALENT"]


def test_an_exception_inside_the_candidate_exits_2(parity_run):
    result = parity_run("run", "lstm_plain", "--probe", "quick", "--candidate", f"{WRONG}:broken")
    assert result.exit_code == 2
    assert "a bug in the candidate" in result.stdout


def test_a_missing_package_exits_4_and_says_how_to_install_it(parity_run, monkeypatch):
    find = cases.importlib.util.find_spec
    monkeypatch.setattr(
        cases.importlib.util, "find_spec", lambda name: None if name == "bokeh_sampledata" else find(name)
    )
    result = parity_run("run", "gru_cell", "stocks_rnn", "--probe", "quick")
    assert result.exit_code == 4
    assert "NOT RUN" in result.stdout
    assert "pip install 'jaxrnn[examples]'" in result.stdout
    assert "pip install 'jaxrnn[examples]'" in parity_run("list").stdout


@pytest.mark.parametrize("error", [RuntimeError("a bug in the harness"), KeyboardInterrupt()])
def test_a_crash_is_not_taken_for_a_divergence_and_leaves_no_old_report(parity_run, monkeypatch, error):
    def crash(*_, **__):
        raise error

    parity_run.report.write_text("{}")
    monkeypatch.setattr(run_cases, "_judge", crash)
    result = parity_run("run", "gru_cell")
    assert result.exit_code == 2
    assert ("a bug in the harness" in result.stderr) or ("interrupted" in result.stderr)
    assert not parity_run.report.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lstn"], "no case is called 'lstn'; did you mean lstm"),
        (["qqqq"], "`parity list` shows the cases"),
        (["--candidate", "a.b:c"], "name it, as in"),
        (["lstm", "--candidate", "nonsense"], "write it as package.module:factory"),
        (["lstm", "--candidate", "no_such_module:f"], "there is no module 'no_such_module' in"),
        (["lstm", "--candidate", f"{WRONG}:nothing"], "has no 'nothing'. It has"),
        (["lstm", "--candidate", f"{WRONG}:FEATURES"], "FEATURES is a int, not a factory"),
        (["lstm", "--json", "x.txt"], "name it x.json"),
        (["lstm", "--json", "/no/such/folder/x.json"], "create it first"),
        (["lstm", "--probe", "hard"], "'hard' is not one of 'quick', 'designed'"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_do(parity_run, arguments, message):
    result = parity_run("run", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not parity_run.report.exists()


def test_the_same_seed_asks_the_same_and_another_seed_something_else(parity_run):
    def numbers(seed):
        parity_run("run", "gru_cell", "--probe", "quick", "--seed", str(seed))
        (probe,) = json.loads(parity_run.report.read_text())["cases"][0]["probes"]
        return [tensor["reference_error_u"] for tensor in probe["tensors"]]

    assert numbers(1) == numbers(1) != numbers(2)


def test_list_names_every_case(parity_run):
    listed = parity_run("list").stdout
    assert all(case.id in listed for case in CASES)


def test_env_shows_what_decides_about_numbers(parity_run):
    shown = parity_run("env").stdout
    for words in ("jax", "torch", "x64", "matmul precision", "torch threads"):
        assert words in shown


def test_help_states_the_exit_codes():
    assert "5 nothing compared" in CliRunner().invoke(cli.main, ["--help"]).output.replace("\n ", "")
    assert isinstance(cli.main, click.Group)


def tensor(verdict, compared=True):
    return TensorResult("x", "x", "output", verdict, compared=compared)


def case(*verdicts, **options):
    tensors = tuple(tensor(verdict) for verdict in verdicts)
    return CaseResult("c", comparisons=(Comparison("p", tensors, len(tensors)),), **options)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([case("EQUIVALENT")], 0),
        ([case("EQUIVALENT"), case("DIVERGENT")], 1),
        ([case("DIVERGENT"), case(error="boom")], 2),
        ([case("EQUIVALENT"), case("INCONCLUSIVE")], 3),
        ([case("EQUIVALENT"), case(not_run="no torch")], 4),
        ([case("DIVERGENT"), case(not_run="no torch")], 1),
        ([case("INCONCLUSIVE"), case(not_run="no torch")], 4),
        ([case()], 5),
        ([], 5),
    ],
)
def test_of_several_exit_codes_the_most_urgent_wins(found, code):
    report = Report(tuple(found))
    assert report.exit_code == code
    assert (report.verdict == "EQUIVALENT") == (code == 0)
