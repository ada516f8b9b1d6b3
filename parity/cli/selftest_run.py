"""`parity selftest`: the judge judged."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from parity.cli.shared import check_destination, one_torch_thread
from parity.report.terminal import make_console
from parity.selftest import families, ladder, vacuity
from parity.selftest.families import FAMILIES
from parity.selftest.ladder import Rung
from parity.selftest.trial import Outcome, Trial, run_trial
from parity.verdict import EXIT_DIVERGENT, EXIT_EQUIVALENT

LADDER_CASE = "lstm"


@click.command()
@click.argument("mutants", nargs=-1, metavar="[FAMILY|ID]...")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here."
)
@click.option("-v", "--verbose", is_flag=True, help="List every mutant, not only what went wrong.")
def selftest(mutants: tuple[str, ...], json_path: Path | None, verbose: bool) -> None:
    """Prove that the judge can fail: mutants, a ladder of ever smaller changes, and empty comparisons.

    Exit codes: 0 all is found, 1 something is missed, 2 usage or harness error.
    """
    if json_path is not None:
        check_destination(json_path)
        json_path.unlink(missing_ok=True)
    try:
        trials = families.choose(mutants)
    except KeyError as error:
        raise click.UsageError(f"{error.args[0]!r} is no mutant; families: {', '.join(FAMILIES)}.") from error
    started = time.perf_counter()
    with one_torch_thread():
        outcomes = _run(trials)
        rungs = [] if mutants else _climb()
    passed = (
        []
        if mutants
        else [name for name, judge in vacuity.situations() if judge().exit_code == EXIT_EQUIVALENT]
    )
    console = make_console()
    if verbose:
        console.print(_mutants(outcomes))
    console.print(_matrix(outcomes))
    _print_misses(outcomes, console)
    if not mutants:
        console.print(_ladder(rungs))
        count = len(list(vacuity.situations()))
        console.print(f"\nempty or dead comparisons: {count - len(passed)} of {count} refused")
        for name in passed:
            console.print(Text(f"  PASSED: {name}", "bold red"))
    sound = all(outcome.killed for outcome in outcomes) and all(rung.sharp for rung in rungs) and not passed
    console.print(Text(f"\n{'SOUND' if sound else 'BLUNT'} in {time.perf_counter() - started:.0f} s", "bold"))
    if json_path is not None:
        found: dict[str, Any] = {"mutants": [_plain(outcome) for outcome in outcomes]}
        found |= {"ladder": [dataclasses.asdict(rung) for rung in rungs], "passed_though_empty": passed}
        json_path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(EXIT_EQUIVALENT if sound else EXIT_DIVERGENT)


def _run(trials: Sequence[Trial]) -> list[Outcome]:
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes = []
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(trials))
        for trial in trials:
            progress.update(task, description=f"{trial.family} {trial.id}")
            outcomes.append(run_trial(trial))
            progress.advance(task)
    return outcomes


def _climb() -> list[Rung]:
    from parity.cases import CASES
    from parity.weighing import try_probe

    case = next(case for case in CASES if case.id == LADDER_CASE)
    return ladder.climb(try_probe(case.candidate(), case.reference(), case.probes("quick", 0)[0]))


def _matrix(outcomes: Sequence[Outcome]) -> Table:
    table = _table("family", "mutants", "killed", "named", "narrowed down", "seconds")
    for family in dict.fromkeys(outcome.trial.family for outcome in outcomes):
        of = [outcome for outcome in outcomes if outcome.trial.family == family]
        counts = [sum(getattr(outcome, kind) for outcome in of) for kind in ("killed", "named", "narrowed")]
        table.add_row(
            family, str(len(of)), *map(str, counts), f"{sum(outcome.seconds for outcome in of):.0f}"
        )
    return table


def _mutants(outcomes: Sequence[Outcome]) -> Table:
    table = _table("id", "mutant", "case", "gates", "named")
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
    table = _table("smallest change found", "tier", "share of the tensor", "required", "in the tensor")
    for rung in rungs:
        required = ladder.REQUIRED[rung.place, rung.tier]
        style = "" if rung.sharp else "bold red"
        table.add_row(
            rung.place, rung.tier, f"{rung.smallest:.1e}", f"{required:.1e}", rung.tensor, style=style
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
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
