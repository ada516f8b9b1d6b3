"""The gates, one function each: a quartet of arrays in, a finding (or numbers and a finding) out. NumPy only.

What each gate asks, and where its constants come from, is told in `parity.compare`, which puts them in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from parity.verdict import DIVERGENT, EQUIVALENT, ERROR, INCONCLUSIVE, Element, Sample

Array = np.ndarray[Any, Any]
Zeros = bool | Array  # True: zero everywhere; a mask (broadcast to the tensor): zero where it is True


class Precision(NamedTuple):
    """What a dtype under test is judged by."""

    unit_roundoff: float
    validity: float  # largest relative error of the reference at which the numeric gates mean something
    rho_rms: float
    rho_max: float


PRECISIONS = {
    "float32": Precision(2.0**-24, 0.05, 8.0, 12.0),
    "float16": Precision(2.0**-11, 0.25, 2.0, 3.0),
    "bfloat16": Precision(2.0**-8, 0.25, 2.0, 3.0),
}
# Operands of 11 bits, sums in float32: between two faithful runs as much apart as half precision.
TF32 = Precision(2.0**-11, 0.25, 2.0, 3.0)
TIERS = ("semantic", "numeric")
SEMANTIC_FLOOR = 64.0  # in units of 2^-53; honest pairs reach 0.12 of the limit
SEMANTIC_SLOPE = 16.0
RHO_FLOOR = 4.0  # in units of roundoff of the oracle's size
U64 = 2.0**-53
ROWS = 16.0  # units of 2^-53 of a tensor's size, below which rows are taken for the same
SAMPLED = 200  # elements of a tensor that a report keeps for its plots


class ReferenceError(NamedTuple):
    """How far a reference is from its oracle, as the largest rms and the largest element of several draws."""

    rms: float
    peak: float


class CandidateError(NamedTuple):
    """How far a candidate is from its oracle on most draws: medians of rms and peak, and of the rms in float64."""

    rms: float
    peak: float
    semantic: float


class Finding(NamedTuple):
    """Why a tensor did not pass."""

    verdict: str
    gate: str
    message: str


def passes(value: float, limit: float) -> bool:
    """Compare a number with its limit, as every gate must: False for NaN and for infinities."""
    return bool(np.isfinite(value) and value <= limit)


def rms(values: Array) -> float:
    """Root mean square of a float64 array, scaled so that squares neither overflow nor vanish."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.mean(np.square(values / largest))))


def peak(values: Array) -> float:
    """Largest absolute value."""
    return float(np.max(np.abs(values), initial=0.0))


@dataclass(frozen=True)
class Quartet:
    """The arrays behind one name; those that a comparison was not given are `None`."""

    candidate: Array | None
    reference: Array | None
    oracle: Array | None
    candidate64: Array | None
    kind: str = "output"
    zeros: Zeros = False
    batch_axis: int | None = None
    redrawn: ReferenceError | None = None
    contract: Precision | None = None  # in place of the one that the dtype implies
    usual: CandidateError | None = None  # where a candidate was drawn again

    @property
    def present(self) -> dict[str, Array]:
        """The arrays given, by role, the most trusted first."""
        names = ("oracle", "reference", "candidate64", "candidate")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def expected(self) -> Array:
        """What the structure is measured by."""
        return next(iter(self.present.values()))

    @property
    def subject(self) -> Array:
        """The candidate in the precision under test, or in the only one it was given in."""
        array = self.candidate if self.candidate is not None else self.candidate64
        assert array is not None
        return array

    @cached_property
    def finite(self) -> Array:
        """Where the oracle is finite; errors are measured there."""
        return np.isfinite(float64(self.expected))

    @property
    def precision(self) -> Precision | None:
        """The precision under test; `None` where there is nothing below float64."""
        if self.reference is None:
            return None
        return self.contract or PRECISIONS.get(self.reference.dtype.name)

    @property
    def exact(self) -> bool:
        """True for arrays that are not measured but must be equal."""
        return self.kind == "param" or not is_float(self.expected)

    @property
    def time_axis(self) -> int | None:
        """The axis of steps, where the batch's tells: a sequence is [B, T, ...] or [T, B, ...]."""
        is_sequence = self.kind == "output" and self.expected.ndim == 3 and self.batch_axis in (0, 1)
        return 1 - self.batch_axis if is_sequence and self.batch_axis is not None else None

    def size(self, measure: Callable[[Array], float] = rms) -> float:
        """Size of the oracle where it is finite."""
        return measure(float64(self.expected)[self.finite])

    def error(self, array: Array, measure: Callable[[Array], float] = rms) -> float:
        """Size of an array's distance from the oracle, where the oracle is finite."""
        return measure(float64(array)[self.finite] - float64(self.expected)[self.finite])

    def mean_error(self, array: Array) -> float:
        """Signed mean of an array's distance from the oracle, where the oracle is finite."""
        return float(np.mean(float64(array)[self.finite] - float64(self.expected)[self.finite]))

    @cached_property
    def noise(self) -> ReferenceError:
        """The reference's own error, the largest of all draws; zero where the oracle is all there is."""
        if self.reference is None or self.oracle is None:
            return ReferenceError(0.0, 0.0)
        draws = [ReferenceError(self.error(self.reference), self.error(self.reference, peak))]
        draws += [] if self.redrawn is None else [self.redrawn]
        return ReferenceError(*(float(np.max(values)) for values in zip(*draws, strict=True)))  # NaN stays

    @property
    def reference_error(self) -> float:
        """The reference's own error, relative to the oracle's size."""
        return self.noise.rms / self.size()


