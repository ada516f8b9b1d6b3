"""The pytest plugin, on sample projects: what it judges, counts, writes, and what it does not let pass."""

import dataclasses
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from importlib import metadata
from xml.etree import ElementTree

import numpy as np
import pytest

import parity
from parity.environment import environment

pytest_plugins = ["pytester"]

# Where the package was installed before it had the plugin, pytest is told of it; it cannot be told twice.
INSTALLED = any(point.value == "parity.pytest_plugin" for point in metadata.entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "parity.pytest_plugin")

ARRAYS = """
    import numpy as np
    import pytest
    from parity import ParityError

    RIGHT = {"output": np.random.default_rng(0).standard_normal((5, 7)), "loss": np.array([0.5])}
    WRONG = {**RIGHT, "output": RIGHT["output"] + 1e-6}
    DEAD = {"output": np.zeros((5, 7))}
"""
GOOD = (
    ARRAYS
    + """
    def test_good(parity):
        report = parity.check(candidate=RIGHT, reference=RIGHT)
        assert report.verdict == "EQUIVALENT"
"""
)
BROKEN = (
    ARRAYS
    + """
    def test_broken(parity):
        parity.check(candidate=WRONG, reference=RIGHT, name="the second")
"""
)


@pytest.fixture(autouse=True, scope="module")
def everything_loaded(tmp_path_factory):
    """Load all that a session may load: `pytester` makes this process forget what a test has imported.

    A C extension that is imported a second time may crash; for that reason torch is not imported here at all.
    """
    report = parity.compare({"x": np.random.default_rng(0).random(3)}, {"x": np.zeros(3)})
    report = dataclasses.replace(report, environment=environment())
    assert all((str(report), report.to_json(), report.to_junit()))
    if importlib.util.find_spec("parity.report.html") is not None:
        report.to_html(tmp_path_factory.mktemp("loaded") / "report.html")
    importlib.import_module("parity.inputs")


