"""Mutants of optimizers and schedules: optax's own where it differs from torch, and others written for it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from parity.faults.optimizers import OPTIMIZERS
from parity.faults.schedules import SCHEDULES
from parity.longhand.optimizers import Setup
from parity.optimizers import cases as optimizer_cases
from parity.optimizers import judge as optimizers
from parity.optimizers.cases import OptimizerCase
from parity.optimizers.diagnosis import FITTED
from parity.optimizers.judge import OptimizerEvidence, OptimizerPair
from parity.optimizers.replay import STEPS, Replay, designed
from parity.schedules import judge as schedules
from parity.selftest.trial import Trial
from parity.verdict import CaseResult

FAMILY = "optimizers"
Mutant = str | Callable[[Any], Any]  # a call as text, or a function of parity.selftest.optimizer_mutants

EVERY = 4  # gradients for one update


@dataclass(frozen=True)
class _Accumulated(OptimizerCase):
    """An optimizer of torch for sums of so many gradients, which is what `backward()` makes of them."""

    def pair(self) -> OptimizerPair:
        """Return the reference."""
        return _AccumulatedPair(_accumulating(super().pair().make))


class _AccumulatedPair(OptimizerPair):
    def setup(self, replay: Replay) -> Setup | None:
        """Return how the optimizer is built."""
        setup = super().setup(replay)
        return None if setup is None else dataclasses.replace(setup, every=EVERY)


def _accumulating(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a factory of optimizers that see a sum of gradients, and none at all until it is complete."""

    def accumulating(parameters: Any) -> Any:
        optimizer = make(parameters)
        held: dict[str, list[Any]] = {name: [] for name in parameters}

        def accumulate(*called: Any) -> None:
            for name, parameter in parameters.items():
                held[name].append(parameter.grad)
                complete = len(held[name]) == EVERY
                parameter.grad = (
                    sum(held[name]) if complete else None
                )  # without a gradient torch leaves it alone
                if complete:
                    held[name].clear()

        optimizer.register_step_pre_hook(accumulate)
        return optimizer

    return accumulating


_CASES = {case.id: case for case in optimizer_cases.CASES} | {
    "clip-groups": OptimizerCase(
        "clip-groups", "SGD(lr=1e-2)", "", clip_norm=1e-3, groups={"bias": {"momentum": 0.0}}
    ),
    "sgd-accumulated": _Accumulated("sgd-accumulated", "SGD(lr=1e-2)", ""),
}
_DECAY = "optax.add_decayed_weights(0.1)"

# fault, case, mutant
_MUTANTS: tuple[tuple[str, str, Mutant], ...] = (
    ("C17-averaged", "sgd-accumulated", lambda m: m.accumulated(1e-2, EVERY, mean=True)),
    ("C17-last", "sgd-accumulated", lambda m: m.skipping(1e-2, EVERY)),
    ("O01", "adam", "optax.adam(1e-2, eps=0.0, eps_root=1e-8)"),
    ("O02", "radam", "optax.radam(1e-3)"),
    ("O03", "adamw", "optax.adamw(1e-2)"),
    ("O04", "adam-decay", "optax.adamw(1e-2, weight_decay=0.1)"),
    ("O05", "adam", lambda m: m.uncorrected_adam(1e-2)),
    ("O05-late", "adam", lambda m: m.late_adam(1e-2)),
    ("O06", "adam", "optax.adam(1e-2)"),
    ("O07", "sgd-dampening", "optax.sgd(1e-2, momentum=0.9)"),
    ("O07-first", "sgd-dampening", lambda m: m.damped_from_the_start(1e-2, 0.9, 0.3)),
    ("O08", "sgd-nesterov", "optax.sgd(1e-2, momentum=0.9)"),
    (
        "O08-nesterov",
        "sgd-momentum",
        f"optax.chain({_DECAY}, optax.sgd(1e-2, momentum=0.9, nesterov=True))",
    ),
    (
        "O09",
        "sgd-momentum",
        f"optax.chain(optax.trace(0.9), {_DECAY}, optax.scale_by_learning_rate(1e-2))",
    ),
    ("O10", "rmsprop", "optax.rmsprop(1e-2, eps_in_sqrt=False)"),
    ("O11", "rmsprop", "optax.rmsprop(1e-2, decay=0.99)"),
    (
        "O12",
        "rmsprop-momentum",
        f"optax.chain({_DECAY}, optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False, momentum=0.9))",
    ),
    ("O13", "clip-sgd", "optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1e-2))"),
    ("O14", "clip-sgd", lambda m: m.clipped_each(1e-3, 1e-2, 1e-6)),
    ("O14-each", "clip-sgd", lambda m: m.clipped_each(1e-3, 1e-2, 0.0)),
    ("O14-groups", "clip-groups", lambda m: m.clipped_groups(1e-3, 1e-2, "bias")),
    ("O14-after", "clip-sgd", lambda m: m.clipped_updates(1e-3, 1e-2)),
    ("O14-none", "clip-sgd", "optax.sgd(1e-2)"),
    ("O15", "adagrad", "optax.adagrad(1e-2)"),
    ("O15-start", "adagrad", "jaxrnn.optim.adagrad(1e-2, initial_accumulator_value=0.1)"),
    ("O15-eps", "adagrad", "optax.adagrad(1e-2, initial_accumulator_value=0.0)"),
    ("O15-root", "adagrad", "optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-10)"),
    ("O16", "amsgrad", "optax.amsgrad(1e-2, b2=0.9)"),
    ("O16-raw", "amsgrad", "optax.amsgrad(1e-2, b2=0.9, bias_correction_nu=False)"),
    ("O16-ignored", "amsgrad", "optax.adam(1e-2, b2=0.9)"),
    ("O17", "nadam", "optax.nadam(1e-2)"),
    ("O18", "adadelta", "optax.adadelta()"),
    ("O18-sign", "adadelta", "optax.chain(jaxrnn.optim.adadelta(0.5), optax.scale(-1.0))"),
    ("O19", "rprop", "optax.rprop(1e-2)"),
    ("O23", "adam", lambda m: m.late_rate(1e-2, -1, STEPS)),
    ("O23-ahead", "adam", lambda m: m.late_rate(1e-2, 1, STEPS)),
    ("O25", "adamw-groups", "jaxrnn.optim.adamw(1e-2, weight_decay=0.1)"),
    ("O25-inverted", "adamw-groups", lambda m: _inverted()),
    ("O26", "adamw-frozen", "jaxrnn.optim.adamw(1e-2, weight_decay=0.1)"),
    ("O28", "adam", lambda m: m.forgetful(1e-2, 20)),
    (FITTED, "adam", "jaxrnn.optim.adam(1.001e-2, b2=0.99, eps=1e-7)"),
    ("O10+O11", "rmsprop", "optax.rmsprop(1e-2)"),
)

