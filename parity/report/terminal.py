"""A report for people at a terminal: 25 lines at most, with what failed first on top; `verbose` lists all."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.environment import one_line
from parity.report import facts
from parity.report.facts import count, largest, number
from parity.report.json_report import totals
from parity.verdict import EQUIVALENT, CaseResult, Comparison, Diagnosis, Report, TensorResult

LINES = 24  # of a brief report; one more is the command's, which names the files it wrote

_STYLES = {
    "EQUIVALENT": "green",
    "DIVERGENT": "bold red",
    "INCONCLUSIVE": "yellow",
    "NOT RUN": "yellow",
    "ERROR": "bold red",
}
_ROWS = 6  # tensors of the first failing probe
NOTES = 3  # of a brief report
UNLIMITED = 10**6  # the width of a report that cuts nothing
_OTHERS = 4  # further cases that failed, one line each
_PLAIN_WIDTH = 160  # where there is no terminal to measure


def make_console(*, stderr: bool = False, file: TextIO | None = None) -> Console:
    """Make a console that obeys NO_COLOR, and does not fold lines to 80 columns when its output is piped.

    Markup is off: the brackets of `jaxrnn[torch]` and of an index are text.
    """
    plain: dict[str, Any] = {
        "stderr": stderr,
        "file": file,
        "highlight": False,
        "markup": False,
        "emoji": False,
    }
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=_PLAIN_WIDTH, no_color=True)


def to_text(report: Report, *, verbose: bool = False) -> str:
    """Return what `show` prints, without colour."""
    stream = io.StringIO()
    show(report, make_console(file=stream), verbose=verbose)
    return stream.getvalue().rstrip("\n")


def show(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print a report; `verbose` lists every probe and every tensor, however many there are."""
    if verbose:
        _show_everything(report, console)
        return
    for line in brief(report, console.width):
        _print(console, line)


def brief(report: Report, width: int) -> list[Text]:
    """Return at most `LINES` lines, none wider than `width`: what failed first, and then the closing."""
    failed = [case for case in facts.by_urgency(report.cases) if case.verdict != EQUIVALENT]
    closing = _closing(report, width)
    shown = _telling(failed)
    rest = [case for case in failed if case not in shown]
    room = LINES - len(closing) - 1
    kept = min(len(rest), 1 if len(shown) > 1 else 3)  # lines that the cases shown leave to the others
    lines: list[Text] = []
    for case in shown:
        lines += _failure(case, width, room - kept - len(lines))
    lines += _others(rest, min(_OTHERS, room - len(lines)))
    lines += [Text()] if failed else []
    return [_fitted(line, width) for line in (*lines, *closing)]


def _telling(failed: Sequence[CaseResult]) -> Sequence[CaseResult]:
    """Return the first case and, where it has only a message to show, the first that has tensors."""
    with_tensors = [case for case in failed if (probe := facts.first_failing(case)) and probe.failures]
    return failed[:1] if failed[:1] == with_tensors[:1] else [*failed[:1], *with_tensors[:1]]


# The case to look at first --------------------------------------------------------------------------------


def _failure(case: CaseResult, width: int, room: int) -> list[Text]:
    """Return a case's heading, its worst tensors and what explains them, in as many lines as there is room."""
    probe = facts.first_failing(case)
    lines = [_heading(case, probe)]
    error = case.error or case.not_run or (probe.error if probe else None)
    if error:
        lines += _wrapped(Text(f"  {error}", "red"), width, at_most=3)
    if probe is None or not probe.failures:
        return lines[:room]
    explained = _explained(case, width)[
        : room - len(lines) - 3
    ]  # the first row, its header, the count of others
    worst = facts.worst_first(probe.failures)
    rows = min(_ROWS, max(1, room - len(lines) - len(explained) - 3))
    lines += _tensor_lines(worst[:rows], width)
    cut = lines[-min(rows, len(worst))].plain.endswith("…")  # the first row's reason
    if len(worst) > rows:
        lines.append(Text(f"  and {len(worst) - rows} more; -v lists every tensor", "dim"))
    if cut and len(lines) + len(explained) < room:
        lines.append(Text(f"  {worst[0].name}: {facts.reason(worst[0])}"))
    return lines + explained


def _heading(case: CaseResult, probe: Comparison | None) -> Text:
    text = Text(f"{case.id} ", "bold").append(case.verdict, _STYLES[case.verdict])
    if probe is not None and probe.failures:
        text.append(f"  {facts.failed([probe])} in probe {probe.name}")
        if len(case.comparisons) > 1:
            failed = facts.failed(case.comparisons)
            text.append(f", {failed.failing} of {failed.expected} in all {len(case.comparisons)} probes")
    elif probe is not None:
        text.append(f"  in probe {probe.name}")
    if probe is not None and probe.oracle:
        text.append(f"  oracle: {probe.oracle}", "dim")
    elif case.summary:
        text.append(f"  {case.summary}", "dim")
    return text