def structure(q: Quartet) -> Finding | None:
    """Ask for the same shape and kind of number everywhere, and for the same dtype under test."""
    for who, array in q.present.items():
        if not _is_number(array):
            message = f"{who}: dtype {array.dtype} cannot be judged; give real numbers, integers or booleans"
            return Finding(ERROR, "structure", message)
    expected = q.expected
    for who, array in q.present.items():
        if array.shape != expected.shape:
            message = f"{who}: shape {array.shape}, expected {expected.shape}"
            return Finding(DIVERGENT, "structure", message)
        if _kind(array) != _kind(expected):
            message = f"{who}: dtype {array.dtype}, expected {_kind(expected)} as {expected.dtype}"
            return Finding(DIVERGENT, "structure", message)
    both_given = q.candidate is not None and q.reference is not None
    if both_given and is_float(expected) and q.candidate.dtype != q.reference.dtype:  # type: ignore[union-attr]
        message = f"dtype {q.candidate.dtype}, expected {q.reference.dtype}"  # type: ignore[union-attr]
        return Finding(DIVERGENT, "structure", message)
    return None


def non_finite(q: Quartet) -> Finding | None:
    """NaN, +inf and -inf must stand where the oracle has them, each compared by itself."""
    if not is_float(q.expected):
        return None
    blame = {"candidate64": DIVERGENT, "reference": INCONCLUSIVE, "candidate": DIVERGENT}
    expected = float64(q.expected)
    for who, verdict in blame.items():
        if who not in q.present:
            continue
        actual = float64(q.present[who])
        for what, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
            wrong = np.argwhere(test(actual) != test(expected))
            if len(wrong):
                index = tuple(int(i) for i in wrong[0])
                message = (
                    f"{what} in {len(wrong)} places of one side only, first at {list(index)}: "
                    f"{who} has {actual[index]:.6g}, the oracle {expected[index]:.6g}"
                )
                if verdict == INCONCLUSIVE:
                    message += "; the probe leaves the range of the reference's dtype: use a smaller scale"
                return Finding(verdict, "non-finite", message)
    return None


def exact(q: Quartet) -> dict[str, Any]:
    """Ask for equality of every element, in the precision under test and in float64."""
    measured, oracle = (
        first if first is not None else second
        for first, second in ((q.reference, q.oracle), (q.oracle, q.reference))
    )
    for actual, expected in ((q.candidate, measured), (q.candidate64, oracle)):
        if actual is None or expected is None:
            continue
        both_nan = np.isnan(float64(actual)) & np.isnan(float64(expected))
        wrong = np.argwhere(~((actual == expected) | both_nan))
        if not len(wrong):
            continue
        first = _element(q, wrong[0])
        message = f"{len(wrong)} of {actual.size} elements differ; this kind of array must be exactly equal"
        if q.kind == "param":
            message += "; copy the weights with parity.port(reference, candidate)"
        return {"verdict": DIVERGENT, "gate": "structure", "message": message, "first": first, "worst": first}
    return {"verdict": EQUIVALENT}


def declared_zero(q: Quartet) -> Finding | None:
    """Ask for exact zeros where the probe declares them; a declaration that the oracle contradicts is an error."""
    if q.zeros is False:
        return None
    try:
        region = np.broadcast_to(np.asarray(q.zeros, bool), q.expected.shape)
    except ValueError:
        shape = np.shape(q.zeros)
        message = f"the mask of declared zeros has shape {shape}, the tensor {q.expected.shape}"
        return Finding(ERROR, "vacuity", message)
    for who, array in q.present.items():
        if np.any(float64(array)[region]):
            if who in ("oracle", "reference"):
                message = f"declared zero by the probe, but the {who} is not: correct the declaration"
                return Finding(ERROR, "vacuity", message)
            index = tuple(int(i) for i in np.argwhere(region & (float64(array) != 0))[0])
            message = f"must be exactly zero, but {who} has {float(array[index]):.6g} at {list(index)}"
            return Finding(DIVERGENT, "zeros", message)
    return None


