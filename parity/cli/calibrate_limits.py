"""`parity calibrate`: false alarms among honest pairs, and the tail of what they measure."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import click
from rich.text import Text

from parity.cases import CASES
from parity.cli.shared import (
    Destinations,
    one_torch_thread,
    plain_table,
    results_option,
    seed_option,
    show_progress,
)
from parity.environment import environment
from parity.report.terminal import make_console
from parity.verdict import EXIT_DIVERGENT, EXIT_EQUIVALENT


@click.command()
@click.option(
    "--tensors", type=click.IntRange(min=100), default=5_000, show_default=True, help="How many to compare."
)
@seed_option("The first seed.")
@results_option
def calibrate(tensors: int, seed: int, json_path: Path | None) -> None:
    """Judge honest pairs: how many are taken for wrong, and how far the others are from it.

    Exit codes: 0 no false alarm, 1 at least one, 2 usage or harness error.
    """
    from parity.calibrate import run_null

    destinations = Destinations({".json": json_path})
    destinations.clear()
    started = time.perf_counter()
    with one_torch_thread(), show_progress(tensors) as steps:
        steps.say("honest tensors")
        run = run_null(CASES, tensors, seed, lambda run: steps.reach(run.tensors))
    console, tails, seconds = make_console(), run.tails(), time.perf_counter() - started
    numbers = ("tensors", "median", "largest", "tail shape", "P(exceeds)")
    table = plain_table("share of the limit", *numbers, right=numbers)
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
    destinations.write_results(
        {
            "command": f"parity calibrate --tensors {tensors} --seed {seed}",
            "tensors": run.tensors,
            "false_alarms": run.alarms,
            "upper_bound_95": run.upper_bound,
            "tails": [dataclasses.asdict(tail) for tail in tails],
            "seconds": round(seconds),
            "environment": environment(),
        }
    )
    sys.exit(EXIT_DIVERGENT if run.alarms else EXIT_EQUIVALENT)
