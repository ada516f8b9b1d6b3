"""A report as Markdown, for the summary of a CI job, and as annotations of GitHub Actions."""

from __future__ import annotations

from collections.abc import Iterator

from parity.environment import one_line
from parity.report import facts
from parity.report.facts import count, largest, number
from parity.report.json_report import totals
from parity.verdict import EQUIVALENT, CaseResult, Report

_MARKS = {"EQUIVALENT": "✅", "DIVERGENT": "❌", "ERROR": "💥", "INCONCLUSIVE": "❔", "NOT RUN": "⏭️"}
_ROWS = 20  # cases in the table
_NOTES = 5
_EXPLAINED = 5  # divergent cases that are explained at length


def to_markdown(report: Report) -> str:
    """Return the verdict, a table of cases with what failed first on top, and what explains it."""
    found = totals(report)
    lines = [
        f"## {_MARKS[report.verdict]} parity: {report.verdict}",
        "",
        f"{found['compared']} of {found['expected']} tensors compared in {count(found['cases'], 'case')}, "
        f"{facts.divergent(report)}, {found['inconclusive']} inconclusive.",
        "",
        *_table(report),
        *_explanations(report),
        f"{facts.sensitivity(report).capitalize()}.",
        "",
        f"Not exercised: {_text(', '.join(facts.unexercised(report)))}.",
        "",
        *_notes(report),
        f"<sub>{_text(one_line(dict(report.environment)))}</sub>",
    ]
    return "\n".join(lines) + "\n"


def github_annotations(report: Report) -> Iterator[str]:
    """Yield one `::error` line for each case that failed, as GitHub Actions reads them from a job's output."""
    for case in facts.by_urgency(report.cases):
        if case.verdict == EQUIVALENT:
            continue
        title = f"{case.id} {case.verdict}"
        if case.diagnosis is not None and case.diagnosis.explanations:
            title += f" {case.diagnosis.explanations[0].id}"
        yield f"::error title={_escaped(title, ':,')}::{_escaped(_why(case))}"


def _table(report: Report) -> list[str]:
    failed = [case for case in facts.by_urgency(report.cases) if case.verdict != EQUIVALENT]
    passed = [case for case in report.cases if case.verdict == EQUIVALENT]
    lines = [
        "| case | verdict | tensors | semantic / limit | rho_rms | rho_max |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(_row(f"`{case.id}`", f"{_MARKS[case.verdict]} {case.verdict}", [case]) for case in failed[:_ROWS]),
    ]
    if len(failed) > _ROWS:
        lines.append(_row(f"{len(failed) - _ROWS} more", "failed", failed[_ROWS:]))
    if passed:
        ids = ", ".join(f"`{case.id}`" for case in passed[:_ROWS]) + ", …" * (len(passed) > _ROWS)
        lines.append(_row(ids, f"{_MARKS[EQUIVALENT]} {count(len(passed), 'case')} equivalent", passed))
    return [*lines, ""]


def _row(name: str, verdict: str, cases: list[CaseResult]) -> str:
    tensors = [tensor for case in cases for tensor in case.tensors]
    numbers = (
        str(len(tensors)),
        number(largest(tensor.semantic_ratio for tensor in tensors)),
        number(largest(tensor.rho_rms for tensor in tensors)),
        number(largest(tensor.rho_max for tensor in tensors)),
    )
    return f"| {name} | {verdict} | {' | '.join(numbers)} |"


def _explanations(report: Report) -> list[str]:
    failed = [case for case in facts.by_urgency(report.cases) if case.verdict != EQUIVALENT]
    lines = []
    for case in failed[:_EXPLAINED]:
        lines += [f"**`{case.id}`** {_text(_why(case))}", ""]
    return lines


def _notes(report: Report) -> list[str]:
    notes = facts.notes(report)
    lines = [line for note in notes[:_NOTES] for line in (f"Note: {_text(note.rstrip('.'))}.", "")]
    if len(notes) > _NOTES:
        lines += [f"And {count(len(notes) - _NOTES, 'more note')}.", ""]
    return lines


def _why(case: CaseResult) -> str:
    """Say in a line or more why a case failed, the most telling first."""
    said = [text for text in (case.error, case.not_run) if text]
    probe = facts.first_failing(case)
    if probe is not None and probe.error:
        said.append(f"probe {probe.name}: {probe.error}")
    if case.diagnosis is not None:
        said += [f"{e.id} {e.name}; fix: {e.fix}" for e in case.diagnosis.explanations]
    if case.first_divergence is not None:
        said.append(f"first divergence: {case.first_divergence}")
    if probe is not None and probe.failures:
        worst = facts.worst_first(probe.failures)[0]
        said.append(f"probe {probe.name}: {facts.names(worst)} {worst.verdict} {facts.reason(worst)}")
    return "\n".join(said) or "nothing was compared"


def _text(text: str) -> str:
    """Keep text from being read as Markdown or HTML."""
    for special in "\\`*_|<>[]":
        text = text.replace(special, {"<": "&lt;", ">": "&gt;"}.get(special, f"\\{special}"))
    return text.replace("\n", "<br>")


def _escaped(text: str, also: str = "") -> str:
    """Escape what ends a workflow command or its title."""
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
