"""Explanations without a hypothesis: the number that makes a fault fit, and simple relations between arrays.

`fits` solves for the number in a family of faults (`faults.fitted`): an eps, a scale, a slope. `relations` needs
to know nothing of the model: it asks whether what the candidate answers is a simple function of what it should,
twice as large, flipped, rolled by one, its blocks in another order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity import gates
from parity.explaining.misfit import Answer, Limits, misfit
from parity.faults.fitted import FAMILIES, Fitted, own_value
from parity.gates import Array
from parity.running import torch_side
from parity.trace import AMPLIFYING
from parity.verdict import EXPLAINS, Explanation

FEWEST = 12  # wrong elements of which one can say that their errors follow no pattern
LARGEST_ROLL = 64  # steps by which an axis is tried to be rolled


# The number that explains a candidate ------------------------------------------------------------------------


def fits(answers: Sequence[Answer]) -> list[Explanation]:
    """Return the families of faults of which one member, with its number, explains every answer."""
    evidence = answers[0].evidence
    possible = (family for family in FAMILIES if evidence.functions.intersection(family.functions))
    found = [_fit(family, answers) for family in possible]
    return [explanation for explanation in found if explanation is not None]


def _fit(family: Fitted, answers: Sequence[Answer]) -> Explanation | None:
    from scipy import optimize

    clearest = max(answers, key=_distance_from_oracle)

    def residuals(place: Any) -> Array:
        return _residuals(family, clearest, family.decoded(float(np.squeeze(place))))

    grid = family.grid
    sizes = [gates.rms(residuals(place)) for place in grid]
    if not np.isfinite(sizes).any():
        return None
    best = grid[int(np.nanargmin(sizes))]
    if not family.stepwise:
        bounds, exact = ([grid[0]], [grid[-1]]), 1e-15
        solved = optimize.least_squares(
            residuals, [best], bounds=bounds, diff_step=1e-7, xtol=exact, ftol=exact, gtol=exact, max_nfev=30
        )
        best = float(solved.x[0])
    value = _shortest(family, answers, family.decoded(best))
    distance = _misfit(family, answers, value)
    if not distance <= EXPLAINS:
        return None
    own = own_value(family, answers[0].evidence.answer)
    instead = "" if own is None else f" instead of {own:g}"
    return Explanation(family.id, f"{family.what} is {value:g}{instead}", family.fix, distance)


def _residuals(family: Fitted, answer: Answer, value: float) -> Array:
    """Return how far the hypothesis is from the candidate, each array in units of its size."""
    supposed = _supposed(family, answer, value)
    found = answer.candidate.of_kind(*AMPLIFYING)
    parts = []
    for name, array in found.items():
        other = supposed.get(name)
        if other is None or other.shape != array.shape:
            return np.full(1, np.inf)
        places = np.isfinite(array) & np.isfinite(other)
        scale = gates.rms(array[places]) or 1.0
        parts.append((other[places] - array[places]) / scale / math.sqrt(max(1, array.size)))
    return np.concatenate([part.ravel() for part in parts])


def _supposed(family: Fitted, answer: Answer, value: float) -> Mapping[str, Array]:
    evidence = answer.evidence
    try:
        trace = torch_side.run(family.make(value).plant(evidence.model), evidence.probe, "float64")
    except Exception:  # such a number may well be impossible; then it is not the explanation
        return {}
    return trace.of_kind(*AMPLIFYING)


def _misfit(family: Fitted, answers: Sequence[Answer], value: float) -> float:
    return max(misfit(answer, _supposed(family, answer, value)) for answer in answers)


def _shortest(family: Fitted, answers: Sequence[Answer], value: float) -> float:
    """Return the number with the fewest digits that explains as well: 3e-4 rather than 0.00029999999999982."""
    for digits in range(1, 8):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) < 1e-6 * abs(value) and _misfit(family, answers, rounded) <= EXPLAINS:
            return rounded
    return value


def _distance_from_oracle(answer: Answer) -> float:
    distance = misfit(answer, answer.evidence.oracle.of_kind(*AMPLIFYING))
    return distance if np.isfinite(distance) else -1.0


# Relations between what is and what should be ------------------------------------------------------------------


class Relation(NamedTuple):
    """How one array follows from another: `id` of the kind, in words, and the array that would follow."""

    id: str
    words: str
    supposed: Array


def relations(answers: Sequence[Answer]) -> list[Explanation]:
    """Return the relations that hold for every array that differs, on every probe; outputs before gradients.

    Where outputs differ, gradients are what follows, and are not asked.
    """
    for kinds in (("output", "state"), ("grad",)):
        wrong = _differing(answers, kinds)
        if wrong:
            return _holding_everywhere(answers, wrong)
    return []


def _differing(answers: Sequence[Answer], kinds: tuple[str, ...]) -> list[str]:
    names = dict.fromkeys(name for answer in answers for name in answer.candidate.of_kind(*kinds))
    return [name for name in names if any(_differs(answer, name) for answer in answers)]


def _differs(answer: Answer, name: str) -> bool:
    oracle = answer.evidence.oracle.get(name)
    return oracle is not None and not _distance(answer, name, oracle) <= EXPLAINS


def _distance(answer: Answer, name: str, supposed: Array) -> float:
    return Limits(answer.evidence).distance(name, answer.candidate[name], supposed)


def _holding_everywhere(answers: Sequence[Answer], names: Sequence[str]) -> list[Explanation]:
    """Return one explanation per relation, with the arrays it explains; none where an array is left unexplained."""
    explained: dict[tuple[str, str], dict[str, float]] = {}
    for name in names:
        held = [dict(_holding(answer, name)) for answer in answers if _differs(answer, name)]
        for key in held[0]:
            if all(key in others for others in held):
                explained.setdefault(key, {})[name] = max(others[key] for others in held)
    chosen: list[Explanation] = []
    open_names = set(names)
    for (id, words), found in sorted(
        explained.items(), key=lambda item: -len(item[1])
    ):  # the simplest of equals
        if open_names & set(found):
            open_names -= set(found)
            chosen.append(Explanation(id, f"{', '.join(found)}: {words}", _FIXES[id], max(found.values())))
    return [] if open_names else chosen


def _holding(answer: Answer, name: str) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield the relations of one array on one probe, with their misfits; of each kind the first."""
    found, oracle = answer.candidate[name], answer.evidence.oracle[name]
    if not (np.isfinite(found).all() and np.isfinite(oracle).all()):
        return
    found, oracle = gates.float64(found), gates.float64(oracle)
    seen = set()
    for relation in _relations(found, oracle):
        distance = _distance(answer, name, relation.supposed)
        if distance <= EXPLAINS and relation.id not in seen:
            seen.add(relation.id)
            yield (relation.id, relation.words), distance


