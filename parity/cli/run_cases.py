"""`parity run`: the registered cases."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from parity.cases import CASES, Case
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import load_factory, one_torch_thread
from parity.contracts import CONTRACTS
from parity.environment import environment
from parity.judge import judge_case
from parity.probe import SCALES, SETS
from parity.report.terminal import make_console
from parity.verdict import CaseResult, Report


@click.command()
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--candidate", metavar="PKG.MOD:FACTORY", help="Judge this model against the one CASE named.")
@click.option("--probe", "probe_set", type=click.Choice(SETS), default="designed", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Draw every probe from so many seeds; from 8 on they are also judged together.",
)
@click.option(
    "--contract",
    type=click.Choice(list(CONTRACTS)),
    default="ieee_f32",
    show_default=True,
    help="What both sides compute in.",
)
@report_options
def run(
    cases: tuple[str, ...],
    candidate: str | None,
    probe_set: str,
    seed: int,
    seeds: int,
    contract: str,
    **destinations: Any,
) -> None:
    """Judge registered cases; all of them where none is named.

    In GitHub Actions, the Markdown is added to the job's summary as well, and what failed is annotated.
    """
    chosen = _choose(cases)
    publisher = Publisher(**destinations)
    factory = None
    if candidate is not None:
        if len(chosen) != 1:
            raise click.UsageError(
                "--candidate is judged against one case: name it, as in --candidate m:f lstm."
            )
        factory = load_factory("--candidate", candidate)
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        options = {"probe_set": probe_set, "seed": seed, "seeds": seeds, "contract": contract}
        results = _judge(chosen, len(SCALES[probe_set]) * seeds, candidate=factory, **options)
        report = Report(results, environment(), time.perf_counter() - started)
    publisher.publish(report)
    sys.exit(report.exit_code)


def _judge(cases: Sequence[Case], probes: int, **options: Any) -> tuple[CaseResult, ...]:
    """Run the cases one after the other, with progress on stderr; `probes` is how many each of them has."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases) * probes)
        for number, case in enumerate(cases, start=1):
            progress.update(task, description=case.id)
            results.append(judge_case(case, progress=lambda: progress.advance(task), **options))
            progress.update(task, completed=number * probes)
    return tuple(results)


def _choose(names: tuple[str, ...]) -> list[Case]:
    known = {case.id: case for case in CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`parity list` shows the cases."
            raise click.UsageError(f"no case is called {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(CASES)
