"""What a report says in words and in JSON."""

import copy
import dataclasses
import json
import math

import jsonschema
import numpy as np
import pytest
from rich.console import Console

import parity
from parity.report import facts, json_report
from parity.report.terminal import LINES, NOTES, brief, make_console, to_text
from parity.verdict import CaseResult, Comparison, Element, Node, Report, TensorResult
from tests.parity.example_reports import ENVIRONMENT, REPORTS, SMALL, divergence, divergent, equivalent, probe


def report():
    oracle = np.random.default_rng(0).standard_normal((4, 3))
    spoilt = oracle.copy()
    spoilt[1, 2] += 1.0
    arrays = {"good": oracle, "bad": oracle, "nan": oracle, "lost": oracle}
    candidate = {"good": oracle, "bad": spoilt, "nan": oracle * np.nan, "extra": oracle}
    return parity.compare(candidate, arrays)


# In words


@pytest.mark.parametrize("width", [60, 80, 100, 160, 240])
@pytest.mark.parametrize("name", REPORTS)
def test_any_report_fits_on_25_lines_of_any_terminal(name, width):
    found = REPORTS[name]
    lines = [line.plain for line in brief(found, width)]
    assert len(lines) <= LINES < 25
    assert max(map(len, lines)) <= width
    assert lines[-1] == f"{found.verdict} (exit {found.exit_code})"
    for words in ("sensitivity: ", "not exercised: "):
        assert any(line.startswith(words) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_notes_follow_the_verdict_in_a_few_lines_each_with_its_label(width):
    notes = tuple(f"axis {n} was taken for the batch, {'whose rows must differ ' * 9}" for n in range(5))
    case = dataclasses.replace(divergent(), notes=notes)
    lines = [line.plain for line in brief(Report((case,), ENVIRONMENT), width)]
    assert len(lines) <= LINES
    verdict = lines.index("DIVERGENT (exit 1)")
    labelled = [line for line in lines[verdict + 1 :] if line.startswith("note: axis")]
    assert len(labelled) == NOTES < len(notes)
    assert lines[-1] == "and 2 more notes; -v lists them all"
    assert not any("taken for the batch" in line for line in lines[:verdict])
    verbose = " ".join(to_text(Report((case,)), verbose=True).split())
    assert all(f"note: {note.strip()}" in verbose for note in notes)


def test_the_whole_of_such_a_report_would_not_fit():
    assert len(to_text(REPORTS["one divergent in every tensor"], verbose=True).splitlines()) > 100


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", ["one divergent in every tensor", "all divergent", "errors everywhere"])
def test_what_failed_first_is_on_top_with_place_and_diagnosis(name, width):
    lines = [line.plain for line in brief(REPORTS[name], width)]
    assert lines[0].split()[1] == ("ERROR" if "errors" in name else "DIVERGENT")
    starts = (
        "first divergence  forward pass, encoder.rnn: layer 1 reverse, t=6",
        "  wrong by itself: f in steps 6",
        "DIAGNOSIS  L01 forget bias +1",
        "  fix: remove unit_forget_bias; torch adds nothing",
    )
    for start in starts:
        assert any(line.startswith(start) for line in lines), start


def test_a_tensor_takes_one_line_with_both_names_whatever_the_width():
    case = divergent(wrong=("grad(fc.weight)",))
    for width in (96, 120, 160):
        rows = [line.plain for line in brief(Report((case,)), width) if "readout.kernel" in line.plain]
        assert len([row for row in rows if "DIVERGENT" in row]) == 1
        assert rows[0].startswith("  grad(fc.weight) / grad(readout.kernel)")
        assert "2x8" in rows[0]


def test_a_name_that_is_too_long_keeps_its_ends():
    tensor = TensorResult(
        "encoder." * 9 + "weight_ih_l0", "encoder." * 9 + "weight_ih_l0", "grad", "DIVERGENT", (3,)
    )
    lines = brief(Report((CaseResult("c", comparisons=(Comparison("p", (tensor,), 1),)),)), 80)
    (row,) = (line.plain for line in lines if "encoder" in line.plain)
    assert "…" in row
    assert row.startswith("  encoder.")
    assert "weight_ih_l0" in row


def test_equivalent_cases_are_one_line_and_list_no_tensor():
    text = to_text(REPORTS["31 equivalent"])
    assert "31 cases equivalent" in text
    assert "case_0, case_1, case_2" in text
    assert "weight_ih" not in text
    assert len(text.splitlines()) < 10


def test_the_worst_tensors_come_first_and_the_rest_is_counted():
    x = np.arange(1.0, 4.0)
    names = [f"tensor_{number:02}" for number in range(30)]
    candidate = {name: x * (1.0 + 10.0**-number) for number, name in enumerate(names[:10])}
    found = parity.compare({**candidate, **dict.fromkeys(names[10:], x * np.nan)}, dict.fromkeys(names, x))
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[2:4]] == names[10:12]  # what could not be measured is the worst
    assert "and 24 more; -v lists every tensor" in str(found)
    assert all(name in to_text(found, verbose=True) for name in names)
    measured = [tensor for tensor in found.tensors if tensor.semantic_error is not None]
    assert [tensor.name for tensor in facts.worst_first(reversed(measured))] == names[:10]


