"""Reports for other programs: JUnit, Markdown, GitHub, and the files that the command writes."""

from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from parity import cli
from parity.cli import run_cases
from parity.report.markdown import github_annotations
from parity.verdict import CaseResult, Comparison, Report, TensorResult
from tests.parity.example_reports import REPORTS, SMALL, divergent, equivalent, probe


def junit(report):
    return ElementTree.fromstring(report.to_junit())


def properties(element):
    return {each.get("name"): each.get("value") for each in element.findall("properties/property")}


def counted(root):
    names = ("tests", "failures", "errors", "skipped")
    return tuple(int(root.get(name)) for name in names)


# JUnit


@pytest.mark.parametrize("name", SMALL)
def test_junit_counts_what_it_holds_in_every_suite(name):
    root = junit(REPORTS[name])
    for suite in (root, *root.findall("testsuite")):
        found = [len(list(suite.iter(tag))) for tag in ("testcase", "failure", "error", "skipped")]
        assert counted(suite) == tuple(found)
    passed = counted(root)[1:] == (0, 0, 0) and counted(root)[0] > 0
    assert passed == (REPORTS[name].verdict == "EQUIVALENT")


def test_junit_has_a_testcase_for_each_case_probe_and_kind():
    cases = junit(Report((equivalent(),))).findall("testsuite/testcase")
    kinds = ("param", "output", "state", "grad", "step")
    assert [case.get("name") for case in cases] == [f"{p}: {kind}" for p in ("1x", "4x") for kind in kinds]
    assert {case.get("classname") for case in cases} == {"parity.gru"}


def test_junit_properties_are_the_numbers_of_the_worst_tensor():
    found = {case.get("name"): properties(case) for case in junit(Report((divergent(),))).iter("testcase")}
    tensors = [tensor for tensor in probe("1x", "all").tensors if tensor.kind == "grad"]
    assert float(found["1x: grad"]["rho_rms"]) == pytest.approx(max(t.rho_rms for t in tensors), rel=5e-3)
    assert float(found["1x: grad"]["semantic"]) == pytest.approx(
        0.1, rel=5e-3
    )  # the tenth by which they are off
    assert found["1x: grad"]["diagnosis"] == "L01 forget bias +1 applied at run time"
    assert found["1x: grad"]["first_divergence"].startswith("forward pass, encoder.rnn: layer 1 reverse, t=6")
    assert "sensitivity_semantic" not in found["1x: grad"]  # no tensor that passed tells it
    assert "diagnosis" not in found["1x: param"]
    passed = {case.get("name"): properties(case) for case in junit(Report((equivalent(),))).iter("testcase")}
    assert float(passed["1x: grad"]["sensitivity_semantic"]) < 1e-12


def test_junit_calls_what_is_not_proven_a_failure_and_what_was_not_run_skipped():
    assert counted(junit(REPORTS["inconclusive"]))[1:] == (1, 0, 0)
    assert counted(junit(REPORTS["not run"])) == (1, 0, 0, 1)
    assert counted(junit(REPORTS["error in a probe"])) == (1, 0, 1, 0)
    incomplete = Report((CaseResult("c", comparisons=(probe(expected=99),)),))
    (failure,) = junit(incomplete).iter("failure")
    assert failure.get("message") == "42 of 99 expected tensors compared"
    assert counted(junit(Report((CaseResult("c"),)))) == (1, 1, 0, 0)


def test_junit_stays_xml_whatever_a_model_says():
    said = "\x1b[31mred\x00 <&> \ud800 ok"
    found = junit(Report((CaseResult("c", error=said),)))
    (error,) = found.iter("error")
    assert error.get("message") == "�[31mred� <&> � ok"


# Markdown and GitHub


def test_markdown_has_verdict_table_diagnosis_and_what_was_not_asked():
    text = REPORTS["two explanations"].to_markdown()
    for words in (
        "## ❌ parity: DIVERGENT",
        "| `lstm` | ❌ DIVERGENT | 126 |",
        "| `gru` | ✅ 1 case equivalent | 84 |",
        "L01 forget bias +1 applied at run time; fix: remove unit\\_forget\\_bias",
        "L02 forget bias +2",
        "first divergence: forward pass, encoder.rnn: layer 1 reverse, t=6",
        "Sensitivity: a relative (rms) change",
        "Not exercised: arguments that the reference refuses, precisions other than float32",
        "jax 0.10.2",
    ):
        assert words in text


