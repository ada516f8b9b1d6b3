"""`parity train`: whole training runs, chaos-aware."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from parity.cli.factories import load_factory
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import (
    FILE,
    Destinations,
    choose,
    one_torch_thread,
    read_call,
    seed_option,
    show_progress,
)
from parity.report import training_page
from parity.training import cases as training_cases
from parity.training.cases import TrainingCase
from parity.training.judge import TrainingResult
from parity.training.trajectory import LIMIT, SHORTEST
from parity.verdict import NOT_RUN


@click.command("train")
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option(
    "--steps", type=click.IntRange(min=SHORTEST), default=240, show_default=True, help="Of each run."
)
@click.option(
    "--envelope",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Runs of the null ensemble; 6 to 12 are usual.",
)
@click.option(
    "--optax",
    "candidate",
    metavar="CALL",
    help="Train the one CASE named with this optimizer: 'optax.adam(1e-2)' or pkg.mod:factory.",
)
@seed_option("Of weights and data.")
@click.option(
    "--trajectory",
    type=FILE,
    help="Also write losses and envelopes here, as JSON (parity-training/1).",
)
@report_options
def train(
    cases: tuple[str, ...],
    steps: int,
    envelope: int,
    candidate: str | None,
    seed: int,
    trajectory: Path | None,
    **destinations: Any,
) -> None:
    """Judge training runs: the optimizer's replay, single steps, and a free run beside honest ones.

    Losses of two runs part by chaos, and no tolerance can tell that from a mistake. The free run may leave a run in
    float64 at most four times as fast as float32 runs do whose roundings differ.
    """
    publisher = Publisher(**destinations)
    chosen = choose(
        "training run",
        cases,
        training_cases.CASES,
        f"there are {', '.join(case.id for case in training_cases.CASES)}.",
    )
    if candidate is not None and (len(chosen) != 1 or not cases):
        raise click.UsageError("--optax trains one case: name it, as in `parity train lstm --optax ...`.")
    if trajectory is not None and len(chosen) != 1:
        raise click.UsageError("--trajectory is of one case: name it.")
    optimizer = None if candidate is None else _optimizer(candidate)
    losses = Destinations({".json": trajectory})
    publisher.clear()
    losses.clear()
    started = time.perf_counter()
    with one_torch_thread():
        results = _run(chosen, steps, envelope, seed, optimizer)
    if trajectory is not None:
        trajectory.write_text(results[0].to_json(), encoding="utf-8")
    publisher.finish(
        (case for result in results for case in result.cases()),
        started,
        sections=lambda: training_page.sections(results),
        said=[_in_a_line(result) for result in results],
    )


def _run(
    cases: list[TrainingCase], steps: int, envelope: int, seed: int, optimizer: Any
) -> list[TrainingResult]:
    """Train case after case, with what is being done on stderr."""
    found = []
    with show_progress() as progress:
        for case in cases:

            def say(text: str, case: TrainingCase = case) -> None:
                progress.say(f"{case.id}: {text}")

            found.append(
                training_cases.judge_case(case, steps, envelope, seed=seed, candidate=optimizer, progress=say)
            )
    return found


def _in_a_line(result: TrainingResult) -> str:
    trajectory = result.trajectory
    if trajectory is None:
        return f"{result.id}: {result.verdict}" if result.verdict == NOT_RUN else f"{result.id}: no run"
    first = "no step is wrong by itself"
    if result.first_bad is not None:
        first = f"the first step that is wrong by itself is {result.first_bad}"
    return (
        f"{result.id}: at most {trajectory.largest:.3g} envelopes from float64 (limit {LIMIT:g}) in "
        f"{trajectory.horizon} steps before chaos; {first}"
    )


def _optimizer(spec: str) -> Any:
    if ":" in spec:
        return load_factory("--optax", spec)()
    from parity.optimizers.jax_side import from_text

    return read_call(from_text, spec)
