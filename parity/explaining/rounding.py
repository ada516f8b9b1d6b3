"""Names what makes a candidate less accurate than the reference, where in float64 both are the same function.

A hypothesis is a loss of precision (`faults.numerics.NUMERIC`). Where the candidate's very errors follow from it,
the candidate must be several times nearer to the reference with this loss than to the exact one: rounding a
product's operands gives errors thousands of times larger than float32's own, and they are the same errors on both
sides but for a few operands that lie between two numbers. Where only their size follows, sizes must agree within a
factor of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parity import gates
from parity.faults.numerics import NUMERIC, Numeric
from parity.gates import Array
from parity.longhand.torch_modules import recurrent_parts
from parity.oracle.evidence import Evidence
from parity.running import torch_side
from parity.trace import Trace
from parity.verdict import EXPLAINS, Diagnosis, Explanation, TensorResult
from parity.weighing import Judgement

NEARER = (
    4.0  # times nearer to the hypothesis than to the oracle; the right one is 10 to 1000 times, others once
)
SIMILAR = 2.0  # octaves between two sizes of error
# What one matrix product of rounded operands does to its result, relative to its size.
SIZES = (("N09", "TF32 or float16", 2.0**-14, 2.0**-10), ("N10", "bfloat16", 2.0**-10, 2.0**-6))

_DTYPE = "cast the other operand, or use a Python number: a NumPy scalar widens bfloat16 to float32 in JAX"
_PRECISION = "jax.default_matmul_precision('highest'), or precision= of the layer"


class _Answer(NamedTuple):
    """What one probe says: the candidate in the precision under test, and the tensors that are too inaccurate."""

    evidence: Evidence
    trace: Trace
    inaccurate: tuple[str, ...]


def diagnose_numeric(judgements: Sequence[Judgement]) -> Diagnosis | None:
    """Return what explains a lack of accuracy or a wrong dtype; None where there is neither."""
    widened = _dtypes(judgements)
    if widened is not None:
        return Diagnosis((widened,), None, 1)
    answers = [answer for answer in map(_answer, judgements) if answer is not None and answer.inaccurate]
    if not answers:
        return None
    found = [_explanation(numeric, answers) for numeric in NUMERIC if _possible(numeric, answers[0].evidence)]
    found.sort(key=lambda explanation: explanation.misfit)
    explaining = tuple(explanation for explanation in found if explanation.misfit <= EXPLAINS)
    others = [explanation for explanation in found if explanation not in explaining]
    if not explaining:
        explaining = tuple(_by_size(answers))
    return Diagnosis(explaining, others[0] if others else None, len(found))


def _answer(judgement: Judgement) -> _Answer | None:
    if judgement.evidence is None or judgement.trace is None:
        return None
    names = tuple(tensor.name for tensor in judgement.comparison.tensors if _is_inaccurate(tensor))
    return _Answer(judgement.evidence, judgement.trace, names)


def _is_inaccurate(tensor: TensorResult) -> bool:
    pairs = zip((tensor.rho_rms, tensor.rho_max), tensor.rho_limits or (), strict=False)
    return any(rho is not None and not gates.passes(rho, limit) for rho, limit in pairs)


def _possible(numeric: Numeric, evidence: Evidence) -> bool:
    called = evidence.functions.intersection(numeric.substitution.functions)
    return bool(called or recurrent_parts(evidence.model))


def _explanation(numeric: Numeric, answers: Sequence[_Answer]) -> Explanation:
    if numeric.pointwise:
        nearness = float(np.median([n for answer in answers for n in _nearness(numeric, answer)] or [np.inf]))
        times = f"{1.0 / nearness:.0f}" if nearness else "infinitely many"
        words = f"{numeric.name}; {times} times nearer to it than to the exact reference"
        misfit = EXPLAINS * NEARER * nearness
    else:
        octaves = float(np.max([o for answer in answers for o in _octaves(numeric, answer)] or [np.inf]))
        words = f"{numeric.name}; errors of the same size within a factor of {2.0**octaves:.1f}"
        misfit = EXPLAINS * octaves / SIMILAR
    return Explanation(numeric.id, words, numeric.fix, misfit)


def _nearness(numeric: Numeric, answer: _Answer) -> list[float]:
    """Return, per inaccurate tensor, the distance from the hypothesis over that from the oracle."""
    supposed = _run(numeric, answer.evidence, "float64")
    return [
        _distance(answer.trace[name], supposed[name])
        / _distance(answer.trace[name], answer.evidence.oracle[name])
        if name in supposed
        else np.inf
        for name in answer.inaccurate
    ]


def _octaves(numeric: Numeric, answer: _Answer) -> list[float]:
    """Return, per inaccurate tensor, by how many octaves its error differs from the hypothesis's."""
    supposed = _run(numeric, answer.evidence, answer.evidence.probe.dtype)
    found = []
    for name in answer.inaccurate:
        oracle = answer.evidence.oracle[name]
        sizes = [_distance(array, oracle) for array in (answer.trace[name], supposed.get(name, oracle))]
        found.append(abs(float(np.log2(sizes[0] / sizes[1]))) if min(sizes) > 0.0 else np.inf)
    return found


def _run(numeric: Numeric, evidence: Evidence, dtype: str) -> Any:
    try:
        return torch_side.run(numeric.plant(evidence.model), evidence.probe, dtype)
    except Exception:  # a model that cannot be spelled out cannot have its products rounded
        return {}


def _distance(array: Array, other: Array) -> float:
    array, other = gates.float64(array), gates.float64(other)
    places = np.isfinite(array) & np.isfinite(other)
    return gates.rms(array[places] - other[places])


def _by_size(answers: Sequence[_Answer]) -> list[Explanation]:
    """Return the loss whose size the errors of the outputs have, where none fits them one by one."""
    errors = [
        _distance(answer.trace[name], answer.evidence.oracle[name])
        / gates.rms(gates.float64(answer.trace[name]))
        for answer in answers
        for name in answer.inaccurate
        if answer.trace.kinds[name] != "grad"
    ]
    if not errors:
        return []
    error = float(np.median(errors))
    return [
        Explanation(
            id, f"errors of {error:.0e}, the size that operands in {words} give", _PRECISION, EXPLAINS
        )
        for id, words, low, high in SIZES
        if low <= error < high
    ]


def _dtypes(judgements: Sequence[Judgement]) -> Explanation | None:
    """Return the first answer whose dtype is not the reference's."""
    for judgement in judgements:
        if judgement.evidence is None or judgement.trace is None:
            continue
        for name, expected in judgement.evidence.measured.of_kind("output", "state").items():
            found = judgement.trace.get(name)
            if found is not None and gates.is_float(found) and found.dtype != expected.dtype:
                words = f"{name} is {found.dtype}, the reference's {expected.dtype}: promoted on the way"
                return Explanation("N08", words, _DTYPE, 0.0)
    return None