def test_what_only_the_candidate_has_is_counted_apart_from_what_was_expected():
    """Layers of other names: ten arrays missing and ten unexpected are not twenty of ten."""
    x = np.arange(1.0, 4.0)
    theirs, ours = ({f"{layer}.{n}": x for n in range(10)} for layer in ("lstm", "rnn"))
    found = parity.compare(ours, theirs)
    assert "10 of 10 tensors and 10 unexpected in probe arrays" in str(found)
    assert "0/10 tensors compared in 1 case, 20 divergent (10 of them unexpected)" in str(found)
    assert "20 divergent (10 of them unexpected)" in found.to_markdown()
    (case,) = found.cases
    twice = Report((dataclasses.replace(case, comparisons=case.comparisons * 2),))
    assert "10 of 10 tensors and 10 unexpected in probe arrays, 20 of 20 in all 2 probes" in str(twice)


def test_text_names_what_failed_and_leaves_out_what_did_not():
    text = str(report())
    for words in ("bad", "first at [1, 2]", "missing in the candidate", "extra", "3/4 tensors", "(exit 1)"):
        assert words in text
    assert "good" not in text
    assert "good" in to_text(report(), verbose=True)
    assert "\x1b[" not in text


def test_verbose_shows_every_probe_tensor_and_note():
    noted = CaseResult(
        "c", comparisons=(probe("4x", notes=("buffers are not compared: x",)),), notes=("slow",)
    )
    text = to_text(Report((noted, divergent())), verbose=True)
    for words in ("4x", "0.1x", "step(fc.weight) / step(readout.kernel)", "buffers are not", "note: slow"):
        assert words in text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            REPORTS["one equivalent"],
            ["precisions other than float32", "devices other than cpu", "beyond one step"],
        ),
        (REPORTS["not run"], ["anything: no array was compared"]),
        (REPORTS["errors everywhere"], ["9 cases that could not run"]),
        (
            report(),
            [
                "final states",
                "gradients",
                "an optimizer step",
                "the numeric tier",
                "numeric tier not possible",
            ],
        ),
        (
            Report((CaseResult("c", comparisons=(probe(tiers=("numeric",)), probe())),)),
            ["the semantic tier in 1 of 2 probes"],
        ),
    ],
)
def test_every_report_says_what_it_did_not_exercise(found, said):
    stated = ", ".join(facts.unexercised(found))
    assert all(words in stated for words in said), stated


def test_what_was_exercised_is_not_called_missing():
    stated = ", ".join(facts.unexercised(REPORTS["one equivalent"]))
    assert not any(
        words in stated for words in ("gradients", "an optimizer step", "final states", "tier", "run")
    )


def test_a_report_is_looked_up_by_name():
    assert report()["bad"].verdict == "DIVERGENT"
    with pytest.raises(KeyError, match="compared were: good, bad, nan, lost, -"):
        report()["worse"]


def test_no_color_is_obeyed_even_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_console().print("x", style="red")
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    make_console().print("x", style="red")
    assert "\x1b[31" not in capsys.readouterr().out


def test_brackets_in_a_report_are_text_and_no_markup(capsys):
    found = Report((CaseResult("n", not_run="pip install 'jaxrnn[torch]' [red]"),))
    parity.report.terminal.show(found, make_console(file=None))
    assert "pip install 'jaxrnn[torch]' [red]" in capsys.readouterr().out
    assert isinstance(make_console(), Console)


