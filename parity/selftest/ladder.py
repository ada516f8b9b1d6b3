"""The magnitude ladder: how small a change the judge still sees, measured on arrays of a faithful pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from parity import gates
from parity.compare import compare_arrays
from parity.gates import Array
from parity.verdict import DIVERGENT, TensorResult
from parity.weighing import Judgement

RUNGS = range(1, 51)  # changes of 2^-1 to 2^-50 of a tensor's size
# Where a change may be; the last row is a step or a row of the batch, the last column a unit of a gate.
PLACES: Mapping[str, Callable[[Array], tuple[slice | int, ...]]] = {
    "everywhere": lambda array: (slice(None),) * array.ndim,
    "one row": lambda array: (-1, *(slice(None),) * (array.ndim - 1)),
    "one column": lambda array: (*(slice(None),) * (array.ndim - 1), -1),
    "one element": lambda array: (-1,) * array.ndim,
}
TIERS = ("semantic", "numeric")


@dataclass(frozen=True)
class Rung:
    """The smallest change that is found, as a share of the size (rms) of the tensor that it is made in."""

    place: str
    tier: str
    smallest: float  # infinite where none is found
    tensor: str  # the tensor in which the judge sees least

    @property
    def sharp(self) -> bool:
        """Whether the judge sees as much as it must."""
        return self.smallest <= REQUIRED[self.place, self.tier]


# What must be found: four times what was measured on the case `lstm`. Blunter limits fail the self-test.
REQUIRED = {
    ("everywhere", "semantic"): 2.0**-43,
    ("one row", "semantic"): 2.0**-41,
    ("one column", "semantic"): 2.0**-41,
    ("one element", "semantic"): 2.0**-40,
    ("everywhere", "numeric"): 2.0**-16,
    ("one row", "numeric"): 2.0**-14,
    ("one column", "numeric"): 2.0**-14,
    ("one element", "numeric"): 2.0**-13,
}


def climb(judgement: Judgement) -> list[Rung]:
    """Return, per place and tier, the smallest change that is found in the tensor in which least is seen."""
    rungs = []
    for tier in TIERS:
        for place in PLACES:
            found = {name: _smallest(judgement, name, place, tier) for name in _measured(judgement)}
            worst = max(found, key=lambda name: found[name])
            rungs.append(Rung(place, tier, found[worst], worst))
    return rungs


def _measured(judgement: Judgement) -> list[str]:
    return [tensor.name for tensor in judgement.comparison.tensors if tensor.rho_rms is not None]


def _smallest(judgement: Judgement, name: str, place: str, tier: str) -> float:
    """Return the smallest change in one tensor down to which every larger one is found."""
    smallest = np.inf
    for rung in RUNGS:
        if judge_changed(judgement, name, place, tier, 2.0**-rung).verdict != DIVERGENT:
            break
        smallest = 2.0**-rung
    return smallest


def judge_changed(judgement: Judgement, name: str, place: str, tier: str, share: float) -> TensorResult:
    """Judge a tensor with a change in it: in both precisions, or only in the one under test."""
    evidence, c, c64 = judgement.evidence, judgement.trace, judgement.trace64
    assert evidence is not None
    assert c is not None
    assert c64 is not None
    oracle = evidence.oracle[name]
    change = np.zeros(oracle.shape)
    where = PLACES[place](oracle) if oracle.ndim else ()
    change[where] = share * gates.rms(oracle[np.isfinite(oracle)])
    changed = (gates.float64(c[name]) + change).astype(c[name].dtype)
    (result,) = compare_arrays(
        {name: changed},
        {name: evidence.measured[name]},
        {name: oracle},
        {name: c64[name] + change if tier == "semantic" else c64[name]},
        kinds={name: evidence.measured.kinds[name]},
        redrawn={name: evidence.redrawn[name]} if name in evidence.redrawn else {},
    )
    return result
