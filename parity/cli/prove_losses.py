"""`parity loss`: a torch loss and a JAX loss."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from parity.cases import INSTALL
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import load_factory, one_torch_thread
from parity.environment import environment
from parity.losses import judge as losses
from parity.losses.probes import TASK_NAMES
from parity.probe import SETS
from parity.report.terminal import make_console
from parity.verdict import CaseResult, Report
from parity.weighing import put_in_words


@click.command("loss")
@click.option(
    "--torch",
    "reference",
    metavar="CALL",
    help="'CrossEntropyLoss(ignore_index=0)' with literals, or pkg.mod:function.",
)
@click.option(
    "--jax", "candidate", metavar="CALL", help="'jaxrnn.losses...', 'optax...' or pkg.mod:function."
)
@click.option(
    "--task",
    type=click.Choice(sorted(TASK_NAMES)),
    help="What the loss is asked.  [default: by torch's loss]",
)
@click.option("--probe", "probe_set", type=click.Choice(SETS), default="designed", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw.")
@report_options
def loss(
    reference: str | None,
    candidate: str | None,
    task: str | None,
    probe_set: str,
    seed: int,
    **destinations: Any,
) -> None:
    """Judge a loss by torch's; without arguments, all of jaxrnn.losses.

    Values and the gradients of every floating input are compared. The function receives what torch's loss
    receives, in the same order: for classes, logits [N, C] or [N, C, T] and integer labels. Of CTC, both
    receive log_softmax of the logits.
    """
    publisher = Publisher(**destinations)
    if (reference is None) != (candidate is None):
        raise click.UsageError("give both --torch and --jax, or neither for all of jaxrnn.losses.")
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        if reference is None or candidate is None:
            results = _table(probe_set, seed)
        else:
            results = (_pair(reference, candidate, task, probe_set, seed),)
    report = Report(results, environment(), time.perf_counter() - started)
    publisher.publish(report)
    sys.exit(report.exit_code)


def _table(probe_set: str, seed: int) -> tuple[CaseResult, ...]:
    """Judge every row, with progress on stderr."""
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(losses.CASES))
        for case in losses.CASES:
            progress.update(task, description=case.id)
            results.append(losses.judge_case(case, probe_set, seed))
            progress.advance(task)
    return tuple(results)


def _pair(reference: str, candidate: str, task: str | None, probe_set: str, seed: int) -> CaseResult:
    if importlib.util.find_spec("torch") is None:
        return CaseResult("loss", reference, not_run=f"torch not installed; {INSTALL['torch']}")
    try:
        theirs: Any = load_factory("--torch", reference) if ":" in reference else _loss(reference)
        ours: Any = load_factory("--jax", candidate) if ":" in candidate else _function(candidate)
        if task is None and losses.task_of(theirs) is None:
            raise ValueError(
                f"--torch {reference} is none of torch's losses: say what it is asked with --task."
            )
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    summary = f"{candidate} against {reference}"
    try:
        return losses.judge_loss(
            ours, theirs, task=task, probe_set=probe_set, seed=seed, id="loss", summary=summary
        )
    except Exception as error:
        return CaseResult("loss", summary, error=put_in_words(error))


def _loss(text: str) -> Any:
    return importlib.import_module("parity.running.functions_torch").Loss(text)


def _function(text: str) -> Any:
    return importlib.import_module("parity.running.functions_jax").from_text(text)
