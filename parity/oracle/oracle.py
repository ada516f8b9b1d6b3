"""The oracle: the reference in float64, checked against independent implementations where there are any.

An oracle that nobody checks is one more model that may be wrong. Before a reference judges anything, its float64
run is compared with what independent witnesses compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from parity import gates
from parity.compare import compare_arrays, reference_errors
from parity.gates import Array, ReferenceError
from parity.oracle.witnesses import Testimony, testimonies
from parity.probe import Probe, jittered
from parity.running import torch_side
from parity.trace import AMPLIFYING, Trace
from parity.verdict import DIVERGENT

# An honest candidate exceeds 4 times the largest of nine normal draws in one case of 100 000 (of two: one of 6).
DRAWS = 8
# A witness in float32 is off by its rounding and its approximations of tanh: ONNX Runtime by up to 5e-6 of an
# array's size on the registered cases. A semantic mistake is 1e-3 and more.
WITNESSED = 1e-4


class OracleConflictError(Exception):
    """Two implementations of the reference disagree in float64: nothing can be judged by either."""


@dataclass(frozen=True)
class Oracle:
    """The reference's float64 trace, its error in the precision under test, and what it was checked against."""

    trace: Trace
    redrawn: Mapping[str, ReferenceError]
    description: str


def consult(reference: nn.Module, probe: Probe, measured: Trace, replayed: Mapping[str, Array]) -> Oracle:
    """Return the reference's float64 run; `measured` is its run in the precision under test.

    Raises OracleConflictError when a witness computes something else.
    """
    name = f"{type(reference).__module__.partition('.')[0]}.{type(reference).__name__}"
    trace = torch_side.run(reference, probe, "float64", replayed)
    redrawn = reference_errors(_draws(reference, probe))
    agreeing = []
    for testimony in testimonies(reference, probe, replayed):
        conflicts = _conflicts(testimony, measured, trace, redrawn, probe)
        if conflicts:
            raise OracleConflictError(
                f"ORACLE CONFLICT: {name} and {testimony.witness} disagree on {', '.join(conflicts)}; repair the "
                "reference before judging by it."
            )
        agreeing.append(testimony.witness)
    agreement = f", agrees with {', '.join(agreeing)}" if agreeing else ""
    return Oracle(trace, redrawn, f"{name} in float64{agreement}")


def _conflicts(
    testimony: Testimony,
    measured: Trace,
    trace: Trace,
    redrawn: Mapping[str, ReferenceError],
    probe: Probe,
) -> list[str]:
    """Return the names on which a witness says something else than the oracle."""
    if not testimony.precise:
        return [
            name
            for name, array in testimony.arrays.items()
            if not gates.rms(array - trace[name]) <= WITNESSED * gates.rms(trace[name])
        ]
    # The reference passes the numeric gate against itself, so that only the semantic one can object.
    arrays = testimony.arrays
    standing = {name: measured[name] for name in arrays}
    results = compare_arrays(
        standing,
        standing,
        oracle={name: trace[name] for name in arrays},
        candidate64=arrays,
        kinds=trace.kinds,
        zeros=probe.zeros,
        redrawn=redrawn,
    )
    return [result.name for result in results if result.verdict == DIVERGENT]


def _draws(reference: nn.Module, probe: Probe) -> Iterator[tuple[Trace, Trace]]:
    """Run the reference and its oracle on weights and inputs moved by a few units of roundoff."""
    for moved, weights in moves(reference, probe):
        model = torch_side.with_weights(reference, weights)
        measured, oracle = (torch_side.run(model, moved, dtype) for dtype in (probe.dtype, "float64"))
        yield measured.of_kind(*AMPLIFYING), oracle.of_kind(*AMPLIFYING)


def moves(reference: nn.Module, probe: Probe) -> Iterator[tuple[Probe, dict[str, Array]]]:
    """Yield the same question with other roundings, as probe and weights."""
    weights = torch_side.parameters(reference)
    for number in range(DRAWS):
        yield jittered(probe, weights, number)
