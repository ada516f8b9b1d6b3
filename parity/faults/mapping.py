"""Mistakes in carrying weights over: what a candidate's own parameters are, compared with what they should be.

Nothing is run: each parameter that differs is held against every parameter of the reference, whole, by
gates, transposed, rounded, scaled.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from parity.gates import Array, float64, rms
from parity.verdict import Explanation

GATES = {4: "ifgo", 3: "rzn"}
ORDERS = {"iofg": "L01", "igfo": "L02", "figo": "L03", "zrn": "G01"}
NOTES = {"iofg": " (ONNX)", "igfo": " (TensorFlow's i, j, f, o)", "zrn": " (Keras, ONNX)"}
CLOSE = 1e-6  # relative: what is left of float32 after a sum or a product
_LAYER = re.compile(r"_l(\d+)")
UNRELATED = 0.5  # correlation below which two arrays of some size have nothing to do with each other


class Relation(NamedTuple):
    """How one parameter came to be what it is."""

    id: str
    words: str


def diagnose_parameters(
    candidate: Mapping[str, Array],
    reference: Mapping[str, Array],
    became: Mapping[str, Array] | None = None,
) -> list[Explanation]:
    """Return what is wrong with a candidate's parameters, by torch's names; nothing where all of them are right.

    `became` are the reference's own after it was trained, if it was. Each explanation names the parameters that it
    is about, and its misfit is zero: it holds exactly, or to the last digits of float32.
    """
    ours = {name: float64(np.asarray(array)) for name, array in candidate.items() if name in reference}
    theirs = {name: float64(np.asarray(reference[name])) for name in ours}
    wrong = [name for name in ours if not _same(ours[name], theirs[name])]
    explained: dict[Relation, list[str]] = {}
    together = (
        *_shared(ours, became or {}, wrong),
        *_folded(ours, theirs, wrong),
        *_taken(ours, theirs, wrong),
    )
    for relation, names in together:
        explained[relation] = [name for name in names if name in wrong]
        wrong = [name for name in wrong if name not in names]
    for name in wrong:
        explained.setdefault(_relation(name, ours[name], theirs[name]), []).append(name)
    return [
        Explanation(id, f"{', '.join(names)}: {words}", _FIXES.get(id, _ORDER), 0.0)
        for (id, words), names in explained.items()
    ]


def _same(found: Array, expected: Array) -> bool:
    return np.array_equal(found, expected, equal_nan=True)


def _close(found: Array, expected: Array) -> bool:
    return found.shape == expected.shape and rms(found - expected) <= CLOSE * rms(expected)


# What several parameters have in common ------------------------------------------------------------------------


def _shared(
    ours: Mapping[str, Array], became: Mapping[str, Array], wrong: list[str]
) -> Iterator[tuple[Relation, list[str]]]:
    """Yield the parameters that moved with the reference's."""
    names = [
        name for name in wrong if name in became and _same(ours[name], float64(np.asarray(became[name])))
    ]
    if names:
        yield Relation("T05", "trained with the reference: both share one memory"), names


def _folded(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], wrong: list[str]
) -> Iterator[tuple[Relation, list[str]]]:
    """Yield the pairs of biases of which one holds the sum and the other nothing."""
    names = []
    for first in [name for name in wrong if "bias_ih" in name]:
        second = first.replace("bias_ih", "bias_hh")
        if second not in ours:
            continue
        total = theirs[first] + theirs[second]
        pairs = ((ours[first], ours[second]), (ours[second], ours[first]))
        if any(_close(held, total) and not empty.any() for held, empty in pairs):
            names += [first, second]
    if names:
        yield Relation("L26", "both biases folded into one, the other zero"), names


def _taken(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], wrong: list[str]
) -> Iterator[tuple[Relation, list[str]]]:
    """Yield what was taken from other parameters: exchanged, in the reverse order, one copied to all."""
    sources = {}
    for name in wrong:
        alike = [other for other in theirs if other != name and _same(ours[name], theirs[other])]
        if alike and theirs[alike[0]].any():
            sources[name] = alike[0]
    if not sources:
        return
    if all(sources.get(source) == name for name, source in sources.items()):
        shapes = [[n for n in theirs if theirs[n].shape == theirs[name].shape] for name in sources]
        if len(sources) > 2 and all(_mirrored(group, sources) for group in shapes):
            yield Relation("T02", "assigned in the reverse order"), list(sources)
        elif len(sources) > 2 and all(_layer_mirrored(*pair, theirs) for pair in sources.items()):
            yield Relation("T02", "layers in the reverse order"), list(sources)
        else:
            pairs = [f"{name} and {source}" for name, source in sources.items() if name < source]
            yield Relation("T02-swapped", f"exchanged: {'; '.join(pairs)}"), list(sources)
        return
    copied = "; ".join(f"{name} is {source}" for name, source in sources.items())
    twice = len(set(sources.values())) < len(sources) or not set(sources.values()) & set(sources)
    yield Relation("T03" if twice else "T02-other", f"copied from another parameter: {copied}"), list(sources)


def _mirrored(group: list[str], sources: Mapping[str, str]) -> bool:
    pairs = zip(group, reversed(group), strict=True)
    return all(sources.get(name, name) == mirror for name, mirror in pairs)


def _layer_mirrored(name: str, source: str, names: Iterable[str]) -> bool:
    layers = [int(match[1]) for match in map(_LAYER.search, names) if match]
    own, other = _LAYER.search(name), _LAYER.search(source)
    if not own or not other or _LAYER.sub("", name) != _LAYER.sub("", source):
        return False
    return int(own[1]) + int(other[1]) == max(layers)


# What one parameter is ---------------------------------------------------------------------------------------


