"""Names what is wrong with an optimizer: a known mistake, two of them, or other hyperparameters. NumPy only.

A hypothesis is the reference's optimizer, spelled out, with one exchanged part, played the same gradients in
float64. It explains a candidate if every step of every parameter is within a few semantic limits of it. A
mistake that only costs precision is held against the candidate's run in that precision. Where no hypothesis
explains the candidate, neither alone nor in pairs, hyperparameters are fitted to its updates by least squares.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity import gates
from parity.faults.optimizers import OPTIMIZERS, Circumstances, OptimizerFault
from parity.gates import PRECISIONS, RHO_FLOOR
from parity.longhand import optimizers as longhand
from parity.longhand.optimizers import FAITHFUL, Setup
from parity.optimizers.judge import Judgement, OptimizerEvidence, Run, rms_of_steps, step_name
from parity.verdict import EXPLAINS, Diagnosis, Explanation

FITTED = "fitted"  # the id of an explanation by hyperparameters
_FAR = 1e3 * EXPLAINS


def diagnose(judgements: Sequence[Judgement]) -> Diagnosis | None:
    """Return what explains the candidate; None where the reference's optimizer is not spelled out."""
    judged = [j for j in judgements if j.evidence is not None and j.evidence.setup is not None]
    if not judged:
        return None
    semantic = any(t.gate not in (None, "numeric") for j in judged for t in j.comparison.tensors)
    faults = [f for f in _possible(judged) if (f.gate == "numeric") != semantic]
    scores = {fault: _misfit(fault, judged) for fault in faults}
    tried = len(scores)
    if semantic and not _explaining(scores):
        pairs = [_joined(*pair) for pair in itertools.combinations(faults, 2)]
        scores |= {pair: _misfit(pair, judged) for pair in pairs if pair is not None}
        tried = len(scores)
    found = [_explanation(fault, scores[fault]) for fault in _explaining(scores)]
    if semantic and not found:
        fitted = _fit(judged)
        found, tried = [fitted] if fitted else [], tried + 1
    others = sorted((f for f in scores if scores[f] > EXPLAINS), key=lambda f: scores[f])
    return Diagnosis(tuple(found), _explanation(others[0], scores[others[0]]) if others else None, tried)


def _possible(judged: Sequence[Judgement]) -> list[OptimizerFault]:
    found = []
    for fault in OPTIMIZERS:
        if any(fault.possible(_setup(j), _circumstances(j)) for j in judged):
            found.append(fault)
    return found


def _joined(one: OptimizerFault, other: OptimizerFault) -> OptimizerFault | None:
    """Return two faults at once; None where both exchange the same part."""
    return None if one.parts.keys() & other.parts.keys() else one.joined(other)


def _explaining(scores: Mapping[OptimizerFault, float]) -> list[OptimizerFault]:
    return sorted((fault for fault in scores if scores[fault] <= EXPLAINS), key=lambda f: scores[f])


def _explanation(fault: OptimizerFault, misfit: float) -> Explanation:
    return Explanation(fault.id, fault.name, fault.fix, misfit)


def _setup(judgement: Judgement) -> Setup:
    assert judgement.evidence is not None
    assert judgement.evidence.setup is not None
    return judgement.evidence.setup


def _circumstances(judgement: Judgement) -> Circumstances:
    assert judgement.evidence is not None
    replay = judgement.evidence.replay
    return Circumstances(tuple(replay.start), replay.rates, judgement.first_bad)


def _misfit(fault: OptimizerFault, judged: Iterable[Judgement]) -> float:
    """Return how far a hypothesis is from the candidate, the largest over all replays."""
    worst = 0.0
    for judgement in judged:
        evidence = judgement.evidence
        assert evidence is not None
        setup, circumstances = _setup(judgement), _circumstances(judgement)
        if fault.id != "O28" or circumstances.first_bad:
            setup = fault.change(setup, circumstances)
        supposed = longhand.run(setup, evidence.replay, fault.recipe)
        distance = _numeric_distance if fault.gate == "numeric" else _distance
        worst = max(worst, distance(judgement, supposed))
        if worst > _FAR:
            break  # it is out; the other replays could only say so again
    return worst


