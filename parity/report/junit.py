"""A report as JUnit XML: one testcase for each case, probe and kind of tensor, its numbers as properties.

What JUnit's words mean here: a *failure* is a tensor that is DIVERGENT or INCONCLUSIVE (what is not proven does
not pass), an *error* a probe that could not be judged, *skipped* a case whose packages are missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from parity.report import facts
from parity.report.facts import count, largest
from parity.verdict import EQUIVALENT, ERROR, CaseResult, Comparison, Report, TensorResult

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> str:
    """Return the XML; a suite is a case."""
    root = Element("testsuites", name="parity", time=f"{report.seconds:.3f}")
    for case in report.cases:
        suite = SubElement(root, "testsuite", name=case.id, time=f"{_seconds(case):.3f}")
        _add_properties(suite, {"verdict": case.verdict, "summary": case.summary, **report.environment})
        suite.extend(_testcases(case))
        _count(suite)
    _count(root)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _testcases(case: CaseResult) -> Iterator[Element]:
    if case.not_run is not None:
        yield _testcase(case, "models", "skipped", case.not_run)
    elif case.error is not None:
        yield _testcase(case, "models", "error", case.error)
    elif not case.comparisons:
        yield _testcase(case, "models", "failure", "nothing was compared")
    for probe in case.comparisons:
        yield from _of_probe(case, probe)


def _of_probe(case: CaseResult, probe: Comparison) -> Iterator[Element]:
    if probe.error is not None:
        yield _testcase(case, probe.name, "error", probe.error)
    kinds = dict.fromkeys(tensor.kind for tensor in probe.tensors)
    for number, kind in enumerate(kinds):
        tensors = [tensor for tensor in probe.tensors if tensor.kind == kind]
        element = _of_kind(case, f"{probe.name}: {kind}", tensors)
        element.set("time", f"{probe.seconds if number == 0 else 0.0:.3f}")  # the probe's, once
        yield element
    if probe.error is None and probe.compared != probe.expected:
        missing = f"{probe.compared} of {count(probe.expected, 'expected tensor')} compared"
        yield _testcase(case, f"{probe.name}: completeness", "failure", missing)


def _of_kind(case: CaseResult, name: str, tensors: Sequence[TensorResult]) -> Element:
    failing = facts.worst_first(tensor for tensor in tensors if tensor.verdict != EQUIVALENT)
    if not failing:
        element = _testcase(case, name)
    else:
        outcome = "error" if failing[0].verdict == ERROR else "failure"
        message = f"{failing[0].verdict}: {len(failing)} of {count(len(tensors), 'tensor')}"
        lines = (f"{facts.names(t)} {facts.shape(t)} {t.verdict} {facts.reason(t)}" for t in failing)
        element = _testcase(case, name, outcome, message, "\n".join(lines))
    passed = [tensor for tensor in tensors if tensor.verdict == EQUIVALENT]
    properties = {
        "rho_rms": largest(tensor.rho_rms for tensor in tensors),
        "rho_max": largest(tensor.rho_max for tensor in tensors),
        "semantic": largest(tensor.semantic_error for tensor in tensors),
        "semantic_over_limit": largest(tensor.semantic_ratio for tensor in tensors),
        "sensitivity_semantic": largest(tensor.semantic_sensitivity for tensor in passed),
        "sensitivity_numeric": largest(tensor.numeric_sensitivity for tensor in passed),
    }
    found = {name: f"{value:.3g}" for name, value in properties.items() if value is not None}
    _add_properties(element, found | (_explanation(case) if failing else {}), first=True)
    return element


def _explanation(case: CaseResult) -> dict[str, str]:
    found = {}
    if case.diagnosis is not None and case.diagnosis.explanations:
        found["diagnosis"] = " or ".join(f"{e.id} {e.name}" for e in case.diagnosis.explanations)
    if case.first_divergence is not None:
        found["first_divergence"] = str(case.first_divergence)
    return found


def _testcase(case: CaseResult, name: str, outcome: str = "", message: str = "", text: str = "") -> Element:
    element = Element("testcase", classname=f"parity.{case.id}", name=_clean(name), time="0.000")
    if outcome:
        child = SubElement(element, outcome, message=_clean(message), type=outcome)
        child.text = _clean(text) or None
    return element


def _add_properties(element: Element, values: dict[str, str], *, first: bool = False) -> None:
    properties = Element("properties")
    for name, value in values.items():
        SubElement(properties, "property", name=name, value=_clean(value))
    if len(properties):
        element.insert(0 if first else len(element), properties)


def _count(suite: Element) -> None:
    """Give a suite the numbers that its testcases amount to."""
    suite.set("tests", str(len(list(suite.iter("testcase")))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(list(suite.iter(tag)))))


def _seconds(case: CaseResult) -> float:
    return sum(probe.seconds for probe in case.comparisons)


def _clean(text: str) -> str:
    """Replace what XML cannot hold: control characters of a terminal, for instance."""
    return _NOT_XML.sub("�", text)
