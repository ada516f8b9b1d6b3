"""A report for people: one line per case and probe, the failing tensors, totals, sensitivity, environment."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from parity.environment import one_line
from parity.report.json_report import totals
from parity.verdict import CaseResult, Comparison, Element, Report, TensorResult

_STYLES = {"EQUIVALENT": "green", "DIVERGENT": "bold red", "INCONCLUSIVE": "yellow", "ERROR": "bold red"}
_SHOWN = 8  # failing tensors per probe, unless all are asked for
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
    """Print a report; `verbose` lists every tensor, not only those that failed."""
    console.print(_summary(report.cases))
    for case in report.cases:
        for comparison in case.comparisons:
            _show_details(case, comparison, console, verbose)
    console.print(_closing(report))


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
            verdict = Text(case.verdict, _STYLES.get(case.verdict, "yellow"))
            verdict.append(f": {case.error or case.not_run}", "default")
            table.add_row(case.id, "-", "0", "-", "-", "-", verdict, "-")
    return table


def _numbers(comparison: Comparison) -> tuple[str | Text, ...]:
    tensors = comparison.tensors
    verdict = Text(comparison.verdict, _STYLES[comparison.verdict])
    if comparison.verdict == "EQUIVALENT" and len(comparison.tiers) == 1:
        verdict.append(f" ({comparison.tiers[0]} tier only)")
    return (
        f"{comparison.compared}/{comparison.expected}",
        _number(_largest(tensor.semantic_ratio for tensor in tensors)),
        _number(_largest(tensor.rho_rms for tensor in tensors)),
        _number(_largest(tensor.rho_max for tensor in tensors)),
        verdict,
    )


def _show_details(case: CaseResult, comparison: Comparison, console: Console, verbose: bool) -> None:
    failures = comparison.failures
    if not (verbose or failures or comparison.error or comparison.notes):
        return
    heading = Text(f"\n{case.id} {comparison.name}", "bold")
    if comparison.oracle:
        heading.append(f"  oracle: {comparison.oracle}", "dim")
    console.print(heading)
    if comparison.error:
        console.print(Padding(Text(comparison.error, "red"), (0, 0, 0, 2)))
    rows = comparison.tensors if verbose else failures[:_SHOWN]
    if rows:
        console.print(Padding(_tensor_table(rows), (0, 0, 0, 2)))
    if len(failures) > _SHOWN and not verbose:
        console.print(f"  and {len(failures) - _SHOWN} more; -v lists every tensor")
    for note in comparison.notes:
        console.print(Text(f"  note: {note}", "yellow"))


def _tensor_table(tensors: Iterable[TensorResult]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("tensor (torch / flax)", overflow="fold")
    for heading in ("shape", "semantic", "rho_rms", "rho_max", "ref err"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for tensor in tensors:
        name = (
            tensor.name
            if tensor.name == tensor.candidate_name
            else f"{tensor.name} / {tensor.candidate_name}"
        )
        error = "-" if tensor.reference_error is None else f"{_number(tensor.reference_error)}u"
        table.add_row(
            name,
            "x".join(map(str, tensor.shape)) or "scalar",
            _number(tensor.semantic_error),
            _number(tensor.rho_rms),
            _number(tensor.rho_max),
            error,
            _verdict(tensor),
        )
    return table


def _verdict(tensor: TensorResult) -> Text:
    text = Text(tensor.verdict, _STYLES[tensor.verdict])
    if tensor.message:
        text.append(f" {tensor.gate}: {tensor.message}", "default")
    if tensor.first is not None:
        text.append(f"; first at {_element(tensor.first)}", "default")
    return text


def _element(element: Element) -> str:
    against = element.oracle if element.oracle is not None else element.reference
    return f"{list(element.index)}: {element.candidate:.6g}, expected {against:.6g}"


def _closing(report: Report) -> Text:
    count = totals(report)
    text = Text(f"\n{count['compared']}/{count['expected']} tensors compared in {count['cases']} cases, ")
    text.append(f"{count['divergent']} divergent, {count['inconclusive']} inconclusive, ")
    text.append(f"{count['not_run']} cases not run, {count['errors']} in error; {report.seconds:.1f} s\n")
    text.append(f"{_sensitivity(report)}\n{one_line(dict(report.environment))}\n")
    text.append(report.verdict, _STYLES[report.verdict])
    text.append(f" (exit {report.exit_code})")
    return text


def _sensitivity(report: Report) -> str:
    """Say what would not have been missed: the other half of every "equivalent"."""
    semantic, numeric = report.semantic_sensitivity, report.numeric_sensitivity
    stated = [
        f"{value:.0e} ({tier})"
        for value, tier in ((semantic, "semantic, float64"), (numeric, "numeric"))
        if value is not None
    ]
    if not stated:
        return "sensitivity: no tensor was measured"
    return (
        f"sensitivity: a relative (rms) change of any tensor by {', '.join(stated)} would have been detected"
    )


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if 0.005 <= abs(value) < 1000 else f"{value:.1e}" if value else "0"
