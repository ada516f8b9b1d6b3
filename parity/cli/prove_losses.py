"""`parity loss`: a torch loss and a JAX loss."""

from __future__ import annotations

import importlib
import time
from typing import Any

import click

from parity.cli.factories import load_factory
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import (
    draw_options,
    one_torch_thread,
    read_call,
    refuse,
    show_progress,
    torch_missing,
)
from parity.losses import judge as losses
from parity.losses.probes import TASK_NAMES
from parity.verdict import CaseResult
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
@draw_options
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
    if reference is None:
        refuse(("task",), "each loss of jaxrnn.losses has its own task; give a pair with --torch and --jax.")
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        if reference is None or candidate is None:
            results = _table(probe_set, seed)
        else:
            results = (_pair(reference, candidate, task, probe_set, seed),)
    publisher.finish(results, started)


def _table(probe_set: str, seed: int) -> tuple[CaseResult, ...]:
    """Judge every row, with progress on stderr."""
    with show_progress(len(losses.CASES)) as steps:
        cases = steps.through(losses.CASES, lambda case: case.id)
        return tuple(losses.judge_case(case, probe_set, seed) for case in cases)


def _pair(reference: str, candidate: str, task: str | None, probe_set: str, seed: int) -> CaseResult:
    missing = torch_missing()
    if missing:
        return CaseResult("loss", reference, not_run=missing)
    theirs: Any = load_factory("--torch", reference) if ":" in reference else read_call(_loss, reference)
    ours: Any = load_factory("--jax", candidate) if ":" in candidate else read_call(_function, candidate)
    if task is None and losses.task_of(theirs) is None:
        raise click.UsageError(
            f"--torch {reference} is none of torch's losses: say what it is asked with --task."
        )
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