def test_markdown_labels_its_notes_and_lists_a_few():
    notes = tuple(f"axis {number} was taken for the batch." for number in range(7))
    text = Report((CaseResult("c", notes=notes),)).to_markdown()
    assert "\nNote: axis 0 was taken for the batch.\n" in text
    assert "axis 4" in text
    assert "axis 5" not in text
    assert "And 2 more notes." in text


def test_markdown_stays_short_however_much_fails():
    assert len(REPORTS["all divergent"].to_markdown().splitlines()) < 60
    assert "11 more" in REPORTS["all divergent"].to_markdown()


def test_markdown_takes_no_text_for_markup():
    case = CaseResult("c", error="<b>|`x`|</b>\n# not a heading")
    assert "&lt;b&gt;\\|\\`x\\`\\|&lt;/b&gt;<br># not a heading" in Report((case,)).to_markdown()


def test_annotations_are_one_line_each_and_escaped():
    found = list(
        github_annotations(Report((equivalent(), divergent(), CaseResult("a,b:c", error="100%\nsure"))))
    )
    assert len(found) == 2
    assert found[0] == "::error title=a%2Cb%3Ac ERROR::100%25%0Asure"
    assert found[1].startswith(
        "::error title=lstm DIVERGENT L01::L01 forget bias +1 applied at run time; fix"
    )


# The command


@pytest.fixture
def parity_run(tmp_path, monkeypatch):
    """Call `parity run` with results given in advance; its files lie in `tmp_path`."""
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, cases=None):
        monkeypatch.setattr(run_cases, "_judge", lambda *_, **__: cases or (divergent(),))
        return CliRunner().invoke(cli.main, ["run", *arguments], catch_exceptions=False)

    return call


def test_each_face_is_written_where_it_was_asked_for(parity_run, tmp_path):
    result = parity_run("--html", "a.html", "--junit", "a.xml", "--markdown", "a.md")
    assert result.exit_code == 1
    assert "report: parity-report.json, a.html, a.xml, a.md" in result.stdout
    assert len(result.stdout.splitlines()) <= 25
    assert (tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert junit_file(tmp_path / "a.xml") == "testsuites"
    assert (tmp_path / "a.md").read_text("utf-8").startswith("## ❌ parity: DIVERGENT")


def junit_file(path):
    return ElementTree.parse(path).getroot().tag


@pytest.mark.parametrize("option", ["--html", "--junit", "--markdown"])
def test_a_file_with_a_misleading_name_is_refused_before_any_work(parity_run, option):
    result = parity_run(option, "report.txt")
    assert result.exit_code == 2
    assert "this kind of report ends in" in result.output


def test_no_older_report_survives_a_run_that_crashed(parity_run, tmp_path, monkeypatch):
    for name in ("a.html", "a.xml", "a.md"):
        (tmp_path / name).write_text("old")

    class Crash:
        def __iter__(self):
            raise RuntimeError("a bug in the harness")

    result = parity_run("--html", "a.html", "--junit", "a.xml", "--markdown", "a.md", cases=Crash())
    assert result.exit_code == 2
    assert not any((tmp_path / name).exists() for name in ("a.html", "a.xml", "a.md"))


def test_a_github_job_gets_a_summary_and_annotations(parity_run, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n")
    assert "::error" not in parity_run().output
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "\n::error title=lstm DIVERGENT L01::" in parity_run().stdout
    assert summary.read_text("utf-8").startswith("# Before\n## ❌ parity: DIVERGENT")
    assert "::error" not in parity_run(cases=(equivalent(),)).output


def test_json_on_stdout_is_alone_there_in_a_github_job_too(parity_run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = parity_run("--json", "-")
    assert result.stdout.startswith("{")
    assert "::error" in result.stderr


def test_a_tensor_of_no_known_gate_still_has_a_testcase():
    lone = TensorResult("x", "x", "output", "ERROR", gate="structure", message="dtype complex64")
    (error,) = junit(Report((CaseResult("c", comparisons=(Comparison("p", (lone,), 1),)),))).iter("error")
    assert error.text == "x scalar ERROR structure: dtype complex64"