def _explained(case: CaseResult, width: int) -> list[Text]:
    """Say where a case diverges first, and why."""
    lines = []
    if case.first_divergence is not None:
        place = Text("first divergence  ", "bold").append(f"{case.first_divergence}", "default")
        lines += _wrapped(place, width, at_most=1)
        if case.first_divergence.extent:
            lines += _wrapped(Text(f"  {case.first_divergence.extent}"), width, at_most=2)
    if case.diagnosis is not None:
        lines += _diagnosis(case.diagnosis, width)
    return lines


def _diagnosis(diagnosis: Diagnosis, width: int) -> list[Text]:
    other = diagnosis.next_best
    text = Text("DIAGNOSIS  ", "bold")
    if not diagnosis.explanations:
        text.append(f"none of {diagnosis.tried} known mistakes explains it", "default")
        near = f"; nearest: {other.id} {other.name}, {other.misfit:.0e} times rounding" if other else ""
        return _wrapped(text.append(near, "default"), width, at_most=2)
    best, *rivals = diagnosis.explanations
    text.append(f"{best.id} {best.name}", "bold red")
    text.append(f"  fits to {best.misfit:.1g} times the rounding limit", "default")
    lines = [text, *_wrapped(Text(f"  fix: {best.fix}"), width, at_most=2)]
    if rivals:
        rest = ", ".join(f"{rival.id} {rival.name}" for rival in rivals)
        lines.append(Text(f"  these probes cannot tell it from {rest}", "yellow"))
    if other is not None:
        near = f"  next best of {diagnosis.tried}: {other.id} {other.name}, {other.misfit:.0e} times"
        lines.append(Text(near, "dim"))
    return lines


# Tensors --------------------------------------------------------------------------------------------------


def _tensor_lines(tensors: Sequence[TensorResult], width: int) -> list[Text]:
    """Return a header and one line per tensor; reasons give way first, the reference's error, then names."""
    header = ("tensor (torch / flax)", "shape", "semantic", "rho_rms", "rho_max", "ref err")
    rows = [header, *(_cells(tensor) for tensor in tensors)]
    widths = _column_widths(rows)
    if sum(widths) + 2 * len(widths) + 14 > width:
        rows = [row[:-1] for row in rows]
        widths = _column_widths(rows)
    widths[0] = max(14, min(widths[0], width - sum(widths[1:]) - 2 * len(widths) - 14))
    lines = []
    for row, tensor in zip(rows, (None, *tensors), strict=True):
        text = Text("  " + _shortened(row[0] if tensor or len(row[0]) <= widths[0] else "tensor", widths[0]))
        text.pad_right(widths[0] + 2 - len(text))
        for cell, size in zip(row[1:], widths[1:], strict=True):
            text.append("  " + cell.rjust(size))
        if tensor is None:
            lines.append(Text(f"{text.plain}  verdict", "dim"))
            continue
        text.append("  ").append(tensor.verdict, _STYLES[tensor.verdict])
        lines.append(text.append(f" {facts.reason(tensor)}", "default"))
    return [_fitted(line, width) for line in lines]


def _column_widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _cells(tensor: TensorResult) -> tuple[str, ...]:
    error = "-" if tensor.reference_error is None else f"{number(tensor.reference_error)}u"
    measured = (number(tensor.semantic_error), number(tensor.rho_rms), number(tensor.rho_max))
    return (facts.names(tensor), facts.shape(tensor), *measured, error)


def _shortened(name: str, size: int) -> str:
    """Leave out the middle of a name: where it begins and what it ends in tell it from others."""
    if len(name) <= size:
        return name
    head = (size - 1) // 2
    return f"{name[:head]}…{name[len(name) - (size - 1 - head) :]}"


# The rest -------------------------------------------------------------------------------------------------


def _others(cases: Sequence[CaseResult], room: int) -> list[Text]:
    """Return a line for each further case that failed, and one for all for which there is no room."""
    shown = cases if len(cases) <= room else cases[: room - 1]
    lines = [_one_line(case) for case in shown]
    rest = cases[len(shown) :]
    if rest:
        listed = ", ".join(f"{case.id} {case.verdict}" for case in rest)
        lines.append(Text(f"and {count(len(rest), 'more case')}: {listed}"))
    return lines


def _one_line(case: CaseResult) -> Text:
    text = Text(f"{case.id} ", "bold").append(case.verdict, _STYLES[case.verdict])
    said = case.error or case.not_run or next((c.error for c in case.comparisons if c.error), None)
    if said:
        return text.append(f"  {said}", "default")
    text.append(f"  {facts.failed(case.comparisons)}", "default")
    if case.diagnosis is not None and case.diagnosis.explanations:
        best = case.diagnosis.explanations[0]
        text.append(f"; {best.id} {best.name}", "default")
    if case.first_divergence is not None and case.first_divergence.places:
        text.append(f"; {case.first_divergence}", "default")
    return text