def vacuity(q: Quartet) -> Finding | None:
    """Ask whether the oracle can tell a right candidate from a wrong one at all."""
    declared = bool(np.all(q.zeros))
    if q.expected.size == 0 and not declared:
        return Finding(INCONCLUSIVE, "vacuity", "no elements: nothing was tested")
    if not np.any(float64(q.expected)):
        others = {who: bool(np.any(float64(array))) for who, array in q.present.items()}
        if others.get("reference"):
            return Finding(INCONCLUSIVE, "validity", "the oracle is zero, the reference only rounds to it")
        if others.get("candidate") or others.get("candidate64"):
            return Finding(DIVERGENT, "zeros", "the oracle is zero everywhere, the candidate is not")
        if declared:
            return None
        remedy = "change the probe, or declare it: Probe(zeros={name: True})"
        return Finding(INCONCLUSIVE, "vacuity", f"zero everywhere: nothing was tested; {remedy}")
    axis = q.batch_axis
    if axis is not None and q.expected.shape[axis] > 1:
        first_row = np.take(q.expected, [0], axis=axis)
        if _same(first_row, q.expected):
            message = "the same for every row of the batch: a mixed-up batch would pass; change the inputs"
            return Finding(INCONCLUSIVE, "vacuity", message)
    return None


def _same(row: Array, rows: Array) -> bool:
    """Tell whether all rows are one, up to the last bits: a matrix product need not round equal rows alike."""
    row, rows = float64(row), float64(rows)
    with np.errstate(invalid="ignore"):  # inf - inf, which is near nothing
        near = np.abs(rows - row) <= ROWS * U64 * rms(rows[np.isfinite(rows)])
    return bool(np.all(near | (rows == row) | (np.isnan(rows) & np.isnan(row))))


def validity(q: Quartet) -> Finding | None:
    """Ask whether the reference is near enough to its oracle for errors to be compared."""
    if q.size() == 0.0:
        return Finding(INCONCLUSIVE, "validity", "no finite element other than zero: nothing can be measured")
    if q.precision is not None and q.oracle is not None:
        limit = q.precision.validity
        if not passes(q.reference_error, limit):
            message = (
                f"the reference itself is {q.reference_error:.2g} from its oracle (limit {limit}): the probe is "
                "ill-conditioned; use another seed, fewer steps or smaller weights"
            )
            return Finding(INCONCLUSIVE, "validity", message)
    return None


def semantic(q: Quartet) -> tuple[dict[str, Any], Finding | None]:
    """Compare in float64; returns the numbers of this tier (none where it is not possible) and what is wrong."""
    if q.oracle is None or q.candidate64 is None:
        return {}, None
    if q.candidate64.dtype != np.float64:
        message = (
            f"asked to compute in float64, the candidate answers in {q.candidate64.dtype}: the semantic tier is "
            "not possible; let its dtype follow its inputs (dtype=None)"
        )
        return {}, Finding(INCONCLUSIVE, "semantic", message)
    error = q.error(q.candidate64)
    error = (error if q.usual is None else min(error, q.usual.semantic)) / q.size()
    limit = semantic_limit(q)
    numbers = {"semantic_error": error, "semantic_limit": limit, "semantic_sensitivity": limit + error}
    if passes(error, limit):
        return numbers, None
    return numbers, Finding(DIVERGENT, "semantic", "differs in float64: not the same function")


def semantic_limit(q: Quartet) -> float:
    """Return how far from the oracle, relative to its size, the same function may be in float64."""
    kappa = q.reference_error / q.precision.unit_roundoff if q.precision else 0.0
    return max(SEMANTIC_FLOOR, SEMANTIC_SLOPE * kappa) * U64


def numeric(q: Quartet) -> tuple[dict[str, Any], Finding | None]:
    """Compare the candidate's error with the reference's; returns numbers and finding as `semantic` does."""
    if q.candidate is None or q.reference is None or q.oracle is None or q.precision is None:
        return {}, None
    unit, _, *limits = q.precision
    rhos, denominators = [], []
    usual = (np.inf, np.inf) if q.usual is None else q.usual[:2]
    for measure, noise, drawn_again in zip((rms, peak), q.noise, usual, strict=True):
        denominators.append(max(noise, RHO_FLOOR * unit * q.size(measure)))
        rhos.append(min(q.error(q.candidate, measure), drawn_again) / denominators[-1])
    numbers = {
        "rho_rms": rhos[0],
        "rho_max": rhos[1],
        "rho_limits": (limits[0], limits[1]),
        "bias": q.mean_error(q.candidate) / (unit * q.size()),
        "reference_error": q.reference_error / unit,
        "numeric_sensitivity": (limits[0] * denominators[0] + q.error(q.candidate)) / q.size(),
    }
    if all(passes(rho, limit) for rho, limit in zip(rhos, limits, strict=True)):
        return numbers, None
    message = f"less accurate in {q.candidate.dtype} than the reference"
    return numbers, Finding(DIVERGENT, "numeric", message)