def _relations(found: Array, oracle: Array) -> Iterator[Relation]:
    """Yield what could relate two arrays, the simplest first."""
    if found.shape == oracle.shape:
        yield from _scaled(found, oracle)
        yield from _elementwise(found, oracle)
        yield from _moved(oracle)
        yield from _permuted(found, oracle)
        yield from _rounded(found, oracle)
    yield from _other_axes(found, oracle)
    yield from _reduced(found, oracle)
    yield from _normalised(found, oracle)


def _scaled(found: Array, oracle: Array) -> Iterator[Relation]:
    power = float(np.vdot(oracle, oracle))
    if power == 0.0 or found.size < 2:
        return
    factor = float(np.vdot(oracle, found)) / power
    if abs(factor + 1.0) < 1e-9:
        yield Relation("R-sign", "the opposite sign", -oracle)
    else:
        yield Relation("R-scale", f"{_in_words(factor, oracle.shape)} times the reference's", factor * oracle)
    offset = float(np.mean(found - oracle))
    yield Relation("R-offset", f"the reference's plus {offset:.6g}", oracle + offset)
    design = np.stack([oracle.ravel(), np.ones(oracle.size)], axis=1)
    (slope, constant), *_ = np.linalg.lstsq(design, found.ravel(), rcond=None)
    words = f"{_in_words(slope, oracle.shape)} times the reference's plus {constant:.6g}"
    yield Relation("R-affine", words, slope * oracle + constant)


