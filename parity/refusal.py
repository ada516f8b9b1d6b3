"""Arguments that a reference refuses: a port must refuse them too, or it computes something out of nonsense.

torch raises an exception for a token that is no row of an embedding; under `jax.jit` nothing can be raised, and
what comes out instead (NaN, the last row, zeros) is a choice that no comparison of numbers would show. So a probe
may say that its arguments are `refused`. Both models are then called once, outside `jit`, where values are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from parity import gates
from parity.gates import Array
from parity.probe import Probe
from parity.verdict import AGREES, DIVERGENT, EQUIVALENT, Comparison, Diagnosis, Explanation, TensorResult

if TYPE_CHECKING:
    from parity.faults.substitution import Substitution

NAME = "refusal"


class Unrefused(NamedTuple):
    """What a candidate answered, in float64, to a probe that the reference refuses."""

    reference: Any
    probe: Probe
    answer: Mapping[str, Array]


def try_refused(candidate: Any, reference: Any, probe: Probe) -> tuple[Comparison, Unrefused | None]:
    """Return whether the candidate refuses what the reference refuses, and its answer where it does not.

    Raises ValueError where the reference does not refuse.
    """
    from parity.running import torch_side
    from parity.weighing import side_of

    side = side_of(candidate)
    if probe.weight_scale is not None:
        weights = probe.weights(torch_side.parameters(reference))
        reference, candidate = (
            torch_side.with_weights(reference, weights),
            side.with_weights(candidate, weights),
        )
    wanted = _refusal(torch_side, reference, probe)
    if not isinstance(wanted, str):
        raise ValueError(
            f"{probe.name}: the probe says that the reference refuses these arguments, but it returns numbers; "
            "leave out refused=True."
        )
    found = _refusal(side, candidate, probe)
    if isinstance(found, str):
        message = f"the reference refuses ({wanted}), the candidate too ({found})"
        result, unrefused = TensorResult(NAME, NAME, NAME, EQUIVALENT, message=message), None
    else:
        message = f"the reference refuses ({wanted}), the candidate returns numbers"
        result = TensorResult(NAME, NAME, NAME, DIVERGENT, gate="structure", message=message)
        unrefused = Unrefused(reference, probe, found)
    return Comparison(probe.name, (result,), 1, probe=probe.describe()), unrefused


def _refusal(side: ModuleType, model: Any, probe: Probe) -> str | dict[str, Array]:
    """Return the words of the exception that a model raises, or else what it answers."""
    try:
        return side.answer(model, probe)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def diagnose(unrefused: Unrefused) -> Diagnosis:
    """Say what a candidate makes of arguments that the reference refuses."""
    from parity.faults.functions.out_of_range import FAULTS

    explaining = [fault for fault in FAULTS if _explains(fault, unrefused)]
    found = tuple(Explanation(fault.id, fault.name, fault.fix, 0.0) for fault in explaining)
    return Diagnosis(found, None, len(FAULTS))


def _explains(fault: Substitution, unrefused: Unrefused) -> bool:
    from parity.running import torch_side

    try:
        supposed = torch_side.answer(fault.plant(unrefused.reference), unrefused.probe)
    except Exception:  # what is refused in spite of the mistake is not refused because of it
        return False
    if supposed.keys() != unrefused.answer.keys():
        return False
    pairs = [(supposed[name], array) for name, array in unrefused.answer.items()]
    return all(a.shape == b.shape and _same(a, b) for a, b in pairs)


def _same(a: Array, b: Array) -> bool:
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    return gates.rms(a[finite] - b[finite]) <= AGREES * gates.rms(a[finite])