def _relation(name: str, found: Array, expected: Array) -> Relation:
    return next(_relations(name, found, expected), Relation("T00", _by_how_much(found, expected)))


def _relations(name: str, found: Array, expected: Array) -> Iterator[Relation]:
    """Yield what could have happened, the simplest first."""
    if not found.any():
        yield Relation("T07", "zero")
    for type_name, rounded in _narrowed(expected):
        if _same(found, rounded):
            yield Relation("T04", f"rounded through {type_name}")
    if expected.ndim == 2 and found.shape == expected.T.shape and _same(found, expected.T):
        yield Relation("T01", "transposed")
    if found.shape != expected.shape:
        return
    yield from _blockwise(found, expected)
    yield from _scaled(found, expected)
    yield from _reordered(found, expected)
    if found.size > 8 and abs(_correlation(found, expected)) < UNRELATED:
        yield Relation("T06", "left at its initial value: not related to the reference's")


def _narrowed(expected: Array) -> Iterator[tuple[str, Array]]:
    from ml_dtypes import bfloat16

    single = expected.astype(np.float32)
    yield "bfloat16", single.astype(bfloat16).astype(np.float64)
    with np.errstate(over="ignore"):
        yield "float16", single.astype(np.float16).astype(np.float64)
        yield "float32", single.astype(np.float64)


def _blockwise(found: Array, expected: Array) -> Iterator[Relation]:
    """Yield what happened to the rows of gates: reordered, each block transposed, one of them shifted."""
    for count, gates in GATES.items():
        if expected.shape[0] % count:
            continue
        ours, theirs = np.split(found, count), np.split(expected, count)
        for order in itertools.permutations(range(count)):
            if order != tuple(range(count)) and all(_same(ours[n], theirs[m]) for n, m in enumerate(order)):
                letters = "".join(gates[n] for n in order)
                id = ORDERS.get(letters, f"{'L01' if count == 4 else 'G01'}-{letters}")
                yield Relation(
                    id, f"rows of the gates in the order {', '.join(letters)}{NOTES.get(letters, '')}"
                )
        square = expected.ndim == 2 and theirs[0].shape[0] == theirs[0].shape[1]
        if square and all(_same(block, other.T) for block, other in zip(ours, theirs, strict=True)):
            yield Relation("T01", "each gate's block transposed")
        for n, gate in enumerate(gates):
            rest = [m for m in range(count) if m != n]
            shift = float(np.mean(ours[n] - theirs[n]))
            if shift and all(_same(ours[m], theirs[m]) for m in rest) and _close(ours[n], theirs[n] + shift):
                id = "L06" if gate == "f" and abs(shift - 1.0) < CLOSE else "T10"
                yield Relation(id, f"{shift:.6g} added to the rows of gate {gate}")


def _scaled(found: Array, expected: Array) -> Iterator[Relation]:
    if _same(found, -expected):
        yield Relation("T09", "the opposite sign")
    power = float(np.vdot(expected, expected))
    factor = float(np.vdot(expected, found)) / power if power and found.size > 1 else 0.0
    if factor and _close(found, factor * expected):
        yield Relation("T08", f"{factor:.6g} times the reference's")
    shift = float(np.mean(found - expected))
    if shift and found.size > 1 and rms(found - expected - shift) <= CLOSE * max(rms(expected), abs(shift)):
        yield Relation("T10", f"the reference's plus {shift:.6g}")


def _reordered(found: Array, expected: Array) -> Iterator[Relation]:
    for axis in range(expected.ndim):
        if _same(found, np.flip(expected, axis)):
            yield Relation("T11", f"axis {axis} reversed")
        ours, theirs = (
            np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (found, expected)
        )
        if _same(_sorted(ours), _sorted(theirs)):
            yield Relation("T11", f"axis {axis} in another order")


def _sorted(rows: Array) -> Array:
    return rows[np.lexsort(rows.T)]


def _correlation(found: Array, expected: Array) -> float:
    ours, theirs = found - found.mean(), expected - expected.mean()
    scale = rms(ours) * rms(theirs)
    return float(np.mean(ours * theirs)) / scale if scale else 0.0


def _by_how_much(found: Array, expected: Array) -> str:
    if found.shape != expected.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    size = rms(expected)
    apart = f"by {rms(found - expected) / size:.1e} of its size" if size else "where the reference's is zero"
    return f"differs {apart}, in {np.count_nonzero(found != expected)} of {found.size} elements"


_ORDER = "the rows of torch's weights and biases are in the order i, f, g, o or r, z, n: reorder them"
_BY_NAME = "match parameters by name: jaxrnn.load_state_dict(model, torch_model.state_dict())"
_FIXES = {
    "L06": "torch adds no constant to the forget gate: remove unit_forget_bias",
    "L26": "keep both biases: as one parameter their sum learns at half the rate",
    "T00": _BY_NAME,
    "T01": "torch's nn.Linear computes x Wᵀ, so that the kernel of nnx.Linear is Wᵀ; square ones do not complain",
    "T02": _BY_NAME,
    "T02-other": _BY_NAME,
    "T02-swapped": _BY_NAME,
    "T03": "load each layer's own weights",
    "T04": "save and load in float32; a checkpoint in half precision cannot be undone",
    "T05": "copy: jnp.array(tensor.numpy(), copy=True); jnp.asarray and from_dlpack may share memory with torch",
    "T06": "load this parameter too: strict=True complains about those that are missing",
    "T07": "load this parameter too: strict=True complains about those that are missing",
    "T08": "copy the parameter as it is",
    "T09": "copy the parameter as it is",
    "T10": "copy the parameter as it is",
    "T11": "copy the parameter as it is",
}