def _distance(judgement: Judgement, supposed: Run) -> float:
    """Return the largest distance of any step in float64, in units of its semantic limit."""
    evidence = judgement.evidence
    assert evidence is not None
    return max(
        _largest(judgement.found64[name], value, evidence.oracle[name], evidence.limits[name])
        for name, value in supposed.items()
    )


def _largest(found: Any, supposed: Any, oracle: Any, limits: Any) -> float:
    if found.shape != supposed.shape or not np.array_equal(np.isfinite(found), np.isfinite(supposed)):
        return np.inf
    found, supposed = np.nan_to_num(found, posinf=0, neginf=0), np.nan_to_num(supposed, posinf=0, neginf=0)
    errors = rms_of_steps(found - supposed)
    sizes = np.maximum(rms_of_steps(supposed), 1e-3 * rms_of_steps(oracle))
    with np.errstate(all="ignore"):
        ratios = np.where(errors == 0.0, 0.0, errors / sizes / limits)
    return float(np.max(np.where(np.isnan(ratios), np.inf, ratios)))


def _numeric_distance(judgement: Judgement, supposed: Run) -> float:
    """Return the candidate's error against a hypothesis, such that `EXPLAINS` is what the numeric gate allows."""
    evidence = judgement.evidence
    assert evidence is not None
    unit, _, *limits = PRECISIONS["float32"]
    worst = 0.0
    for name, value in supposed.items():
        errors = gates.float64(judgement.found[name]) - value
        for k in range(evidence.replay.steps):
            noise = _noise(evidence, name, k)
            for measure, known, limit in zip((gates.rms, gates.peak), noise, limits, strict=True):
                allowed = limit * max(known, RHO_FLOOR * unit * measure(value[k]))
                error = measure(errors[k])
                if error > 0.0:
                    worst = max(worst, error / allowed if allowed else np.inf)
    return EXPLAINS * worst


def _noise(evidence: OptimizerEvidence, name: str, k: int) -> Any:
    return evidence.redrawn[step_name(k, name)]


# Hyperparameters from updates -----------------------------------------------------------------------------

# How a hyperparameter is varied: itself, its logarithm, or the logarithm of what is missing to 1.
_SCALES = {
    "lr": "log",
    "eps": "log",
    "betas.0": "missing",
    "betas.1": "missing",
    "alpha": "missing",
    "rho": "missing",
    "momentum": "missing",
    "weight_decay": "itself",
    "dampening": "itself",
    "lr_decay": "itself",
    "momentum_decay": "log",
    "initial_accumulator_value": "itself",
}
_ROUNDS = 40


def _fit(judged: Sequence[Judgement]) -> Explanation | None:
    """Return the hyperparameters that explain the candidate, if the optimizer is right but for them."""
    setup = _setup(judged[0])
    names = [name for name in _SCALES if _option(setup, name) is not None]
    values = np.array([_widened(name, _option(setup, name)) for name in names])
    fitted = _least_squares(judged, names, values)
    candidates = [fitted, *(_rounded(names, fitted, digits) for digits in (2, 3, 4, 6, 8, 10))]
    scored = [(_fit_misfit(judged, names, each), number) for number, each in enumerate(candidates)]
    misfit, number = min(scored)
    if misfit > EXPLAINS:
        return None
    changed = []
    for name, before, after in zip(names, values, candidates[number], strict=True):
        old, new = _narrowed(name, before), _narrowed(name, after)
        if abs(new - old) > max(1e-6 * max(abs(old), abs(new)), 1e-12):  # smaller is rounding
            changed.append(f"{name}={new:.6g} instead of {old:.6g}")
    return Explanation(
        FITTED,
        f"{setup.kind} with {', '.join(changed) or 'the same hyperparameters'}",
        "pass the reference's hyperparameters",
        misfit,
    )


def _option(setup: Setup, name: str) -> float | None:
    option, _, place = name.partition(".")
    value = setup.options.get(option)
    if place:
        value = value[int(place)] if isinstance(value, tuple | list) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if (_SCALES[name] == "log" and value <= 0) or (name == "momentum" and value == 0):
        return None
    return float(value)