def _in_words(factor: float, shape: tuple[int, ...]) -> str:
    """Return a factor as what it is likely to be: 1/2, sqrt(7), 5/4."""
    sizes = [size for size in dict.fromkeys((*shape, math.prod(shape))) if size > 1]
    known = {2.0: "2", 0.5: "1/2"}
    for size in sizes:
        root = math.sqrt(size)
        known |= {float(size): f"{size}", 1.0 / size: f"1/{size}"}
        known |= {size / (size - 1.0): f"{size}/{size - 1}", (size - 1.0) / size: f"{size - 1}/{size}"}
        if root != round(root):
            known |= {root: f"sqrt({size})", 1.0 / root: f"1/sqrt({size})"}
    return next(
        (word for value, word in known.items() if abs(factor - value) < 1e-9 * value), f"{factor:.6g}"
    )


def _elementwise(found: Array, oracle: Array) -> Iterator[Relation]:
    """Yield functions that one side applies at the end and the other does not."""
    with np.errstate(all="ignore"):
        yield Relation("R-function", "tanh of the reference's", np.tanh(oracle))
        yield Relation("R-function", "sigmoid of the reference's", 1.0 / (1.0 + np.exp(-oracle)))
        yield Relation("R-function", "softmax of the reference's", _softmax(oracle))
        yield Relation("R-function", "logarithm of the softmax of the reference's", np.log(_softmax(oracle)))
        yield Relation("R-function", "logarithm of the reference's", np.log(oracle))
        yield Relation("R-function", "exponential of the reference's", np.exp(oracle))
        yield Relation("R-function", "what the reference takes the tanh of", np.arctanh(oracle))
        yield Relation(
            "R-function", "what the reference takes the sigmoid of", np.log(oracle / (1.0 - oracle))
        )
        yield Relation("R-function", "absolute value of the reference's", np.abs(oracle))


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(-1, keepdims=True)) if values.ndim else values
    return powers / powers.sum(-1, keepdims=True) if values.ndim else values


