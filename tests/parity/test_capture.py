"""`parity capture` and `parity compare`: the verdict of one machine on two, and nothing stale passes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import parity
from parity import cli, dumps
from parity.capture import Subject, capture_candidate, capture_reference
from parity.cases import CASES
from parity.dumps import DumpError, compare_dumps, packed, unpacked
from parity.gates import ReferenceError
from parity.judge import judge_case, judge_models
from parity.probe import Probe
from parity.verdict import TensorResult
from tests.parity import pairs

ROOT = Path(__file__).parents[2]
PAIRS, WRONG = "tests.parity.pairs", "tests.parity.wrong_models"
CASE = {case.id: case for case in CASES}
NUMPY_ONLY = ("jax", "jaxlib", "flax", "optax", "torch", "ml_dtypes", "click", "rich", "scipy", "jinja2")

pytest.importorskip("torch")


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def captured(folder, case="gru_cell", candidate=None, probe_set="quick"):
    """Capture both sides of a case; returns the candidate's folder and the reference's."""
    theirs, ours = folder / "reference", folder / "candidate"
    probes = CASE[case].probes(probe_set, 0)
    capture_reference([Subject(case, CASE[case].summary, CASE[case].reference(), probes)], theirs)
    capture_candidate({case: (candidate or CASE[case].candidate)()}, theirs, ours)
    return ours, theirs


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One pair of dumps, made once."""
    return captured(tmp_path_factory.mktemp("dumps"))


@pytest.fixture
def pair(original, tmp_path):
    """A copy of the pair, to be spoilt."""
    return tuple(shutil.copytree(folder, tmp_path / folder.name) for folder in original)


