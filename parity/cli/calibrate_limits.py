"""`parity calibrate`: false alarms among honest pairs, and the tail of what they measure."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from parity.cases import CASES
from parity.cli.shared import check_destination, one_torch_thread
from parity.environment import environment
from parity.report.terminal import make_console
from parity.verdict import EXIT_DIVERGENT, EXIT_EQUIVALENT


@click.command()
@click.option(
    "--tensors", type=click.IntRange(min=100), default=5_000, show_default=True, help="How many to compare."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here."
)
def calibrate(tensors: int, seed: int, json_path: Path | None) -> None:
    """Judge honest pairs: how many are taken for wrong, and how far the others are from it.

    Exit codes: 0 no false alarm, 1 at least one, 2 usage or harness error.
    """
    from parity.calibrate import run_null

    if json_path is not None:
        check_destination(json_path)
    started = time.perf_counter()
    columns = (TextColumn("honest tensors"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        one_torch_thread(),
        Progress(*columns, console=make_console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("", total=tensors)
        run = run_null(CASES, tensors, seed, lambda run: progress.update(task, completed=run.tensors))
    console, tails, seconds = make_console(), run.tails(), time.perf_counter() - started
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("share of the limit", "tensors", "median", "largest", "tail shape", "P(exceeds)"):
        table.add_column(heading, justify="left" if heading.startswith("share") else "right")
    for tail in tails:
        table.add_row(
            tail.measure,
            str(tail.count),
            f"{tail.median:.2f}",
            f"{tail.largest:.2f}",
            f"{tail.shape:.2f}",
            f"{tail.exceeds:.0e}",
        )
    console.print(table)
    for alarm in run.alarms[:20]:
        console.print(Text(f"  FALSE ALARM {alarm}", "bold red"))
    console.print(
        f"{len(run.alarms)} false alarms in {run.tensors} tensors of honest pairs (below {run.upper_bound:.0e} "
        f"per tensor with 95 % confidence); {seconds:.0f} s"
    )
    if json_path is not None:
        found = {
            "command": f"parity calibrate --tensors {tensors} --seed {seed}",
            "tensors": run.tensors,
            "false_alarms": run.alarms,
            "upper_bound_95": run.upper_bound,
            "tails": [dataclasses.asdict(tail) for tail in tails],
            "seconds": round(seconds),
            "environment": environment(),
        }
        json_path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(EXIT_DIVERGENT if run.alarms else EXIT_EQUIVALENT)
