"""The optimizers that exist twice, in one table, each side as a call in words; nothing is imported to read it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.cases import INSTALL
from parity.optimizers.judge import OptimizerPair, judge_pair
from parity.optimizers.replay import designed
from parity.verdict import CaseResult
from parity.weighing import put_in_words


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer that exists twice.

    reference, candidate: calls, as `AdamW(lr=1e-3)` and `jaxrnn.optim.adamw(1e-3)`. groups: options for
    parameters by a part of their names. frozen: parts of names of parameters that are not trained.
    """

    id: str
    reference: str
    candidate: str
    clip_norm: float | None = None
    clip_value: float | None = None
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Both calls."""
        return f"{self.candidate} against torch.optim.{self.reference}"

    def missing(self) -> str | None:
        """Return what keeps the case from running, with the remedy; `None` where nothing does."""
        return None if importlib.util.find_spec("torch") else f"torch not installed; {INSTALL['torch']}"

    def pair(self) -> OptimizerPair:
        """Return the reference."""
        torchs = importlib.import_module("parity.optimizers.torch_side")
        if self.groups or self.frozen:
            make = torchs.grouped(self.reference, self.groups, self.frozen)
        else:
            make = torchs.from_text(self.reference)
        return OptimizerPair(make, self.clip_norm, self.clip_value)

    def build(self) -> Any:
        """Return the candidate."""
        ours = importlib.import_module("parity.optimizers.jax_side")
        if self.groups or self.frozen:
            return ours.grouped(self.candidate, self.groups, self.frozen)
        return ours.from_text(self.candidate)


def judge_case(
    case: OptimizerCase,
    probe_set: str = "designed",
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> CaseResult:
    """Judge one row; a missing package leaves it NOT RUN, and any other exception makes its verdict ERROR."""
    missing = case.missing()
    if missing is not None:
        return CaseResult(case.id, case.summary, not_run=missing)
    try:
        candidate, reference = case.build(), case.pair()
        replays = designed(probe_set, seed, clip_norm=case.clip_norm)
    except Exception as error:
        return CaseResult(case.id, case.summary, error=put_in_words(error))
    return judge_pair(case.id, case.summary, candidate, reference, replays, progress)


def _row(id: str, reference: str, candidate: str, **rest: Any) -> OptimizerCase:
    return OptimizerCase(id, reference, f"jaxrnn.optim.{candidate}", **rest)


def _clipped(id: str, clipping: str, **clips: Any) -> OptimizerCase:
    candidate = f"optax.chain(jaxrnn.optim.{clipping}, jaxrnn.optim.adam(1e-2))"
    return OptimizerCase(id, "Adam(lr=1e-2)", candidate, **clips)


_BIASES: dict[str, dict[str, Any]] = {"bias": {"weight_decay": 0.0}}
_adamw = functools.partial(
    _row, reference="AdamW(lr=1e-2, weight_decay=0.1)", candidate="adamw(1e-2, weight_decay=0.1)"
)

CASES = (
    _row("adam", "Adam(lr=1e-2)", "adam(1e-2)"),
    _row("adam-decay", "Adam(lr=1e-2, weight_decay=0.1)", "adam(1e-2, weight_decay=0.1)"),
    _row(
        "adam-options",
        "Adam(lr=1e-2, betas=(0.3, 0.9), eps=1e-3, maximize=True)",
        "adam(1e-2, b1=0.3, b2=0.9, eps=1e-3, maximize=True)",
    ),
    _row("amsgrad", "Adam(lr=1e-2, betas=(0.9, 0.9), amsgrad=True)", "adam(1e-2, b2=0.9, amsgrad=True)"),
    _row("adamw", "AdamW(lr=1e-2)", "adamw(1e-2)"),
    _adamw(id="adamw-groups", groups=_BIASES),
    _adamw(id="adamw-frozen", frozen=("embedding",)),
    _row("adamax", "Adamax(lr=1e-2, weight_decay=0.1)", "adamax(1e-2, weight_decay=0.1)"),
    _row("nadam", "NAdam(lr=1e-2)", "nadam(1e-2)"),
    _row(
        "nadam-decay",
        "NAdam(lr=1e-2, weight_decay=0.1, momentum_decay=0.3, decoupled_weight_decay=True)",
        "nadam(1e-2, weight_decay=0.1, momentum_decay=0.3, decoupled_weight_decay=True)",
    ),
    _row("radam", "RAdam(lr=1e-3)", "radam(1e-3)"),
    _row(
        "radam-decay",
        "RAdam(lr=1e-3, weight_decay=0.1, eps=1e-2)",
        "radam(1e-3, weight_decay=0.1, eps=1e-2)",
    ),
    _row("sgd", "SGD(lr=1e-2)", "sgd(1e-2)"),
    _row(
        "sgd-momentum",
        "SGD(lr=1e-2, momentum=0.9, weight_decay=0.1)",
        "sgd(1e-2, momentum=0.9, weight_decay=0.1)",
    ),
    _row(
        "sgd-dampening",
        "SGD(lr=1e-2, momentum=0.9, dampening=0.3)",
        "sgd(1e-2, momentum=0.9, dampening=0.3)",
    ),
    _row(
        "sgd-nesterov",
        "SGD(lr=1e-2, momentum=0.9, nesterov=True)",
        "sgd(1e-2, momentum=0.9, nesterov=True)",
    ),
    _row("rmsprop", "RMSprop(lr=1e-2)", "rmsprop(1e-2)"),
    _row(
        "rmsprop-momentum",
        "RMSprop(lr=1e-2, momentum=0.9, weight_decay=0.1)",
        "rmsprop(1e-2, momentum=0.9, weight_decay=0.1)",
    ),
    _row(
        "rmsprop-centered",
        "RMSprop(lr=1e-2, alpha=0.9, eps=1e-3, centered=True)",
        "rmsprop(1e-2, alpha=0.9, eps=1e-3, centered=True)",
    ),
    _row("adagrad", "Adagrad(lr=1e-2)", "adagrad(1e-2)"),
    _row(
        "adagrad-options",
        "Adagrad(lr=1e-2, lr_decay=0.1, initial_accumulator_value=0.1, weight_decay=0.1)",
        "adagrad(1e-2, lr_decay=0.1, initial_accumulator_value=0.1, weight_decay=0.1)",
    ),
    _row("adadelta", "Adadelta(lr=0.5)", "adadelta(0.5)"),
    _row("rprop", "Rprop(lr=1e-2)", "rprop(1e-2)"),
    _clipped("clip-norm", "clip_grad_norm(1.0)", clip_norm=1.0),
    OptimizerCase(
        "clip-sgd",
        "SGD(lr=1e-2)",
        "optax.chain(jaxrnn.optim.clip_grad_norm(1e-3), jaxrnn.optim.sgd(1e-2))",
        clip_norm=1e-3,
    ),
    _clipped("clip-value", "clip_grad_value(0.5)", clip_value=0.5),
)