def change(folder, **values):
    """Rewrite entries of a manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **values}))


def refused(pair, message, tmp_path):
    """Assert that the two are judged by no route, and that no report is left."""
    path = tmp_path / "parity-report.json"
    path.write_text("{}")
    with pytest.raises(DumpError, match=message):
        compare_dumps(*pair)
    assert dumps.main([*map(str, pair), "--report", str(path)]) == 2
    assert not path.exists()
    result = call("compare", *pair, "--report", path)
    assert result.exit_code == 2
    assert not path.exists()


def numbers(result):
    """What was found of every tensor of every probe."""
    return [
        (probe.name, probe.expected, probe.tiers, probe.oracle, probe.notes, probe.probe, probe.tensors)
        for probe in result.comparisons
    ]


@pytest.mark.parametrize("candidate", [None, "swapped_gates", "without_a_bias"])
def test_the_verdict_of_two_machines_is_that_of_one_tensor_by_tensor(tmp_path, candidate):
    factory = None
    if candidate is not None:
        from tests.parity import wrong_models

        factory = getattr(wrong_models, candidate)
    here = judge_case(CASE["lstm_plain"], "quick", candidate=factory)
    there = compare_dumps(*captured(tmp_path, "lstm_plain", factory)).cases[0]
    assert numbers(there) == numbers(here)
    assert there.verdict == here.verdict == ("EQUIVALENT" if candidate is None else "DIVERGENT")
    assert all(isinstance(tensor, TensorResult) for tensor in there.tensors)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lstm", "gru_resets", "lstm_dropout", "peephole_lstm", "stocks_rnn"])
def test_ragged_rows_resets_and_masks_survive_the_dump(tmp_path, case):
    if CASE[case].missing():
        pytest.skip(CASE[case].missing())
    here = judge_case(CASE[case])
    there = compare_dumps(*captured(tmp_path, case, probe_set="designed")).cases[0]
    assert numbers(there) == numbers(here)
    assert there.verdict == "EQUIVALENT"


@pytest.mark.parametrize("precision", [{"dtype": "bfloat16"}, {"tiers": ("semantic",)}])
def test_the_precision_that_was_asked_for_survives_the_dump(tmp_path, precision):
    case = CASE["gru_cell"]
    probe = dataclasses.replace(case.probes("quick", 0)[0], **precision)
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    capture_reference([Subject("half", "", case.reference(), [probe])], theirs)
    capture_candidate({"half": case.candidate()}, theirs, ours)
    there = compare_dumps(ours, theirs).cases[0]
    assert numbers(there) == numbers(judge_models("half", "", case.candidate(), case.reference(), [probe]))
    assert there.tensors[-1].dtype == precision.get("dtype", "float32")


def test_the_command_line_captures_cases_and_compares_them(tmp_path):
    theirs, ours, report = tmp_path / "reference", tmp_path / "candidate", tmp_path / "r.json"
    assert call("capture", "reference", "gru_cell", "--probe", "quick", "-o", theirs).exit_code == 0
    assert call("capture", "candidate", "--from", theirs, "-o", ours).exit_code == 0
    result = call("compare", ours, theirs, "--report", report)
    assert result.exit_code == 0, result.output
    assert "EQUIVALENT (exit 0)" in result.stdout
    written = json.loads(report.read_text())
    assert written["totals"]["compared"] == written["totals"]["expected"] > 0
    assert written["environment"]["torch"].startswith("2.")
    assert {"jax", "jax device", "candidate's python", "reference's numpy"} <= set(written["environment"])


def test_the_command_line_captures_models_of_ones_own(tmp_path):
    theirs = tmp_path / "reference"
    asked = ("--input", "input=5,9,3", "--probe", "quick")
    result = call("capture", "reference", "--reference", f"{PAIRS}:torch_gru", *asked, "-o", theirs)
    assert result.exit_code == 0, result.output
    assert "taken for the batch" in result.output
    for factory, code in (("gru", 0), ("gru_without_b_hn", 1)):
        ours = tmp_path / factory
        call("capture", "candidate", "--from", theirs, "--candidate", f"{PAIRS}:{factory}", "-o", ours)
        result = call("compare", ours, theirs, "--report", tmp_path / "r.json")
        assert result.exit_code == code, result.output
    assert (
        "run both models on one machine"
        in json.loads((tmp_path / "r.json").read_text())["cases"][0]["notes"][0]
    )


@pytest.mark.parametrize(("own", "verdict"), [(False, "EQUIVALENT"), (True, "DIVERGENT")])
def test_the_candidate_takes_the_weights_of_the_dump_unless_it_keeps_its_own(tmp_path, own, verdict):
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    probe = Probe(args=(pairs.draw(5, 3),))
    capture_reference([Subject("mine", "", pairs.torch_scale(), [probe])], theirs)
    candidate = pairs.scale()
    candidate.weight.set_value(2 * candidate.weight[...])
    capture_candidate({"mine": candidate}, theirs, ours, own_weights=own)
    assert compare_dumps(ours, theirs)["weight"].verdict == verdict
    np.testing.assert_array_equal(candidate.weight[...], 2)  # the model itself is left alone


# What must not pass


def test_a_dump_of_another_run_is_stale(original, tmp_path):
    """The same model, the same seed, the same numbers, and yet another run (W7: an old pickle was read)."""
    again = tmp_path / "again"
    again.mkdir()
    ours, theirs = captured(again)
    assert compare_dumps(ours, theirs).exit_code == 0
    refused((ours, original[1]), "one of them is stale", tmp_path)
    refused((original[0], theirs), "one of them is stale", tmp_path)


def test_a_reference_that_was_changed_afterwards_is_stale(pair, tmp_path):
    change(pair[1], created="later")
    refused(pair, "one of them is stale", tmp_path)


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_was_cut_short_or_replaced_or_lost_is_an_error(pair, side, tmp_path):
    file = pair[side] / "0.0.measured.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(pair, "cut short or replaced", tmp_path)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(pair, "cut short or replaced", tmp_path)
    file.unlink()
    refused(pair, "copy the whole folder", tmp_path)


@pytest.mark.parametrize("side", [0, 1])
def test_a_manifest_that_is_cut_short_or_old_or_lost_is_an_error(pair, side, tmp_path):
    path = pair[side] / "manifest.json"
    whole = path.read_text()
    path.write_text(whole[:-100])
    refused(pair, "cut short or damaged", tmp_path)
    path.write_text(whole.replace(dumps.SCHEMA, "parity-dump/0"))
    refused(pair, "schema 'parity-dump/0', expected 'parity-dump/1'", tmp_path)
    path.write_text("[]")
    refused(pair, "schema None", tmp_path)
    path.unlink()
    refused(pair, r"there is no manifest\.json", tmp_path)


@pytest.mark.parametrize("key", ["run_id", "cases", "files", "made_from"])
def test_a_manifest_without_one_of_its_keys_is_an_error(pair, key, tmp_path):
    path = pair[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    refused(pair, f"{key} missing", tmp_path)


@pytest.mark.parametrize("key", ["files", "seconds"])
def test_a_probe_without_one_of_its_keys_is_an_error(pair, key, tmp_path):
    (case,) = json.loads((pair[0] / "manifest.json").read_text())["cases"]
    for probe in case["probes"]:
        del probe[key]
    change(pair[0], cases=[case])
    refused(pair, key, tmp_path)


def test_a_file_that_the_manifest_does_not_vouch_for_is_an_error(pair, tmp_path):
    change(pair[0], files={})
    refused(pair, "not among the files of the manifest", tmp_path)


def test_a_candidate_that_answered_fewer_probes_is_an_error(pair, tmp_path):
    (case,) = json.loads((pair[0] / "manifest.json").read_text())["cases"]
    change(pair[0], cases=[{**case, "probes": []}])
    refused(pair, "cases and probes", tmp_path)
    change(pair[0], cases=[])
    refused(pair, "cases and probes", tmp_path)


def test_dumps_in_the_wrong_order_are_an_error(pair, tmp_path):
    refused(pair[::-1], "give the candidate's folder first", tmp_path)
    refused((pair[0], pair[0]), "the dump of a candidate, expected that of a reference", tmp_path)


@pytest.mark.parametrize("subjects", [[], [Subject("nothing", "", None, [])]])
def test_an_empty_dump_compares_nothing_and_exits_5(tmp_path, subjects):
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    subjects = [subject._replace(model=pairs.torch_scale()) for subject in subjects]
    capture_reference(subjects, theirs)
    capture_candidate({subject.id: pairs.scale() for subject in subjects}, theirs, ours)
    assert dumps.main([str(ours), str(theirs), "--report", str(tmp_path / "r.json")]) == 5
    assert call("compare", ours, theirs, "--report", tmp_path / "r.json").exit_code == 5
    assert compare_dumps(ours, theirs).verdict == "INCONCLUSIVE"


def test_an_array_that_the_candidate_does_not_return_is_missing(tmp_path):
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    probe = Probe(args=(pairs.draw(5, 3),), weight_scale=1.0)
    capture_reference([Subject("mine", "", pairs.torch_scale(), [probe])], theirs)

    class Silent(pairs.Scale):
        def __call__(self, input):
            return {"other": super().__call__(input)}

    capture_candidate({"mine": Silent()}, theirs, ours)
    report = compare_dumps(ours, theirs)
    assert report.exit_code == 1
    assert report["output"].message == "missing in the candidate"


def test_a_model_that_fails_leaves_no_dump_behind(tmp_path):
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    asked = ("--input", "input=5,9,3", "--probe", "quick")
    result = call("capture", "reference", "--reference", f"{PAIRS}:factory_that_fails", *asked, "-o", theirs)
    assert result.exit_code == 2
    assert "a bug in the factory" in result.output
    call("capture", "reference", "--reference", f"{PAIRS}:torch_gru", *asked, "-o", theirs)
    result = call(
        "capture", "candidate", "--from", theirs, "--candidate", f"{PAIRS}:gru_that_fails", "-o", ours
    )
    assert result.exit_code == 2
    assert "a bug in the candidate" in result.output
    assert "pairs.py" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["reference"]


def test_a_folder_that_is_not_empty_is_left_alone(pair, tmp_path):
    for arguments in (("reference", "gru_cell"), ("candidate", "--from", pair[1])):
        before = sorted(path.name for path in pair[0].iterdir())
        result = call("capture", *arguments, "-o", pair[0])
        assert result.exit_code == 2
        assert "capture into a new one" in result.output
        assert sorted(path.name for path in pair[0].iterdir()) == before
    (tmp_path / "empty").mkdir()
    assert call("capture", "candidate", "--from", pair[1], "-o", tmp_path / "empty").exit_code == 0


def test_other_random_numbers_of_another_numpy_are_noticed(pair, tmp_path):
    (case,) = json.loads((pair[1] / "manifest.json").read_text())["cases"]
    case["probes"][0]["cotangents"]["h_1"] = "0" * 64
    change(pair[1], cases=[case])
    result = call("capture", "candidate", "--from", pair[1], "-o", tmp_path / "new")
    assert result.exit_code == 2
    assert "NumPy draws other random numbers" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reference",), "either a CASE"),
        (("reference", "lstm", "--reference", f"{PAIRS}:torch_gru"), "either a CASE"),
        (("reference", "lstn"), "no case is called lstn"),
        (("reference", "lstm", "--input", "x=3"), "a CASE brings its own inputs"),
        (("reference", "--reference", f"{PAIRS}:torch_gru"), "either --inputs or --input"),
        (("reference", "--reference", f"{PAIRS}:gru", "--input", "x=5,3"), "must be a torch.nn.Module"),
        (("candidate", "--from", "no/such/folder"), "there is no manifest.json"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(tmp_path, arguments, message):
    result = call("capture", *arguments, "-o", tmp_path / "new")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "new").exists()


def test_a_dump_of_another_model_needs_a_candidate_to_be_named(pair, tmp_path):
    with pytest.raises(DumpError, match=r"holds \['gru_cell'\], but there are candidates for \['lstm'\]"):
        capture_candidate({"lstm": None}, pair[1], tmp_path / "new")


def test_a_probe_of_another_version_is_an_error(pair, tmp_path):
    (case,) = json.loads((pair[1] / "manifest.json").read_text())["cases"]
    case["probes"][0]["probe"]["strictness"] = {"value": "high"}
    change(pair[1], cases=[case])
    result = call("capture", "candidate", "--from", pair[1], "-o", tmp_path / "new")
    assert result.exit_code == 2
    assert "use one version on all machines" in result.output


def test_every_kind_of_argument_survives_the_dump():
    args = (np.eye(2, dtype=np.float32), (None, [True, 3, 2.5, "text"]), np.float64(0.5))
    probe = Probe(
        "all", args, {"mask": np.array([True, False])}, 3, weight_scale=4.0, zeros={"x": np.eye(2) > 0}
    )
    fields, arrays = packed(probe)
    again = unpacked(json.loads(json.dumps(fields)), arrays)
    assert repr(again) == repr(probe)
    assert type(again.args[2]) is np.float64
    named = Probe(args=(ReferenceError(1.0, 2.0),))  # some named tuple, whose names would be lost
    with pytest.raises(TypeError, match="not ReferenceError"):
        packed(named)


# Where a package is missing


def without(packages, program, *arguments):
    """Run a program in a Python that cannot import these packages."""
    hidden = f"""
