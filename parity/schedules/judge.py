"""Are two learning rate schedules the same? The rate of every update, against what torch's scheduler leaves behind.

torch's schedulers compute in Python's float64 whatever the parameters have, so there is one oracle and no reference
in float32: what a candidate gives in float32 is judged by the oracle rounded to it.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from parity import gates
from parity.compare import compare_arrays, tiers_of
from parity.environment import environment
from parity.gates import Array
from parity.verdict import DIVERGENT, EXPLAINS, CaseResult, Comparison, Diagnosis, Explanation, Report
from parity.weighing import put_in_words

if TYPE_CHECKING:
    from parity.faults.schedules import Schedule

UPDATES = 60
BASE = 0.3  # the learning rate from which torch's schedulers start


def metrics(updates: int = UPDATES) -> Array:
    """Return what a plateau is looked for in: a loss that falls, then stays, again and again."""
    return (
        np.maximum.accumulate(np.zeros(updates))
        + 1.0 / (1.0 + np.arange(updates) // 20)
        + 1e-6 * (np.arange(updates) % 3)
    )


@dataclass(frozen=True)
class ScheduleCase:
    """A schedule that exists twice; `key` is "lr" or, for policies that cycle it, "momentum"."""

    id: str
    reference: str
    candidate: str
    key: str = "lr"
    summary: str = field(default="")


def compare_schedules(reference: str, candidate: Any, *, key: str = "lr", updates: int = UPDATES) -> Report:
    """Judge a schedule by a torch scheduler, over some updates from 0.

    reference: a call such as ``"StepLR(step_size=7)"``; it starts from a learning rate of `BASE`.
    candidate: a function of the update's number, ``jaxrnn.optim.step_lr(0.3, 7)``, or such a call as text; for
        `ReduceLROnPlateau` a transformation that receives `value=`.
    """
    started = time.perf_counter()
    result = judge_schedule(reference, candidate, key=key, updates=updates)
    return Report((result,), environment(), time.perf_counter() - started)


def judge_case(case: ScheduleCase) -> CaseResult:
    """Judge one row of the table."""
    return judge_schedule(case.reference, case.candidate, key=case.key, id=case.id)


def judge_schedule(
    reference: str, candidate: Any, *, key: str = "lr", updates: int = UPDATES, id: str = "schedule"
) -> CaseResult:
    """Compare every rate; where they diverge, say why."""
    started = time.perf_counter()
    summary = f"{candidate if isinstance(candidate, str) else 'candidate'} against {reference}"
    try:
        torchs = importlib.import_module("parity.schedules.torch_side")
        ours = importlib.import_module("parity.schedules.jax_side")
        # One more than is compared, for hypotheses that are ahead by one.
        oracle = torchs.rates(reference, BASE, updates, metrics(updates), key)
        made = ours.from_text(candidate) if isinstance(candidate, str) else candidate
        found, found64 = (
            ours.rates(made, updates, metrics(updates), dtype) for dtype in ("float32", "float64")
        )
        tensors = compare_arrays(
            {key: found}, {key: oracle.astype(np.float32)}, {key: oracle}, {key: found64}
        )
    except (ValueError, TypeError) as error:
        return CaseResult(id, summary, error=put_in_words(error))
    comparison = Comparison(
        f"{updates} updates",
        tensors,
        1,
        tiers_of(tensors),
        "torch.optim.lr_scheduler in float64",
        seconds=time.perf_counter() - started,
        probe={"updates": updates, "learning rate": BASE},
    )
    result = CaseResult(id, summary, (comparison,))
    if result.verdict != DIVERGENT:
        return result
    from parity.faults.schedules import Schedule

    kind, options = torchs.described(reference)
    schedule = Schedule(kind, options, BASE, metrics(updates), key)
    return dataclasses.replace(result, diagnosis=_diagnose(schedule, oracle, found64))


def _diagnose(schedule: Schedule, oracle: Array, found: Array) -> Diagnosis:
    from parity.faults.schedules import SCHEDULES

    scores = {}
    for fault in SCHEDULES:
        if fault.possible(schedule):
            supposed = fault.rates(schedule, oracle)
            size = gates.rms(supposed) or 1.0
            misfit = gates.rms(found - supposed) / size / (gates.SEMANTIC_FLOOR * gates.U64)
            scores[Explanation(fault.id, fault.name, fault.fix, float(misfit))] = misfit
    ranked = sorted(scores, key=lambda explanation: explanation.misfit)
    explaining = tuple(each for each in ranked if each.misfit <= EXPLAINS)
    others = [each for each in ranked if each not in explaining]
    return Diagnosis(explaining, others[0] if others else None, len(scores))


def _row(id: str, reference: str, candidate: str, key: str = "lr") -> ScheduleCase:
    return ScheduleCase(id, reference, f"jaxrnn.optim.{candidate}", key)


CASES = (
    _row("step_lr", "StepLR(step_size=7)", "step_lr(0.3, 7)"),
    _row("by_epochs", "StepLR(step_size=7)", "by_epochs(jaxrnn.optim.step_lr(0.3, 1), 7)"),
    _row("multi_step_lr", "MultiStepLR(milestones=[5, 20, 20, 41])", "multi_step_lr(0.3, [5, 20, 20, 41])"),
    _row("exponential_lr", "ExponentialLR(gamma=0.93)", "exponential_lr(0.3, 0.93)"),
    _row(
        "constant_lr", "ConstantLR(factor=0.1, total_iters=9)", "constant_lr(0.3, factor=0.1, total_iters=9)"
    ),
    _row(
        "linear_lr",
        "LinearLR(start_factor=0.9, end_factor=0.0, total_iters=30)",
        "linear_lr(0.3, start_factor=0.9, end_factor=0.0, total_iters=30)",
    ),
    _row(
        "polynomial_lr",
        "PolynomialLR(total_iters=40, power=2.0)",
        "polynomial_lr(0.3, total_iters=40, power=2.0)",
    ),
    _row(
        "cosine_annealing_lr",
        "CosineAnnealingLR(T_max=25, eta_min=0.01)",
        "cosine_annealing_lr(0.3, 25, eta_min=0.01)",
    ),
    _row(
        "cosine_annealing_warm_restarts",
        "CosineAnnealingWarmRestarts(T_0=3, T_mult=2, eta_min=0.01)",
        "cosine_annealing_warm_restarts(0.3, 3, T_mult=2, eta_min=0.01)",
    ),
    _row("lambda_lr", "LambdaLR(lr_lambda=warm_up(10))", "lambda_lr(0.3, warm_up(10))"),
    _row("one_cycle_lr", "OneCycleLR(max_lr=0.3, total_steps=60)", "one_cycle_lr(0.3, 60)"),
    _row(
        "one_cycle_momentum", "OneCycleLR(max_lr=0.3, total_steps=60)", "one_cycle_momentum(60)", "momentum"
    ),
    _row(
        "cyclic_lr",
        "CyclicLR(base_lr=0.01, max_lr=0.3, step_size_up=7, step_size_down=4)",
        "cyclic_lr(0.01, 0.3, step_size_up=7, step_size_down=4)",
    ),
    _row(
        "reduce_on_plateau",
        "ReduceLROnPlateau(factor=0.5, patience=3)",
        "reduce_on_plateau(0.3, factor=0.5, patience=3)",
    ),
)
