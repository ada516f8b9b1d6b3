"""`parity optim`: a torch optimizer or scheduler and an optax transformation or schedule."""

from __future__ import annotations

import functools
import importlib
import inspect
import time
from collections.abc import Callable
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
from parity.optimizers import cases as optimizer_cases
from parity.optimizers.judge import OptimizerPair, judge_pair
from parity.optimizers.replay import designed
from parity.schedules import judge as schedules
from parity.specs import parse
from parity.verdict import CaseResult
from parity.weighing import put_in_words


@click.command("optim")
@click.option(
    "--torch", "reference", metavar="CALL", help="'AdamW(lr=1e-3)', 'StepLR(step_size=7)' or pkg.mod:factory."
)
@click.option(
    "--optax", "candidate", metavar="CALL", help="'optax.adamw(1e-3)', 'jaxrnn.optim...' or pkg.mod:factory."
)
@click.option("--clip-norm", type=float, help="What clip_grad_norm_ does before each of torch's steps.")
@click.option("--clip-value", type=float, help="What clip_grad_value_ does before each of torch's steps.")
@draw_options
@report_options
def optim(
    reference: str | None,
    candidate: str | None,
    clip_norm: float | None,
    clip_value: float | None,
    probe_set: str,
    seed: int,
    **destinations: Any,
) -> None:
    """Judge an optimizer or a schedule by torch's; without arguments, all of jaxrnn.optim.

    Both optimizers are given the same gradients, at learning rates that change from step to step. A call is
    written as in Python, with literals only. A factory for --torch takes a dict of named parameters and returns
    an optimizer; one for --optax takes a learning rate (a schedule, in units of torch's) and returns a
    transformation, or takes nothing.

    torch's schedulers start from a learning rate of 0.3.
    """
    publisher = Publisher(**destinations)
    if (reference is None) != (candidate is None):
        raise click.UsageError("give both --torch and --optax, or neither for all of jaxrnn.optim.")
    if reference is None:
        refuse(
            ("clip_norm", "clip_value"),
            "each row of jaxrnn.optim's table clips as it says; give a pair with --torch and --optax.",
        )
    publisher.clear()
    started = time.perf_counter()
    with one_torch_thread():
        if reference is None or candidate is None:
            results = _table(probe_set, seed)
        else:
            results = (_pair(reference, candidate, clip_norm, clip_value, probe_set, seed),)
    publisher.finish(results, started)


def _table(probe_set: str, seed: int) -> tuple[CaseResult, ...]:
    """Judge every row, with progress on stderr."""
    rows: list[tuple[str, Callable[[], CaseResult]]] = [
        (case.id, functools.partial(optimizer_cases.judge_case, case, probe_set, seed))
        for case in optimizer_cases.CASES
    ]
    rows += [(case.id, functools.partial(_schedule, case)) for case in schedules.CASES]
    with show_progress(len(rows)) as steps:
        return tuple(judge() for _, judge in steps.through(rows, lambda row: row[0]))


def _schedule(case: schedules.ScheduleCase) -> CaseResult:
    missing = torch_missing()
    return CaseResult(case.id, not_run=missing) if missing else schedules.judge_case(case)


def _pair(
    reference: str,
    candidate: str,
    clip_norm: float | None,
    clip_value: float | None,
    probe_set: str,
    seed: int,
) -> CaseResult:
    missing = torch_missing()
    if missing:
        return CaseResult("optim", reference, not_run=missing)
    torchs = importlib.import_module("parity.optimizers.torch_side")
    if ":" not in reference and torchs.is_scheduler(_name(reference)):
        refuse(
            ("clip_norm", "clip_value", "probe_set", "seed"),
            "a schedule clips and draws nothing; leave this out, or give an optimizer as --torch.",
        )
        return schedules.judge_schedule(reference, candidate, id="schedule")
    make: Any = (
        load_factory("--torch", reference) if ":" in reference else read_call(torchs.from_text, reference)
    )
    made = _factory(candidate) if ":" in candidate else read_call(_ours().from_text, candidate)
    summary = f"{candidate} against {reference}"
    try:
        pair = OptimizerPair(make, clip_norm, clip_value)
        return judge_pair("optim", summary, made, pair, designed(probe_set, seed, clip_norm=clip_norm))
    except Exception as error:
        return CaseResult("optim", summary, error=put_in_words(error))


def _ours() -> Any:
    return importlib.import_module("parity.optimizers.jax_side")


def _name(text: str) -> str:
    return str(read_call(parse, text).name).rpartition(".")[2]


def _factory(spec: str) -> Any:
    """Return the factory itself if it wants a learning rate, else what it makes."""
    factory = load_factory("--optax", spec)
    wanted = [
        parameter
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty
    ]
    return factory if wanted else factory()