def _widened(name: str, value: float | None) -> float:
    assert value is not None
    match _SCALES[name]:
        case "log":
            return float(np.log(value))
        case "missing":
            return float(np.log1p(-min(value, 1 - 1e-12)))
    return value


def _narrowed(name: str, value: float) -> float:
    match _SCALES[name]:
        case "log":
            return float(np.exp(value))
        case "missing":
            return float(-np.expm1(value))
    return float(value)


def _rounded(names: Sequence[str], values: Any, digits: int) -> Any:
    def rounded(name: str, value: float) -> float:
        narrow = _narrowed(name, value)
        if _SCALES[name] == "missing":  # 0.999 is one digit short of 1
            return _widened(name, 1 - float(f"{1 - narrow:.{digits}g}"))
        return (
            _widened(name, float(f"{narrow:.{digits}g}"))
            if _SCALES[name] == "log" and narrow > 0
            else (float(f"{value:.{digits}g}") if abs(value) > 1e-9 else 0.0)
        )

    return np.array([rounded(name, value) for name, value in zip(names, values, strict=True)])


def _with_values(setup: Setup, names: Sequence[str], values: Any) -> Setup:
    options: dict[str, Any] = {}
    betas = list(setup.options.get("betas", ()))
    for name, value in zip(names, values, strict=True):
        option, _, place = name.partition(".")
        if place:
            betas[int(place)] = _narrowed(name, value)
            options[option] = tuple(betas)
        else:
            options[option] = _narrowed(name, value)
    groups = (dataclasses.replace(g, options={**g.options, **options}) for g in setup.groups)
    return dataclasses.replace(setup, groups=tuple(groups))


def _fit_misfit(judged: Sequence[Judgement], names: Sequence[str], values: Any) -> float:
    worst = 0.0
    for judgement in judged:
        assert judgement.evidence is not None
        setup = _with_values(_setup(judgement), names, values)
        supposed = longhand.run(setup, judgement.evidence.replay, FAITHFUL)
        worst = max(worst, _distance(judgement, supposed))
    return worst


def _least_squares(judged: Sequence[Judgement], names: Sequence[str], start: Any) -> Any:
    """Return values that bring the spelled-out optimizer near the candidate: Levenberg and Marquardt's method."""

    def residuals(values: Any) -> Any:
        parts = []
        for judgement in judged:
            assert judgement.evidence is not None
            supposed = longhand.run(
                _with_values(_setup(judgement), names, values), judgement.evidence.replay, FAITHFUL
            )
            for name, value in supposed.items():
                apart = value - judgement.found64[name]
                size = np.maximum(rms_of_steps(judgement.evidence.oracle[name]), 1e-30)
                parts.append((apart / size.reshape(-1, *[1] * (apart.ndim - 1))).ravel())
        return np.nan_to_num(np.concatenate(parts), nan=1e6, posinf=1e6, neginf=-1e6)

    values, damping = start, 1e-3
    current = residuals(values)
    for _ in range(_ROUNDS):
        steps = 1e-6 * np.maximum(np.abs(values), 1e-2)
        columns = [
            (residuals(values + step * unit) - current) / step
            for step, unit in zip(steps, np.eye(len(values)), strict=True)
        ]
        jacobian = np.stack(columns, axis=1)
        before = np.sum(current**2)
        for _ in range(8):
            values, current, better = _try_move(residuals, values, current, jacobian, damping)
            damping *= 0.1 if better else 10
            if better:
                break
        if before - np.sum(current**2) < 1e-12 * before:
            break
    return values


def _try_move(
    residuals: Callable[[Any], Any], values: Any, current: Any, jacobian: Any, damping: float
) -> tuple[Any, Any, bool]:
    """Return values and residuals after one damped move, and whether they are better; else those before."""
    sizes = np.sqrt(np.sum(jacobian**2, axis=0)) + 1e-30
    scaled = np.vstack([jacobian / sizes, np.sqrt(damping) * np.eye(len(values))])
    target = np.concatenate([-current, np.zeros(len(values))])
    move = np.clip(np.linalg.lstsq(scaled, target, rcond=None)[0] / sizes, -1.0, 1.0)
    following = residuals(values + move)
    better = bool(np.sum(following**2) < np.sum(current**2))
    return (values + move, following, True) if better else (values, current, False)
