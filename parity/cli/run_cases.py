"""`parity run`: the registered cases."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from parity.cases import CASES, Case
from parity.cli.factories import load_model
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import choose, draw_options, one_torch_thread, show_progress
from parity.contracts import CONTRACTS
from parity.judge import judge_case
from parity.probe import SCALES
from parity.verdict import CaseResult


@click.command()
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--candidate", metavar="PKG.MOD:NAME", help="Judge this model against the one CASE named.")
@draw_options
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
    chosen = choose("case", cases, CASES, "`parity list` shows the cases.")
    publisher = Publisher(**destinations)
    factory = None
    if candidate is not None:
        if len(chosen) != 1:
            raise click.UsageError(
                "--candidate is judged against one case: name it, as in --candidate m:f lstm."
            )
        factory = load_model("--candidate", candidate)
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        options = {"probe_set": probe_set, "seed": seed, "seeds": seeds, "contract": contract}
        results = _judge(chosen, len(SCALES[probe_set]) * seeds, candidate=factory, **options)
    publisher.finish(results, started)


def _judge(cases: Sequence[Case], probes: int, **options: Any) -> tuple[CaseResult, ...]:
    """Run the cases one after the other, with progress on stderr; `probes` is how many each of them has."""
    results = []
    with show_progress(len(cases) * probes) as steps:
        for number, case in enumerate(cases, start=1):
            steps.say(case.id)
            results.append(judge_case(case, progress=steps.advance, **options))
            steps.reach(number * probes)
    return tuple(results)
