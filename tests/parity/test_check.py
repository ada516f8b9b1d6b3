"""`parity check`: a user's pair of models, from shapes or from a factory of inputs."""

import importlib.util
import json

import numpy as np
import pytest
from click.testing import CliRunner

from parity import cli
from parity.inputs import Drawn, Shape, ambiguous_axes, parse_input, probes_of
from parity.probe import Probe

torch = pytest.importorskip("torch")

PAIRS = "tests.parity.pairs"


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Call `parity check` on factories of `tests.parity.pairs`; returns the result and the JSON report."""
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / "parity-report.json"

    def call(reference, candidate, *options):
        models = ("--reference", f"{PAIRS}:{reference}", "--candidate", f"{PAIRS}:{candidate}")
        arguments = ["check", *models, *options, "--report", str(path)]
        result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
        return result, json.loads(path.read_text()) if path.exists() else None

    return call


def tensors(report):
    return {t["reference_name"]: t for probe in report["cases"][0]["probes"] for t in probe["tensors"]}


def test_two_models_with_shapes_for_inputs_are_judged_at_three_scales(check):
    result, report = check("torch_gru", "gru", "--input", "input=5,9,3")
    assert result.exit_code == 0, result.output
    (case,) = report["cases"]
    assert [probe["probe"]["weight_scale"] for probe in case["probes"]] == [1.0, 4.0, 0.1]
    assert [probe["probe"]["inputs"] for probe in case["probes"]] == [{"input": "float32[5, 9, 3]"}] * 3
    assert {"output", "grad(weight_hh_l0)", "grad(input)", "step(bias_ih_l0)"} <= set(tensors(report))
    assert "EQUIVALENT (exit 0)" in result.stdout


def test_integers_and_booleans_reach_a_model_whose_arguments_have_other_names(check):
    arguments = ("--input", "ids=int:5,9<11", "--input", "keep=bool:5,9", "--probe", "quick")
    result, report = check("torch_tagger", "tagger", *arguments)
    assert result.exit_code == 0, result.output
    assert "grad(embed.weight)" in tensors(report)
    assert report["cases"][0]["probes"][0]["probe"]["inputs"] == {"ids": "int64[5, 9]", "keep": "bool[5, 9]"}


def test_models_that_drop_are_judged_in_evaluation_mode_where_asked(check):
    pair = ("torch_gru_that_drops", "gru_that_drops", "--input", "input=5,9,3", "--probe", "quick")
    training, _ = check(*pair)
    assert training.exit_code == 2
    assert "--eval of parity check" in " ".join(training.output.split())
    evaluating, report = check(*pair, "--eval")
    assert evaluating.exit_code == 0, evaluating.output
    assert "grad(weight_hh_l1)" in tensors(report)


def test_drawn_biases_show_what_the_zeros_of_a_new_model_hide(check):
    """The weakness of a test with default weights: a missing bias of zeros is no difference in any output."""
    pair = ("torch_gru_with_zero_biases", "gru_without_b_hn", "--input", "input=5,9,3", "--probe", "quick")
    hidden, report = check(*pair, "--port")
    assert tensors(report)["output"]["verdict"] == "EQUIVALENT"
    assert tensors(report)["grad(bias_hh_l0)"]["verdict"] == "DIVERGENT"  # gradients see it even so
    assert hidden.exit_code == 1
    shown, report = check(*pair)
    assert shown.exit_code == 1
    assert tensors(report)["output"]["verdict"] == "DIVERGENT"
    assert report["cases"][0]["diagnosis"]["explanations"][0]["id"] == "G03"


def test_weights_that_do_not_fit_are_listed_with_what_to_do(check):
    result, report = check(
        "torch_tagger", "renamed_tagger", "--input", "ids=int:5,9<11", "--input", "keep=bool:5,9"
    )
    assert result.exit_code == 1
    for words in ('Missing key(s) in state_dict: "classifier.weight"', "must be called as in the reference"):
        assert words in result.output
    assert tensors(report)["head.weight"]["message"] == "missing in the candidate"
    assert any("do not fit the candidate by torch's names" in note for note in report["cases"][0]["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "code", "weights", "scales"),
    [
        ("--own-weights", 1, "DIVERGENT", [None] * 3),  # the two were initialised differently
        ("--port", 0, "EQUIVALENT", [None] * 3),
        (None, 0, "EQUIVALENT", [1.0, 4.0, 0.1]),
    ],
)
def test_weights_are_each_models_own_or_ported_or_drawn(check, option, code, weights, scales):
    options = () if option is None else (option,)
    result, report = check("torch_gru", "gru", "--input", "input=5,9,3", *options)
    assert result.exit_code == code, result.output
    assert tensors(report)["weight_ih_l0"]["verdict"] == weights
    assert [probe["probe"]["weight_scale"] for probe in report["cases"][0]["probes"]] == scales
    assert [probe["name"] for probe in report["cases"][0]["probes"]] == ["1x", "4x", "0.1x"]


@pytest.mark.parametrize(
    ("factory", "options", "names"),
    [
        ("inputs_tuple", ("--probe", "quick"), ["1x"]),
        ("inputs_dict", ("--probe", "quick"), ["1x"]),
        ("inputs_tuple", ("--port",), ["inputs"]),
        ("inputs_probes", (), ["a", "b"]),
    ],
)
def test_a_factory_may_make_arrays_or_probes(check, factory, options, names):
    result, report = check("torch_gru", "gru", "--inputs", f"{PAIRS}:{factory}", *options)
    assert result.exit_code == 0, result.output
    assert [probe["name"] for probe in report["cases"][0]["probes"]] == names
    assert "grad(input)" in tensors(report)
    assert ("grad(h_0)" in tensors(report)) == (factory == "inputs_dict")


def test_the_batch_that_was_assumed_is_said_and_rows_that_agree_prove_nothing(check):
    result, report = check("torch_scale", "scale", "--input", "input=5,9,3", "--probe", "quick")
    said = "axis 0 (size 5) of output was taken for the batch"
    assert any(said in note for note in report["cases"][0]["notes"])
    verdict, after = result.output.split("EQUIVALENT (exit 0)\n")
    assert after.startswith(f"note: {said}")
    assert said not in verdict
    options = ("--inputs", f"{PAIRS}:inputs_same_rows", "--probe", "quick")
    result, report = check("torch_scale", "scale", *options)
    assert result.exit_code == 3
    assert "the same for every row of the batch" in tensors(report)["output"]["message"]


def test_axes_of_one_size_are_said_to_be_interchangeable(check):
    result, report = check("torch_scale", "scale", "--input", "input=3,5,3", "--probe", "quick")
    assert any("input [3, 5, 3]; make all sizes different" in note for note in report["cases"][0]["notes"])
    assert "can be swapped unnoticed" in result.output
    assert ambiguous_axes([Probe(args=(np.zeros((1, 1, 4)),))]) == []


def test_the_seed_and_the_precision_are_those_that_were_asked_for(check):
    def asked(*options):
        _, report = check("torch_scale", "scale", "--input", "input=5,9,3", "--probe", "quick", *options)
        return report["cases"][0]["probes"][0]["probe"], tensors(report)["output"]

    assert asked()[0]["seed"] != asked("--seed", "1")[0]["seed"]
    probe, output = asked("--dtype", "bfloat16")
    assert (probe["dtype"], output["dtype"], output["verdict"]) == ("bfloat16", "bfloat16", "EQUIVALENT")


def test_json_goes_to_stdout_alone_and_other_faces_into_files(check, tmp_path):
    faces = ("--json", "-", "--junit", str(tmp_path / "r.xml"), "--markdown", str(tmp_path / "r.md"))
    result, report = check("torch_scale", "scale", "--input", "input=5,9,3", "--probe", "quick", *faces)
    assert json.loads(result.stdout)["verdict"] == report["verdict"] == "EQUIVALENT"
    assert "was taken for the batch" in result.stderr
    assert "EQUIVALENT (exit 0)" in result.stderr
    assert "testsuites" in (tmp_path / "r.xml").read_text()
    assert "EQUIVALENT" in (tmp_path / "r.md").read_text()


def test_swapped_models_are_an_error_and_not_a_pass(check):
    result, report = check("gru", "torch_gru", "--input", "input=5,9,3")
    assert result.exit_code == 2
    assert "the reference must be a torch.nn.Module" in report["cases"][0]["error"]


@pytest.mark.parametrize(
    ("candidate", "words"),
    [("factory_that_fails", "a bug in the factory"), ("gru_that_fails", "a bug in the candidate")],
)
def test_an_exception_in_a_users_code_exits_2_and_says_where(check, candidate, words):
    result, report = check("torch_gru", candidate, "--input", "input=5,9,3", "--probe", "quick")
    assert result.exit_code == 2
    assert words in result.output
    assert "pairs.py" in json.dumps(report)


def test_a_missing_torch_exits_4_and_says_how_to_install_it(check, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    result, report = check("torch_gru", "gru", "--input", "input=5,9,3")
    assert result.exit_code == 4
    assert "pip install 'jaxrnn[torch]'" in report["cases"][0]["not_run"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either --inputs or --input"),
        (("--input", "input=5,9,3", "--inputs", "a:b"), "either --inputs or --input"),
        (("--input", "input"), "names no argument; write for instance x=5,9,3"),
        (("--input", "input=5x9"), "is no shape"),
        (("--input", "input=5,9<3"), "only integers have bounds"),
        (("--input", "input=int:5,9"), "write int:5,9<100"),
        (("--input", "input=5,9,3", "--input", "input=5,9,3"), "names an argument twice"),
        (("--inputs", f"{PAIRS}:nothing"), "has no 'nothing'. Did you mean inputs_nothing?"),
        (("--inputs", f"{PAIRS}:inputs_probes", "--seed", "3"), "bring their own seed"),
    ],
)
def test_wrong_usage_exits_2_and_leaves_no_report(check, options, message):
    result, report = check("torch_gru", "gru", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert report is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--input", "x=5,9,3"), "GRU has no argument x; it takes input, hx"),
        (("--inputs", f"{PAIRS}:inputs_nothing"), "an empty list of probes asks nothing"),
    ],
)
def test_inputs_that_do_not_fit_the_reference_are_an_error(check, options, message):
    result, report = check("torch_gru", "gru", *options)
    assert result.exit_code == 2
    assert message in report["cases"][0]["error"]


def test_shapes_are_drawn_within_their_bounds_and_by_the_seed():
    assert parse_input("x=5, 9, 3") == ("x", Shape((5, 9, 3)))
    assert parse_input("n=int:50>=1<4") == ("n", Shape((50,), "int", 1, 4))
    rng = np.random.default_rng(0)
    assert set(Shape((50,), "int", 1, 4).draw(rng, 1.0)) == {1, 2, 3}
    assert set(Shape((50,), "bool").draw(rng, 1.0)) == {False, True}
    asked = Drawn({"input": Shape((5, 9, 3))}, own_weights=True)
    first, large, small = asked.probes(torch.nn.GRU(3, 7))
    # 135 normal numbers: their spread is within a fifth of 1.
    assert [np.std(probe.args[0]) for probe in (first, large, small)] == pytest.approx([1, 4, 0.1], rel=0.2)
    np.testing.assert_array_equal(first.args[0], asked.probes(torch.nn.GRU(3, 7))[0].args[0])
    assert first.args[0].dtype == np.float32


def test_probes_of_a_factory_keep_their_weights_where_that_is_asked():
    probes = probes_of([Probe("a", weight_scale=2.0)], own_weights=True)
    assert [probe.weight_scale for probe in probes] == [None]
    with pytest.raises(TypeError, match="must hold Probes"):
        probes_of([np.zeros(3)])