# In JSON


@pytest.mark.parametrize("name", SMALL)
def test_every_report_fulfils_the_schema_and_holds_no_nan(name):
    found = json.loads(REPORTS[name].to_json(), parse_constant=lambda constant: 1 / 0)
    jsonschema.validate(found, json_report.schema())
    assert found["verdict"] == REPORTS[name].verdict


def test_the_schema_itself_is_a_schema_and_refuses_what_it_does_not_know():
    jsonschema.Draft202012Validator.check_schema(json_report.schema())
    sound = json.loads(REPORTS["one divergent in one tensor"].to_json())
    for spoil in (
        lambda found: found.pop("verdict"),
        lambda found: found.update(surprise=1),
        lambda found: found["cases"][0]["probes"][0]["tensors"][0].pop("semantic"),
        lambda found: found["cases"][0]["probes"][0]["tensors"][0].update(verdict="FINE"),
        lambda found: found["cases"][0]["first_divergence"]["places"][0].update(layer="0"),
    ):
        spoilt = copy.deepcopy(sound)
        spoil(spoilt)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spoilt, json_report.schema())


def test_json_has_a_schema_and_every_number_with_its_limit():
    found = json.loads(report().to_json())
    assert found["schema"] == "parity/1"
    assert (found["verdict"], found["exit_code"]) == ("DIVERGENT", 1)
    assert found["totals"] == {
        "cases": 1, "not_run": 0, "errors": 0, "expected": 4, "compared": 3, "divergent": 4, "inconclusive": 0,
    }  # fmt: skip
    (probe,) = found["cases"][0]["probes"]
    tensors = {tensor["reference_name"]: tensor for tensor in probe["tensors"]}
    assert tensors["good"]["semantic"]["error"] == 0
    assert tensors["good"]["semantic"]["limit"] == 64 * 2**-53
    assert tensors["bad"]["first"]["index"] == [1, 2]
    assert tensors["good"]["numeric"]["rho_rms"] is None
    assert tensors["-"]["candidate_name"] == "extra"


def test_json_writes_nan_and_infinity_as_words():
    element = Element((0,), math.nan, math.inf, None)
    tensor = TensorResult("x", "x", "output", "DIVERGENT", rho_rms=math.nan, first=element)
    text = Report((CaseResult("c", comparisons=(Comparison("p", (tensor,), 1),)),)).to_json()
    found = json.loads(text, parse_constant=lambda name: 1 / 0)
    (stored,) = found["cases"][0]["probes"][0]["tensors"]
    assert (stored["numeric"]["rho_rms"], stored["first"]["reference"]) == ("nan", "inf")
    jsonschema.validate(found, json_report.schema())


def test_distances_are_kept_to_three_digits_a_row_to_a_line():
    text = Report((divergent(),), ENVIRONMENT).to_json()
    grids = json.loads(text)["cases"][0]["first_divergence"]["free"]
    assert len(grids) == 4
    for grid in grids:
        for quantity, row in zip(grid["quantities"], grid["distances"], strict=True):
            assert json.dumps(row) in text  # on one line
            for step, distance in zip(grid["steps"], row, strict=True):
                exact = divergence().free[
                    Node(grid["part"], grid["layer"], grid["direction"], step, quantity)
                ]
                assert distance == pytest.approx(exact, rel=5e-3)  # three digits


def test_a_quantity_that_a_step_does_not_have_is_null():
    ragged = {Node("", 0, 0, 0, "z"): 0.5, Node("", 0, 0, 1, "z"): 0.25, Node("", 0, 0, 1, "h"): 0.125}
    (grid,) = facts.grids(ragged)
    assert (grid.quantities, grid.steps) == (("z", "h"), (0, 1))
    assert grid.distances == ((0.5, 0.25), (None, 0.125))


def test_a_failing_case_stays_in_the_order_of_the_run_among_equals():
    cases = [
        equivalent("a"),
        divergent("b"),
        CaseResult("c", not_run="x"),
        divergent("d"),
        CaseResult("e", error="x"),
    ]
    assert [case.id for case in facts.by_urgency(cases)] == ["e", "b", "d", "c", "a"]
