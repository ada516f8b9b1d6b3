"""The oracle: the reference in float64, checked against an independent implementation where there is one.

An oracle that nobody checks is one more model that may be wrong. The layers of `torch_ref` restate `torch.nn`
in readable steps, so before one of them judges anything its float64 run is compared with torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from parity import torch_side
from parity.compare import compare_arrays, reference_errors
from parity.gates import Array, ReferenceError
from parity.probe import Probe, jittered
from parity.trace import Trace
from parity.verdict import DIVERGENT

# An honest candidate exceeds 4 times the largest of nine normal draws in one case of 100 000 (of two: one of 6).
DRAWS = 8
AMPLIFYING = ("output", "state", "grad")  # a step, taken from given gradients, rounds once

_TWINS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
# Dropout is not among them: where it is active, masks are injected and there is no twin.
_OPTIONS = ("num_layers", "bias", "batch_first", "bidirectional", "proj_size", "nonlinearity")
_ONLY_OURS = ("resets", "dropout_masks")  # arguments that torch.nn does not have


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

    Raises OracleConflictError when the reference has a twin in `torch.nn` that computes something else.
    """
    name = f"{type(reference).__module__.partition('.')[0]}.{type(reference).__name__}"
    trace = torch_side.run(reference, probe, "float64", replayed)
    redrawn = reference_errors(_draws(reference, probe))
    other = twin(reference)
    if other is None or not _understands(probe):
        return Oracle(trace, redrawn, f"{name} in float64")
    independent = torch_side.run(other, probe, "float64", replayed)
    # The reference passes the numeric gate against itself, so that only the semantic one can object.
    results = compare_arrays(
        measured,
        measured,
        oracle=trace,
        candidate64=independent,
        kinds=trace.kinds,
        zeros=probe.zeros,
        redrawn=redrawn,
    )
    conflicts = [result for result in results if result.verdict == DIVERGENT]
    if conflicts:
        raise OracleConflictError(
            f"ORACLE CONFLICT: {name} and torch.nn.{type(other).__name__} disagree in float64 on "
            f"{', '.join(result.name for result in conflicts)}; repair the reference before judging by it."
        )
    return Oracle(trace, redrawn, f"{name} in float64, agrees with torch.nn.{type(other).__name__}")


def _draws(reference: nn.Module, probe: Probe) -> Iterator[tuple[Trace, Trace]]:
    """Run the reference and its oracle on weights and inputs moved by a few units of roundoff."""
    weights = torch_side.parameters(reference)
    for number in range(DRAWS):
        moved, moved_weights = jittered(probe, weights, number)
        model = torch_side.with_weights(reference, moved_weights)
        measured, oracle = (torch_side.run(model, moved, dtype) for dtype in (probe.dtype, "float64"))
        yield measured.of_kind(*AMPLIFYING), oracle.of_kind(*AMPLIFYING)


def twin(module: nn.Module) -> nn.Module | None:
    """Return the `torch.nn` layer that a `torch_ref` layer restates, with the same weights; or None."""
    kind = type(module).__name__
    if not type(module).__module__.startswith("torch_ref.") or kind not in _TWINS:
        return None
    options = {name: getattr(module, name) for name in _OPTIONS if hasattr(module, name)}
    if kind != "LSTM":
        options.pop("proj_size", None)
    other = getattr(nn, kind)(module.input_size, module.hidden_size, **options)
    return torch_side.with_weights(other, torch_side.parameters(module))


def _understands(probe: Probe) -> bool:
    """torch.nn has no resets and no injected masks, and refuses to pack an empty row."""
    if any(probe.kwargs.get(name) is not None for name in _ONLY_OURS):
        return False
    lengths = probe.kwargs.get("lengths")
    return lengths is None or bool(np.all(lengths > 0))