@pytest.fixture
def project(pytester, monkeypatch):
    """Run pytest on a file of tests: in this process or, where that matters, apart."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "" if INSTALLED else "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def run(source, *arguments, apart=False):
        pytester.makepyfile(test_sample=source)
        if not apart:
            return pytester.runpytest_inprocess(*PLUGIN, *arguments)
        workers = ("-p", "xdist") if "-n" in arguments and not INSTALLED else ()
        return pytester.runpytest_subprocess(*workers, *PLUGIN, *arguments)

    run.path = pytester.path
    run.pytester = pytester
    return run


def ledger(result):
    """The line of the summary that counts."""
    (line,) = (line for line in result.outlines if "tests registered" in line)
    return line


def test_a_good_pair_passes_and_is_counted(project):
    result = project(GOOD)
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert ledger(result) == (
        "1 tests registered, 1 run, 0 skipped; 1 checks: 1 equivalent, 0 divergent, 0 inconclusive; "
        "2/2 tensors compared"
    )


def test_a_broken_pair_fails_with_the_table_in_its_message(project):
    result = project(BROKEN)
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    assert "1 divergent" in ledger(result)
    result.stdout.fnmatch_lines(
        ["*ParityError: DIVERGENT", "*output*DIVERGENT semantic*", "*DIVERGENT (exit 1)*"]
    )
    result.stdout.no_fnmatch_line("*raise ParityError*")  # the judge's own frames are hidden


def test_a_divergence_that_a_test_expects_lets_it_pass(project):
    result = project(
        ARRAYS
        + """
    def test_expected(parity):
        with pytest.raises(ParityError):
            parity.check(candidate=WRONG, reference=RIGHT)
    """
    )
    assert result.ret == 0
    assert "1 divergent" in ledger(result)


@pytest.mark.parametrize(
    "body",
    [
        "def test_sample(parity):\n        pass",
        "@pytest.mark.parity\n    def test_sample():\n        assert RIGHT",
        # As `@tf32_on_and_off` without its parentheses: what is run is another function.
        "def switch(test):\n        def wrapper():\n            return test\n        return wrapper\n\n    "
        "@pytest.mark.parity\n    @switch\n    def test_sample(parity):\n        1 / 0",
        # The comparison fails for another reason, which is swallowed.
        "def test_sample(parity):\n        with pytest.raises(TypeError):\n            "
        "parity.check(candidate=1, reference=2)",
    ],
    ids=["no check", "no fixture", "replaced by its decorator", "swallowed"],
)
def test_a_parity_test_that_compares_nothing_fails(project, body):
    result = project(f"{ARRAYS}\n    {body}", "-W", "ignore")
    result.assert_outcomes(failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*a parity test that compared nothing: call parity.check*"])
    assert "0/0 tensors compared" in ledger(result)


def test_a_parity_test_that_is_collected_and_then_lost_fails_the_session(project):
    project.pytester.makeconftest("""
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            return True if "lost" in item.name else None  # "done", without having done anything
    """)
    result = project(
        GOOD + "\n    def test_lost(parity):\n        1 / 0\n    def test_lost_but_other():\n        1 / 0"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    assert ledger(result).startswith("2 tests registered, 1 run, 0 skipped")
    result.stdout.fnmatch_lines(
        ["NOT RUN test_sample.py::test_lost: collected, and then neither run nor skipped"]
    )


def test_what_is_deselected_or_skipped_explicitly_is_not_missed(project):
    skipping = """
    @pytest.mark.skip(reason="no time")
    def test_marked(parity):
        1 / 0

    def test_skips(parity):
        pytest.skip("no torch")

    @pytest.mark.xfail
    def test_known(parity):
        parity.check(candidate=WRONG, reference=RIGHT)
    """
    result = project(GOOD + skipping, "-k", "not nothing_of_that_name")
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)
    assert result.ret == 0
    assert ledger(result).startswith("4 tests registered, 2 run, 2 skipped")
    result = project(GOOD + skipping, "-k", "good")
    assert result.ret == 0
    assert ledger(result).startswith("1 tests registered, 1 run")
    assert project(GOOD, "--collect-only").ret == 0


def test_an_inconclusive_check_fails_unless_the_session_says_otherwise(project):
    dead = ARRAYS + "\n    def test_dead(parity):\n        parity.check(candidate=DEAD, reference=DEAD)"
    result = project(dead)
    result.assert_outcomes(failed=1)
    assert "1 inconclusive" in ledger(result)
    result.stdout.fnmatch_lines(["*zero everywhere: nothing was tested*"])
    result = project(dead, "--parity-inconclusive=skip", "-rs")
    result.assert_outcomes(skipped=1)
    assert result.ret == 0
    assert "1 inconclusive" in ledger(result)


def test_an_empty_comparison_fails_its_test(project):
    result = project(
        ARRAYS + "\n    def test_empty(parity):\n        parity.check(candidate={}, reference={})"
    )
    result.assert_outcomes(failed=1)
    assert "0/0 tensors compared" in ledger(result)


def test_a_report_is_written_and_an_old_one_is_removed(project):
    folder = project.path / "reports"
    folder.mkdir()
    (folder / "parity-report-gw7.json").write_text("{}")
    (folder / "parity-report.json").write_text("{}")
    result = project(GOOD + BROKEN, "--parity-report=reports")
    assert result.ret == 1
    written = json.loads((folder / "parity-report.json").read_text())
    assert written["verdict"] == "DIVERGENT"
    assert [case["id"] for case in written["cases"]] == [
        "test_sample.py::test_broken the second",
        "test_sample.py::test_good",
    ]
    assert written["totals"]["compared"] == 4
    assert written["environment"]["numpy"]
    assert ElementTree.parse(folder / "parity-report.xml").getroot().get("failures") == "1"
    assert not (folder / "parity-report-gw7.json").exists()


def test_junit_properties_hold_the_numbers_of_a_check(project):
    numbers = """
    def test_numbers(parity):
        narrow = {"output": RIGHT["output"].astype(np.float32)}
        wide = {"output": RIGHT["output"]}
        parity.check(candidate=narrow, reference=narrow, oracle=wide, candidate64=wide)
        parity.check(candidate=WRONG, reference=RIGHT)
    """
    project(ARRAYS + numbers, "--junitxml=junit.xml")
    found = {
        p.get("name"): p.get("value") for p in ElementTree.parse(project.path / "junit.xml").iter("property")
    }
    assert found["parity_verdict"] == "DIVERGENT"  # the worst of the two
    assert 1e-7 < float(found["semantic"]) < 1e-5
    assert 0 < float(found["rho_rms"]) < 1
    assert set(found) >= {"rho_max", "sensitivity_semantic", "sensitivity_numeric"}


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("parity('quick')", "does not take 'quick'"),
        ("parity(probe='hard')", "does not take probe='hard'; it takes probe=quick or designed"),
        ("parity(seed=-1)", "does not take seed=-1"),
        ("parity(atol=0.1)", "does not take atol=0.1"),
    ],
)
def test_a_marker_that_nobody_understands_is_refused(project, marker, words):
    result = project(ARRAYS + f"\n    @pytest.mark.{marker}\n    def test_marked(parity):\n        pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str() + result.stdout.str()


def test_the_probe_set_and_the_seed_come_from_the_marker_or_the_session(project):
    asked = """
    import numpy as np
    import pytest
    from parity.inputs import Shape

    def drawn(parity):
        return parity.probe(x=(5, 9, 3), ids="int:5,9<100", fixed=np.zeros(2))

    def test_session(parity):
        asked = drawn(parity)
        assert (asked.probe_set, asked.seed) == ("quick", 7)
        assert asked.arguments["ids"] == Shape((5, 9), "int", 0, 100)
        parity.check(candidate=(np.ones(3),), reference=(np.ones(3),))

    @pytest.mark.parity(probe="designed", seed=3)
    def test_marked(parity):
        asked = parity.probe({"own_weights": (3,)}, own_weights=True)
        assert (asked.probe_set, asked.seed, asked.own_weights) == ("designed", 3, True)
        assert list(asked.arguments) == ["own_weights"]
        with pytest.raises(ValueError, match="name what the models are called with"):
            parity.probe()
        parity.check(candidate=(np.ones(3),), reference=(np.ones(3),))
    """
    result = project(asked, "--parity-probe=quick", "--parity-seed=7", "--strict-markers")
    result.assert_outcomes(passed=2)


def test_a_fixture_of_the_same_name_is_left_alone(project):
    own = """
    import pytest

    @pytest.fixture
    def parity():
        return "even"

    def test_own(parity):
        assert parity == "even"
    """
    result = project(own)
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert "tests registered" not in result.stdout.str()


def test_a_session_without_parity_tests_says_nothing_and_loads_no_framework(project):
    result = project(
        """
    import sys

    def test_other():
        assert "parity.pytest_plugin" in sys.modules
        assert not {"jax", "torch", "flax", "optax", "rich", "parity.running.jax_side"} & set(sys.modules)
    """,
        apart=True,
    )
    result.assert_outcomes(passed=1)
    assert not any("registered" in line or line.strip("= ") == "parity" for line in result.outlines)


@pytest.mark.slow
def test_two_workers_keep_one_ledger_and_write_one_report(project):
    lost = "\n    def test_nothing(parity):\n        pass"
    result = project(GOOD + BROKEN + lost, "-n", "2", "--parity-report=reports", apart=True)
    result.assert_outcomes(passed=1, failed=2)
    assert result.ret == 1
    assert ledger(result) == (
        "3 tests registered, 3 run, 0 skipped; 2 checks: 1 equivalent, 1 divergent, 0 inconclusive; "
        "4/4 tensors compared"
    )
    folder = project.path / "reports"
    whole = json.loads((folder / "parity-report.json").read_text())
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("parity-report-gw*.json"))]
    assert len(parts) == 2
    assert sorted(case["id"] for part in parts for case in part["cases"]) == [
        case["id"] for case in whole["cases"]
    ]
    assert whole["totals"]["compared"] == 4
    assert whole["environment"]["numpy"]


def test_what_the_judge_found_can_be_sent_to_another_process():
    report = parity.compare({"x": np.arange(3.0)}, {"x": np.arange(3.0) + 1})
    assert pickle.loads(pickle.dumps(report.cases)) == report.cases


MODELS = """
    import pytest
    from tests.parity import pairs
    from parity import Probe

    def test_right(parity):
        report = parity.check(
            candidate=pairs.gru(), reference=pairs.torch_gru(), inputs=parity.probe(input=(5, 9, 3))
        )
        assert [probe.name for probe in report.cases[0].comparisons] == ["1x"]
        assert any("was taken for the batch" in note for note in report.cases[0].notes)

    @pytest.mark.parity(seed=1)
    def test_wrong(parity):
        probes = [Probe(args=(pairs.draw(5, 9, 3),), weight_scale=1.0)]
        parity.check(candidate=pairs.gru_without_b_hn(), reference=pairs.torch_gru(), inputs=probes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_models_are_judged_and_the_mistake_is_named(project, monkeypatch, workers):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    monkeypatch.setenv("PYTHONPATH", os.fspath(project.pytester._request.config.rootpath))
    result = project(MODELS, "--parity-probe=quick", "--junitxml=junit.xml", *workers, apart=True)
    result.assert_outcomes(passed=1, failed=1)
    found = [
        {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ElementTree.parse(project.path / "junit.xml").iter("testcase")
    ]
    right, wrong = sorted(found, key=lambda properties: properties["parity_verdict"], reverse=True)
    assert (right["parity_verdict"], wrong["parity_verdict"]) == ("EQUIVALENT", "DIVERGENT")
    assert float(right["rho_rms"]) <= 8  # the numeric gate's limit
    assert wrong["diagnosis_id"] == "G03"
    assert "forward pass" in wrong["first_divergence"]


def test_the_plugin_is_an_entry_point_and_loads_no_framework():
    import tomllib

    root = os.fspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    assert project["entry-points"]["pytest11"] == {"parity": "parity.pytest_plugin"}
    program = (
        "import sys, parity.pytest_plugin\nassert not {'jax', 'torch', 'click', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
