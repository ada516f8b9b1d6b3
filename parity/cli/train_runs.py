"""`parity train`: whole training runs, chaos-aware."""

from __future__ import annotations

import difflib
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import load_factory, one_torch_thread
from parity.environment import environment
from parity.report.terminal import make_console
from parity.training import cases as training_cases
from parity.training.cases import TrainingCase
from parity.training.judge import TrainingResult
from parity.training.trajectory import LIMIT, SHORTEST
from parity.verdict import NOT_RUN, Report


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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights and data.")
@click.option(
    "--trajectory",
    type=click.Path(dir_okay=False, path_type=Path),
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
    chosen = _choose(cases)
    if candidate is not None and (len(chosen) != 1 or not cases):
        raise click.UsageError("--optax trains one case: name it, as in `parity train lstm --optax ...`.")
    if trajectory is not None and len(chosen) != 1:
        raise click.UsageError("--trajectory is of one case: name it.")
    optimizer = None if candidate is None else _optimizer(candidate)
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        results = _run(chosen, steps, envelope, seed, optimizer)
    found = tuple(case for result in results for case in result.cases())
    report = Report(found, environment(), time.perf_counter() - started)
    if trajectory is not None:
        trajectory.write_text(results[0].to_json(), encoding="utf-8")
    publisher.publish(report)
    for result in results:
        publisher.say(_in_a_line(result))
    sys.exit(report.exit_code)


def _run(
    cases: list[TrainingCase], steps: int, envelope: int, seed: int, optimizer: Any
) -> list[TrainingResult]:
    """Train case after case, with what is being done on stderr."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    found = []
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        for case in cases:

            def say(text: str, case: TrainingCase = case) -> None:
                progress.update(task, description=f"{case.id}: {text}")

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


def _choose(names: tuple[str, ...]) -> list[TrainingCase]:
    known = {case.id: case for case in training_cases.CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}."
            raise click.UsageError(f"no training run is called {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(training_cases.CASES)


def _optimizer(spec: str) -> Any:
    if ":" in spec:
        return load_factory("--optax", spec)()
    from parity.optimizers.jax_side import from_text

    try:
        return from_text(spec)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
