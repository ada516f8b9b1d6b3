"""`parity selftest`: the judge judged."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.cli.shared import (
    FILE,
    Destinations,
    one_torch_thread,
    plain_table,
    results_option,
    show_progress,
)
from parity.environment import environment
from parity.report import ladder_curves
from parity.report.selftest_page import Selftest, to_html
from parity.report.terminal import make_console
from parity.selftest import families, ladder, vacuity
from parity.selftest.families import FAMILIES
from parity.selftest.ladder import Rung
from parity.selftest.trial import Outcome, Trial, run_trial
from parity.verdict import EXIT_DIVERGENT, EXIT_EQUIVALENT
from parity.weighing import Judgement, try_probe

LADDER_CASE = "lstm"


@click.command()
@click.argument("mutants", nargs=-1, metavar="[FAMILY|ID]...")
@results_option
@click.option(
    "--html", "html_path", type=FILE, help="Write a page with the kill matrix: one file, no network."
)
@click.option("-v", "--verbose", is_flag=True, help="List every mutant, not only what went wrong.")
def selftest(mutants: tuple[str, ...], json_path: Path | None, html_path: Path | None, verbose: bool) -> None:
    """Prove that the judge can fail: mutants, a ladder of ever smaller changes, and empty comparisons.

    Where mutants are named, by family or id, nothing but these is judged.

    Exit codes: 0 all is found, 1 something is missed, 2 usage or harness error.
    """
    destinations = Destinations({".json": json_path, ".html": html_path})
    try:
        trials = families.choose(mutants)
    except KeyError as error:
        raise click.UsageError(f"{error.args[0]!r} is no mutant; families: {', '.join(FAMILIES)}.") from error
    destinations.clear()
    started = time.perf_counter()
    with one_torch_thread():
        outcomes = _run(trials)
        judgement = None if mutants else _faithful()
        rungs = [] if judgement is None else ladder.climb(judgement)
        curves = [] if judgement is None or html_path is None else ladder_curves.curves(judgement, rungs)
    answers = {} if mutants else {name: judge().verdict for name, judge in vacuity.situations()}
    seconds = time.perf_counter() - started
    test = Selftest(outcomes, rungs, answers, seconds, environment())
    _print(test, verbose)
    destinations.write_results(
        {
            "mutants": [_plain(outcome) for outcome in outcomes],
            "ladder": [dataclasses.asdict(rung) for rung in rungs],
            "passed_though_empty": test.passed,
        }
    )
    if html_path is not None:
        html_path.write_text(to_html(test, curves), encoding="utf-8")
    sys.exit(EXIT_EQUIVALENT if test.sound else EXIT_DIVERGENT)


def _run(trials: Sequence[Trial]) -> list[Outcome]:
    with show_progress(len(trials)) as steps:
        named = steps.through(trials, lambda trial: f"{trial.family} {trial.id}")
        return [run_trial(trial) for trial in named]


def _faithful() -> Judgement:
    """Judge a faithful pair, in whose arrays changes are made."""
    from parity.cases import CASES

    case = next(case for case in CASES if case.id == LADDER_CASE)
    return try_probe(case.candidate(), case.reference(), case.probes("quick", 0)[0])


def _print(test: Selftest, verbose: bool) -> None:
    console = make_console()
    if verbose:
        console.print(_mutants(test.outcomes))
    console.print(_matrix(test.outcomes))
    _print_misses(test.outcomes, console)
    if test.rungs:
        console.print(_ladder(test.rungs))
    if test.answers:
        refused, count = len(test.answers) - len(test.passed), len(test.answers)
        console.print(f"\nempty or dead comparisons: {refused} of {count} refused")
        for name in test.passed:
            console.print(Text(f"  PASSED: {name}", "bold red"))
    console.print(Text(f"\n{'SOUND' if test.sound else 'BLUNT'} in {test.seconds:.0f} s", "bold"))


def _matrix(outcomes: Sequence[Outcome]) -> Table:
    table = plain_table("family", "mutants", "killed", "named", "narrowed down", "seconds")
    for family in dict.fromkeys(outcome.trial.family for outcome in outcomes):
        of = [outcome for outcome in outcomes if outcome.trial.family == family]
        counts = [sum(getattr(outcome, kind) for outcome in of) for kind in ("killed", "named", "narrowed")]
        table.add_row(
            family, str(len(of)), *map(str, counts), f"{sum(outcome.seconds for outcome in of):.0f}"
        )
    return table


def _mutants(outcomes: Sequence[Outcome]) -> Table:
    table = plain_table("id", "mutant", "case", "gates", "named")
    for outcome in outcomes:
        trial = outcome.trial
        table.add_row(
            trial.id, trial.name, trial.case, ", ".join(outcome.gates), ", ".join(outcome.diagnosed)
        )
    return table


def _print_misses(outcomes: Sequence[Outcome], console: Console) -> None:
    for outcome in outcomes:
        trial = outcome.trial
        if not outcome.killed:
            how = (
                outcome.error
                or f"{outcome.verdict} by {', '.join(outcome.gates) or 'no gate'}, meant: {trial.gate}"
            )
            console.print(Text(f"  SURVIVED {trial.id} {trial.name} ({trial.case}): {how}", "bold red"))
        elif not outcome.named:
            named = ", ".join(outcome.diagnosed) or "nothing"
            console.print(Text(f"  {trial.id} {trial.name} ({trial.case}): named {named}", "yellow"))


def _ladder(rungs: Sequence[Rung]) -> Table:
    table = plain_table("smallest change found", "tier", "share of the tensor", "required", "in the tensor")
    for rung in rungs:
        required = ladder.REQUIRED[rung.place, rung.tier]
        style = "" if rung.sharp else "bold red"
        table.add_row(
            rung.place, rung.tier, f"{rung.smallest:.1e}", f"{required:.1e}", rung.tensor, style=style
        )
    return table


def _plain(outcome: Outcome) -> dict[str, Any]:
    trial = outcome.trial
    return {
        "id": trial.id,
        "name": trial.name,
        "family": trial.family,
        "case": trial.case,
        "intended_gate": trial.gate,
        "verdict": outcome.verdict,
        "gates": list(outcome.gates),
        "diagnosed": list(outcome.diagnosed),
        "killed": outcome.killed,
        "named": outcome.named,
        "error": outcome.error,
        "seconds": outcome.seconds,
    }