def _closing(report: Report, width: int) -> list[Text]:
    """Return what passed, what was not asked, totals, sensitivity, environment, verdict, in at most ten lines.

    Notes come after them: `NOTES` at most, each in two lines, where `width` is that of a terminal.
    """
    found = totals(report)
    counts = (
        f"{found['compared']}/{found['expected']} tensors compared in {count(found['cases'], 'case')}, "
        f"{facts.divergent(report)}, {found['inconclusive']} inconclusive, "
        f"{count(found['not_run'], 'case')} not run, {found['errors']} in error; {report.seconds:.1f} s"
    )
    lines = _equivalent([case for case in report.cases if case.verdict == EQUIVALENT])
    lines += _wrapped(Text(counts), width, at_most=2)
    lines += _wrapped(Text(facts.sensitivity(report)), width, at_most=2)
    lines += _wrapped(Text(f"not exercised: {', '.join(facts.unexercised(report))}"), width, at_most=2)
    lines += _wrapped(Text(one_line(dict(report.environment)), "dim"), width, at_most=2)
    verdict = Text(report.verdict, _STYLES[report.verdict]).append(f" (exit {report.exit_code})", "default")
    return [*lines, verdict, *_notes(report, width)]


def _notes(report: Report, width: int) -> list[Text]:
    notes = facts.notes(report)
    shown = notes if width == UNLIMITED else notes[:NOTES]
    lines = [line for note in shown for line in _wrapped(Text(f"note: {note}", "dim"), width, at_most=2)]
    if len(notes) > len(shown):
        lines.append(Text(f"and {count(len(notes) - len(shown), 'more note')}; -v lists them all", "dim"))
    return lines


def _equivalent(cases: Sequence[CaseResult]) -> list[Text]:
    if not cases:
        return []
    text = Text(count(len(cases), "case") + " ").append("equivalent", "green")
    tensors = [tensor for case in cases for tensor in case.tensors]
    text.append(f"  at most {number(largest(t.semantic_ratio for t in tensors))} of the semantic limit")
    text.append(f", rho_rms {number(largest(t.rho_rms for t in tensors))}")
    text.append(f", rho_max {number(largest(t.rho_max for t in tensors))}")
    return [text.append(f": {', '.join(case.id for case in cases)}", "dim")]


# Everything -----------------------------------------------------------------------------------------------


def _show_everything(report: Report, console: Console) -> None:
    console.print(_summary(report.cases))
    for case in report.cases:
        for comparison in case.comparisons:
            _show_probe(case, comparison, console)
        for line in _explained(case, width=UNLIMITED):
            console.print(line)
    console.print()
    for line in _closing(report, width=UNLIMITED):
        console.print(line)


def _summary(cases: Iterable[CaseResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", no_wrap=True)
    table.add_column("probe", no_wrap=True)
    for heading in ("tensors", "semantic/limit", "rho_rms", "rho_max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    for case in cases:
        for comparison in case.comparisons:
            table.add_row(case.id, comparison.name, *_numbers(comparison), f"{comparison.seconds:.1f}")
        if not case.comparisons:
            verdict = Text(case.verdict, _STYLES[case.verdict])
            verdict.append(f": {case.error or case.not_run}", "default")
            table.add_row(case.id, "-", "0", "-", "-", "-", verdict, "-")
    return table


def _numbers(comparison: Comparison) -> tuple[str | Text, ...]:
    tensors = comparison.tensors
    verdict = Text(comparison.verdict, _STYLES[comparison.verdict])
    if comparison.verdict == EQUIVALENT and len(comparison.tiers) == 1:
        verdict.append(f" ({comparison.tiers[0]} tier only)")
    return (
        f"{comparison.compared}/{comparison.expected}",
        number(largest(tensor.semantic_ratio for tensor in tensors)),
        number(largest(tensor.rho_rms for tensor in tensors)),
        number(largest(tensor.rho_max for tensor in tensors)),
        verdict,
    )


def _show_probe(case: CaseResult, comparison: Comparison, console: Console) -> None:
    heading = Text(f"\n{case.id} {comparison.name}", "bold")
    if comparison.oracle:
        heading.append(f"  oracle: {comparison.oracle}", "dim")
    console.print(heading)
    if comparison.error:
        console.print(Text(f"  {comparison.error}", "red"))
    for line in _tensor_lines(comparison.tensors, console.width) if comparison.tensors else []:
        _print(console, line)
    for note in comparison.notes:
        console.print(Text(f"  note: {note}", "dim"))


# Lines ----------------------------------------------------------------------------------------------------


def _print(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def _wrapped(text: Text, width: int, *, at_most: int) -> list[Text]:
    """Fold a text into lines; what does not fit is cut, and an ellipsis says so."""
    folded = list(text.wrap(Console(width=width, file=io.StringIO()), width - 2))
    lines = [line if number == 0 else Text("  ").append(line) for number, line in enumerate(folded)]
    if len(lines) > at_most:
        lines = lines[:at_most]
        lines[-1].append("…")
    return lines


def _fitted(line: Text, width: int) -> Text:
    """Cut a line to the width of the terminal."""
    line = line.copy()
    line.truncate(width, overflow="ellipsis")
    return line