from importlib.machinery import PathFinder as Finder
find = Finder.find_spec
Finder.find_spec = lambda name, *where: None if name.partition(".")[0] in {packages!r} else find(name, *where)
"""
    return subprocess.run(
        [sys.executable, "-c", hidden + textwrap.dedent(program), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


PARITY = "from parity.__main__ import main\nmain()"


def test_dumps_are_compared_where_there_is_numpy_alone(pair, tmp_path):
    report = tmp_path / "parity-report.json"
    for program in (PARITY, "import runpy\nrunpy.run_module('parity', run_name='__main__')"):
        done = without(NUMPY_ONLY, program, "compare", *pair, "--report", report, "-v")
        assert done.returncode == 0, done.stderr
        assert "EQUIVALENT (exit 0)" in done.stdout
        assert "grad(weight_hh)" in done.stdout
        assert json.loads(report.read_text())["verdict"] == "EQUIVALENT"
    done = without(
        NUMPY_ONLY, "import runpy\nrunpy.run_module('parity.dumps', run_name='__main__')", *pair[::-1]
    )
    assert done.returncode == 2
    assert "give the candidate's folder first" in done.stderr
    done = without(NUMPY_ONLY, PARITY, "run")
    assert done.returncode == 4
    assert "pip install click rich" in done.stderr


def test_a_divergence_is_told_in_plain_text_with_its_first_element(tmp_path, capsys):
    from tests.parity.wrong_models import swapped_gates

    pair = captured(tmp_path, "lstm_plain", swapped_gates)
    assert dumps.main([*map(str, pair), "--report", str(tmp_path / "r.json")]) == 1
    told = capsys.readouterr().out
    assert "output  9x5x7  DIVERGENT  semantic; first at [" in told
    assert "DIVERGENT (exit 1)" in told


@pytest.mark.slow
def test_each_side_is_captured_where_the_other_framework_is_missing(tmp_path):
    theirs, ours = tmp_path / "reference", tmp_path / "candidate"
    jax = ("jax", "jaxlib", "flax", "optax", "orbax")
    done = without(jax, PARITY, "capture", "reference", "lstm", "gru_cell", "-o", theirs)
    assert done.returncode == 0, done.stderr
    done = without(("torch",), PARITY, "capture", "candidate", "--from", theirs, "-o", ours)
    assert done.returncode == 0, done.stderr
    report = compare_dumps(ours, theirs)
    assert report.exit_code == 0
    here = parity.Report(tuple(judge_case(CASE[name]) for name in ("lstm", "gru_cell")))
    assert [numbers(case) for case in report.cases] == [numbers(case) for case in here.cases]
    done = without(jax, PARITY, "capture", "reference", "stocks_rnn", "-o", tmp_path / "stocks")
    assert done.returncode == 4
    assert "is not installed" in done.stderr