# fault, torch's scheduler, mutant, what is compared
_SCHEDULES = (
    (
        "O20",
        "OneCycleLR(max_lr=0.3, total_steps=60)",
        "optax.cosine_onecycle_schedule(60, 0.3)",
        "lr",
    ),
    (
        "O20-momentum",
        "OneCycleLR(max_lr=0.3, total_steps=60)",
        "optax.constant_schedule(0.95)",
        "momentum",
    ),
    ("O21", "CosineAnnealingLR(T_max=25)", "optax.cosine_decay_schedule(0.3, 25)", "lr"),
    (
        "O21-alpha",
        "CosineAnnealingLR(T_max=25, eta_min=0.01)",
        "optax.cosine_decay_schedule(0.3, 25, alpha=0.01)",
        "lr",
    ),
    (
        "O22",
        "ReduceLROnPlateau(factor=0.5, patience=3)",
        "jaxrnn.optim.reduce_on_plateau(0.3, factor=0.5, patience=2)",
        "lr",
    ),
    (
        "O22-optax",
        "ReduceLROnPlateau(factor=0.5, patience=3)",
        "optax.chain(optax.scale(0.3), optax.contrib.reduce_on_plateau(factor=0.5, patience=3))",
        "lr",
    ),
    (
        "O23",
        "StepLR(step_size=7)",
        "optax.join_schedules([optax.constant_schedule(0.3), jaxrnn.optim.step_lr(0.3, 7)], [1])",
        "lr",
    ),
    ("O24", "LambdaLR(lr_lambda=warm_up(10))", "optax.linear_schedule(0.0, 0.3, 10)", "lr"),
)


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant."""
    known = {fault.id: fault for fault in OPTIMIZERS}
    names = {fault.id: fault.name for fault in OPTIMIZERS}
    names |= {FITTED: "other hyperparameters", "O10+O11": "two mistakes at once"}
    for id, case, mutant in _MUTANTS:
        gate = known[id].gate if id in known else "semantic"
        yield Trial(id, names[id], FAMILY, case, gate, functools.partial(_judge, case, mutant))
    for fault in SCHEDULES:
        names[fault.id] = fault.name
    for id, reference, mutant, key in _SCHEDULES:
        judge = functools.partial(schedules.judge_schedule, reference, mutant, key=key, id=f"schedule: {id}")
        yield Trial(id, names[id], FAMILY, f"schedule: {reference}", "semantic", judge)


def _judge(case_id: str, mutant: Mutant) -> CaseResult:
    """Judge a mutant of one case."""
    case = _CASES[case_id]
    if isinstance(mutant, str):
        candidate = dataclasses.replace(case, candidate=mutant, groups={}, frozen=()).build()
    else:
        candidate = mutant(importlib.import_module("parity.selftest.optimizer_mutants"))
    fixed = importlib.import_module("parity.optimizers.jax_side").is_transformation(candidate)
    judgements = [optimizers.weigh(candidate, evidence) for evidence in _evidence(case_id, fixed)]
    return optimizers.conclude(case_id, "", judgements)


@functools.cache
def _evidence(case_id: str, fixed: bool) -> list[OptimizerEvidence]:
    """Return what all mutants of a case share."""
    case = _CASES[case_id]
    replays = designed(clip_norm=case.clip_norm)
    return [optimizers.gather(case.pair(), replay.steady() if fixed else replay) for replay in replays]


def _inverted() -> Any:
    """Weight decay on what should have none, and none on the rest."""
    ours = importlib.import_module("parity.optimizers.jax_side")
    return ours.grouped("jaxrnn.optim.adamw(1e-2, weight_decay=0.0)", {"bias": {"weight_decay": 0.1}})
