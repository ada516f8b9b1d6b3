"""Mutants of losses: optax's own where it differs from torch, and others written for it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from parity.losses import judge as losses
from parity.losses.diagnosis import RATIO, SMOOTHING
from parity.losses.probes import probes_of
from parity.probe import Probe
from parity.selftest.trial import Trial
from parity.verdict import CaseResult

FAMILY = "losses"
_WEIGHTS = "weight=[0.5, 2.0, 0.25, 1.0, 3.0]"
_SMOOTH = f"CrossEntropyLoss({_WEIGHTS}, label_smoothing=0.3)"
_ENTROPY = "CrossEntropyLoss()"
_POSITIVE = "BCEWithLogitsLoss(pos_weight=[0.5, 2.0, 0.25, 1.0, 3.0])"

# fault, reference, mutant (a call as text or a function of loss_mutants), and the gate where it is not "semantic"
_MUTANTS: tuple[tuple[Any, ...], ...] = (
    ("C01", _ENTROPY, lambda m: m.mean_over_all),
    ("C02", f"CrossEntropyLoss({_WEIGHTS})", lambda m: m.mean_over_count),
    ("C03", "CrossEntropyLoss(label_smoothing=0.1)", lambda m: m.smoothed_among_others),
    ("C04", _SMOOTH, lambda m: m.smoothed("plain")),
    ("C04-label", _SMOOTH, lambda m: m.smoothed("label")),
    ("C05", _ENTROPY, lambda m: m.optax_cross_entropy, "non-finite"),
    ("C05-last", _ENTROPY, lambda m: m.relabelled(-1)),
    ("C05-first", _ENTROPY, lambda m: m.relabelled(0)),
    ("C05-class", "CrossEntropyLoss(ignore_index=0)", lambda m: m.nothing_ignored),
    ("C05-leak", _SMOOTH, lambda m: m.smoothed("leak")),
    ("C06", _ENTROPY, lambda m: m.softmax_over_last_axis),
    ("C07", "MSELoss()", lambda m: m.half_squared_error),
    ("C08", "SmoothL1Loss(beta=2.5)", lambda m: m.huber),
    ("C08-reverse", "HuberLoss(delta=0.3)", lambda m: m.huber_by_delta),
    ("C09", _POSITIVE, lambda m: m.optax_binary),
    ("C09-both", _POSITIVE, lambda m: m.weighted_binary),
    ("C10", "BCEWithLogitsLoss()", lambda m: m.double_sigmoid),
    ("C10-softmax", _ENTROPY, lambda m: m.double_softmax),
    ("C11", "KLDivLoss()", "jaxrnn.losses.kl_div(reduction='batchmean')"),
    ("C11-rows", "KLDivLoss()", lambda m: m.mean_of_divergences),
    ("C11-swap", "KLDivLoss()", lambda m: m.swapped_divergence),
    ("C12", "CTCLoss()", lambda m: m.ctc_per_sequence),
    ("C13", "CTCLoss(blank=0)", "jaxrnn.losses.ctc_loss(blank=4)"),
    ("C13-first", "CTCLoss(blank=4)", "jaxrnn.losses.ctc_loss(blank=0)"),
    ("C14", "CTCLoss(zero_infinity=True)", "jaxrnn.losses.ctc_loss()", "non-finite"),
    ("C14-finite", "CTCLoss(zero_infinity=True)", lambda m: m.ctc_of_optax),
    ("C15", "CTCLoss()", "jaxrnn.losses.ctc_loss()"),
    ("C16", "functional.mse_loss()", lambda m: m.masked_over_all),
    ("C17", _ENTROPY, lambda m: m.sum_over_time),
    ("C17-sum", _ENTROPY, "jaxrnn.losses.cross_entropy(reduction='sum')"),
    ("C18", "CosineSimilarity()", lambda m: m.unguarded_similarity, "non-finite"),
    (SMOOTHING, "CrossEntropyLoss(label_smoothing=0.1)", "jaxrnn.losses.cross_entropy(label_smoothing=0.15)"),
    (RATIO, "L1Loss()", lambda m: m.sum_of_absolute_errors),
    (RATIO, "L1Loss()", lambda m: m.triple),
)
# What is asked where the probes of the loss itself would not show it.
_TASKS = {"C16": "masked_regression", "C15": "log_ctc"}


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant."""
    for id, reference, mutant, *gate in _MUTANTS:
        judge = functools.partial(_judge, id, reference, mutant)
        yield Trial(id, _name(id), FAMILY, reference, gate[0] if gate else "semantic", judge)


def _name(id: str) -> str:
    solved = {RATIO: "a constant factor", SMOOTHING: "another label smoothing"}
    if id in solved:
        return solved[id]
    catalogue = importlib.import_module("parity.faults.losses").FAULTS
    return next(fault.name for fault in catalogue if fault.id == id)


def _judge(id: str, reference: str, mutant: str | Callable[[Any], Any]) -> CaseResult:
    candidate: Any = mutant
    if callable(mutant):
        candidate = mutant(importlib.import_module("parity.selftest.loss_mutants"))
    probes = _with_a_zero_vector() if id == "C18" else None
    return losses.judge_loss(candidate, reference, probes, task=_TASKS.get(id), id=reference)


def _with_a_zero_vector() -> list[Probe]:
    """Return pairs of vectors, the third of the first ones being zero."""
    (probe,) = probes_of("pairs", {})
    x1, x2 = probe.args
    rows = np.arange(len(x1))[:, None]
    return [
        dataclasses.replace(probe, name="a zero vector", args=(np.where(rows == 2, np.float32(0.0), x1), x2))
    ]
