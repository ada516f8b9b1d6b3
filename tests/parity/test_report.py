"""What a report says, in JSON and in words."""

import json
import math

import numpy as np
import pytest

import parity
from parity.report.terminal import make_console, to_text
from parity.verdict import CaseResult, Comparison, Element, Report, TensorResult


def report():
    oracle = np.random.default_rng(0).standard_normal((4, 3))
    spoilt = oracle.copy()
    spoilt[1, 2] += 1.0
    arrays = {"good": oracle, "bad": oracle, "nan": oracle, "lost": oracle}
    candidate = {"good": oracle, "bad": spoilt, "nan": oracle * np.nan, "extra": oracle}
    return parity.compare(candidate, arrays)


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


def test_json_never_holds_a_nan():
    element = Element((0,), math.nan, math.inf, None)
    tensor = TensorResult("x", "x", "output", "DIVERGENT", rho_rms=math.nan, first=element)
    text = Report((CaseResult("c", comparisons=(Comparison("p", (tensor,), 1),)),)).to_json()
    found = json.loads(text, parse_constant=lambda name: 1 / 0)
    (stored,) = found["cases"][0]["probes"][0]["tensors"]
    assert (stored["numeric"]["rho_rms"], stored["first"]["reference"]) == ("nan", "inf")


def test_text_names_what_failed_and_leaves_out_what_did_not():
    text = str(report())
    for words in ("bad", "first at [1, 2]", "missing in the candidate", "extra", "3/4 tensors", "(exit 1)"):
        assert words in text
    assert "good" not in text
    assert "good" in to_text(report(), verbose=True)
    assert "\x1b[" not in text


def test_many_failures_are_counted_not_listed():
    x = np.arange(1.0, 4.0)
    names = [f"tensor_{number:02}" for number in range(30)]
    found = parity.compare(dict.fromkeys(names, 2 * x), dict.fromkeys(names, x))
    assert "and 22 more; -v lists every tensor" in str(found)
    assert names[29] not in str(found)
    assert names[29] in to_text(found, verbose=True)


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
