"""Mutants of exponential averages of parameters: optax's own where it differs from torch, and others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from parity import gates
from parity.compare import compare_arrays, tiers_of
from parity.faults.averages import AVERAGES
from parity.gates import Array
from parity.longhand import averages as longhand
from parity.selftest.average_mutants import DECAY, MUTANTS, Average, run
from parity.selftest.trial import Trial
from parity.verdict import DIVERGENT, EXPLAINS, CaseResult, Comparison, Diagnosis, Explanation

FAMILY = "averages"
UPDATES = 40


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant."""
    for fault in AVERAGES:
        judge = functools.partial(judge_average, MUTANTS[fault.id], fault.name)
        yield Trial(fault.id, fault.name, FAMILY, "AveragedModel", fault.gate, judge)


def judge_average(candidate: Average, name: str = "") -> CaseResult:
    """Judge an average in JAX by torch's; where it diverges, say why."""
    values = _walk()
    oracle, measured = (_of_torch(values, dtype) for dtype in (torch.float64, torch.float32))
    found, found64 = (run(candidate, values, dtype) for dtype in ("float32", "float64"))
    arrays = ({"average": each} for each in (found, measured, oracle, found64))
    tensors = compare_arrays(*arrays, kinds={"average": "step"})
    comparison = Comparison("a walk", tensors, 1, tiers_of(tensors), "AveragedModel in float64")
    result = CaseResult("AveragedModel", name, (comparison,))
    if result.verdict != DIVERGENT:
        return result
    return dataclasses.replace(result, diagnosis=_diagnose(values, found64))


def _walk() -> Array:
    """Return values that move away from where they began, as parameters do."""
    steps = np.random.default_rng(0).normal(0.3, 1.0, (UPDATES, 4, 3))
    return (5.0 + np.cumsum(steps, axis=0)).astype(np.float32)


def _of_torch(values: Array, dtype: torch.dtype) -> Array:
    held = torch.nn.ParameterDict({"weight": torch.zeros(values.shape[1:], dtype=dtype)})
    average = AveragedModel(held, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    found = []
    for value in torch.from_numpy(values).to(dtype):
        with torch.no_grad():
            held["weight"].copy_(value)
        average.update_parameters(held)
        found.append(next(average.parameters()).detach().numpy().copy())
    return np.stack(found)


def _diagnose(values: Array, found: Array) -> Diagnosis:
    limit = gates.SEMANTIC_FLOOR * gates.U64
    explanations = []
    for fault in AVERAGES:
        supposed = longhand.run(gates.float64(values), DECAY, fault.recipe)
        misfit = gates.rms(found - supposed) / gates.rms(supposed) / limit
        explanations.append(Explanation(fault.id, fault.name, fault.fix, misfit))
    ranked = sorted(explanations, key=lambda each: each.misfit)
    explaining = tuple(each for each in ranked if each.misfit <= EXPLAINS)
    return Diagnosis(explaining, ranked[len(explaining)], len(ranked))