def no_tier(q: Quartet) -> Finding:
    """Say what makes a verdict possible; how far the two are apart is told, not judged."""
    needed = [
        f"{name}= ({whose} in float64)"
        for name, whose, array in (
            ("oracle", "the reference", q.oracle),
            ("candidate64", "the candidate", q.candidate64),
        )
        if array is None
    ]
    scale = q.size()
    apart = f"relative difference {q.error(q.subject) / scale:.2g}" if scale else "the reference is zero"
    message = f"neither tier is possible without {' and '.join(needed)}: pass it; {apart}"
    return Finding(INCONCLUSIVE, "tiers", message)


def where(q: Quartet, gate: str) -> dict[str, Any]:
    """Find the first and the furthest element outside the limit that was broken."""
    expected = float64(q.expected)
    if gate == "semantic":
        assert q.candidate64 is not None
        found, limit = float64(q.candidate64), semantic_limit(q) * q.size()
    else:
        assert q.candidate is not None
        assert q.precision is not None
        unit, _, _, rho_max = q.precision
        found = float64(q.candidate)
        limit = rho_max * max(q.noise.peak, RHO_FLOOR * unit * q.size(peak))
    distance = np.abs(np.subtract(found, expected, where=q.finite, out=np.zeros(expected.shape)))
    furthest = np.unravel_index(int(np.argmax(distance)), distance.shape)
    outside = np.argwhere(distance > limit)
    return {
        "first": _element(q, outside[0] if len(outside) else furthest),
        "worst": _element(q, furthest),
    }


def _element(q: Quartet, index: Any) -> Element:
    place = tuple(int(i) for i in index)

    def value(array: Array | None) -> float | None:
        return None if array is None else float(array[place])

    return Element(place, float(q.subject[place]), value(q.reference), value(q.oracle))


def sample(q: Quartet) -> Sample | None:
    """Return elements and their errors in the precision under test; `None` where one of the sides is missing."""
    if q.candidate is None or q.reference is None or q.oracle is None:
        return None
    oracle = float64(q.oracle)
    places = q.finite & (oracle != 0.0)
    errors = [
        np.abs(np.where(q.finite, float64(array), 0.0) - np.where(q.finite, oracle, 0.0))
        for array in (q.candidate, q.reference)
    ]
    picked = _spread(np.abs(oracle[places]), errors[0][places])
    columns = [array[places][picked].tolist() for array in (np.abs(oracle), *errors)]
    steps = [_rms_by_step(array, places, q.time_axis) for array in errors]
    return Sample(*map(tuple, (*columns, *steps)))


def _spread(sizes: Array, errors: Array) -> Array:
    """Return indices of at most `SAMPLED` elements, evenly by rank of size, the one with the largest error too."""
    ranks = np.linspace(0, len(sizes) - 1, min(len(sizes), SAMPLED - 1)).round().astype(int)
    chosen = np.argsort(sizes, kind="stable")[ranks]
    return np.union1d(chosen, np.argmax(errors) if len(errors) else []).astype(int)


def _rms_by_step(errors: Array, places: Array, axis: int | None) -> list[float]:
    """Return the rms error of each step over the rows that have not ended; those that have are zeros."""
    if axis is None:
        return []
    by_step = (np.moveaxis(array, axis, 0) for array in (errors, places))
    return [rms(step[going]) for step, going in zip(*by_step, strict=True) if going.any()]


def float64(array: Array) -> Array:
    """Widen without loss."""
    return np.asarray(array).astype(np.float64)


def is_float(array: Array) -> bool:
    """Tell whether an array holds floating point numbers, bfloat16 included (NumPy itself takes it for a void)."""
    return array.dtype.kind == "f" or array.dtype.name in PRECISIONS


def _is_number(array: Array) -> bool:
    return is_float(array) or array.dtype.kind in "iub"


def _kind(array: Array) -> str:
    """Name the kind of number; the width of an integer is no difference (int32 in JAX is int64 in torch)."""
    if is_float(array):
        return "float"
    return "boolean" if array.dtype.kind == "b" else "integer"