def _moved(oracle: Array) -> Iterator[Relation]:
    for axis, size in enumerate(oracle.shape):
        if size > 2:
            yield Relation("R-flip", f"axis {axis} reversed", np.flip(oracle, axis))
            for step in itertools.chain.from_iterable(
                (n, -n) for n in range(1, min(size // 2, LARGEST_ROLL) + 1)
            ):
                yield Relation("R-roll", f"axis {axis} rolled by {step}", np.roll(oracle, step, axis))


def _permuted(found: Array, oracle: Array) -> Iterator[Relation]:
    from scipy.optimize import linear_sum_assignment

    for axis, size in enumerate(oracle.shape):
        if not 1 < size <= 1024:
            continue
        ours, theirs = (np.moveaxis(array, axis, 0).reshape(size, -1) for array in (found, oracle))
        apart = np.square(ours).sum(1)[:, None] + np.square(theirs).sum(1)[None, :] - 2.0 * ours @ theirs.T
        _, order = linear_sum_assignment(apart)
        if not np.array_equal(order, np.arange(size)):
            yield Relation(
                "R-order", f"axis {axis} in the order {_blocks(order)}", np.take(oracle, order, axis)
            )


def _blocks(order: Array) -> str:
    """Return a permutation in words: that of its blocks where it moves blocks."""
    size = len(order)
    for count in (n for n in range(2, size) if size % n == 0):
        blocks = order.reshape(count, -1)
        if np.array_equal(np.diff(blocks, axis=1), np.ones_like(blocks[:, 1:])) and size // count > 1:
            return f"{(blocks[:, 0] // (size // count)).tolist()} of {count} blocks"
    return str(order.tolist()) if size <= 16 else f"{order[:16].tolist()} ..."


def _rounded(found: Array, oracle: Array) -> Iterator[Relation]:
    """Yield a computation in a type that does not follow the inputs: its error is that type's roundoff."""
    size, difference = gates.rms(oracle), found - oracle
    error = gates.rms(difference) / size if size else math.inf
    if not _is_without_pattern(difference, oracle):
        return
    for name, unit in (("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        if unit / 8.0 <= error <= 8.0 * unit:
            words = f"errors without a pattern, of the size that {name} gives"
            yield Relation("N08-float32" if name == "float32" else "N08-half", words, found)


def _is_without_pattern(error: Array, oracle: Array) -> bool:
    """Tell whether errors look rounded: of either sign, and neither towards zero nor away from it throughout."""
    wrong = error != 0.0
    if int(wrong.sum()) < FEWEST:
        return False
    upwards, outwards = np.mean(error[wrong] > 0.0), np.mean((error * oracle)[wrong] > 0.0)
    # XLA's float32 tanh, saturated, is wrong towards zero in 94 elements of 100.
    return bool(0.25 <= upwards <= 0.75 and 0.02 <= outwards <= 0.98)


def _other_axes(found: Array, oracle: Array) -> Iterator[Relation]:
    if oracle.ndim > 4:
        return
    for axes in itertools.permutations(range(oracle.ndim)):
        turned = np.transpose(oracle, axes)
        if axes != tuple(range(oracle.ndim)) and turned.shape == found.shape:
            yield Relation("R-axes", f"axes in the order {list(axes)}", turned)


def _reduced(found: Array, oracle: Array) -> Iterator[Relation]:
    for axis in range(oracle.ndim):
        for words, reduced in (
            (f"the mean over axis {axis}", oracle.mean(axis)),
            (f"the sum over axis {axis}", oracle.sum(axis)),
            (f"the last of axis {axis}", np.take(oracle, -1, axis)),
            (f"the first of axis {axis}", np.take(oracle, 0, axis)),
        ):
            if reduced.shape == found.shape:
                yield Relation("R-reduced", words, reduced)


def _normalised(found: Array, oracle: Array) -> Iterator[Relation]:
    """Yield a softmax over another axis: both are shares of a whole, but of different ones."""
    if found.shape != oracle.shape or np.any(found < 0.0) or np.any(oracle < 0.0):
        return
    ours, theirs = _axis_of_ones(found), _axis_of_ones(oracle)
    if ours is not None and theirs is not None and ours != theirs:
        yield Relation("R-softmax", f"sums to one along axis {ours}, the reference along {theirs}", found)


def _axis_of_ones(array: Array) -> int | None:
    sums = (
        axis for axis in reversed(range(array.ndim)) if np.allclose(array.sum(axis), 1.0, rtol=0, atol=1e-12)
    )
    return next(sums, None)


_FIXES = {
    "R-sign": "look for a missing minus",
    "R-scale": "look for a mean that should be a sum, or a missing factor",
    "R-offset": "look for a constant that only one side adds",
    "R-affine": "look for a scaling that only one side has",
    "R-function": "apply the last function on both sides or on neither",
    "R-flip": "flip the axis back",
    "R-roll": "look for an index that is off by one",
    "R-order": "reorder the axis: the rows of weights may be in another order",
    "N08-float32": "let the dtype follow the inputs: an array or a cast is float32 whatever they are",
    "N08-half": "let the dtype follow the inputs: an array or a cast has half precision whatever they are",
    "R-axes": "transpose the result",
    "R-reduced": "return the whole array",
    "R-softmax": "softmax over the reference's axis",
}
