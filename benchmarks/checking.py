"""What must be right before anything is timed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.jobs import Job

# Relative rms between two right answers in float32. On the grid, outputs differ by at most 4e-7 and gradients by at
# most 3e-6; an exchanged gate or a lost bias makes more than 1e-2.
LIMIT = 1e-4
# Where a rectifier bends, the last bit of a sum decides whether a gradient flows, and a whole row may differ.
BEND_LIMIT = 1e-2

Results = Mapping[str, np.ndarray]  # "output" [T, B, D*H], "gradient of ..."


class WrongResultError(Exception):
    """jaxrnn does not compute what it must; its time means nothing."""


def check(name: str, results: Results, expected: Results, kind: str) -> None:
    """Raise `WrongResultError` unless all results are there, and as expected."""
    if set(results) != set(expected):
        raise WrongResultError(f"{name} returns {sorted(results)}, expected {sorted(expected)}.")
    for what, right in expected.items():
        found = results[what]
        limit = BEND_LIMIT if kind == "relu" and what != "output" else LIMIT
        if found.shape != right.shape:
            raise WrongResultError(f"{name}: the {what} has shape {found.shape}, expected {right.shape}.")
        error = float(np.linalg.norm(found - right)) / max(float(np.linalg.norm(right)), 1e-30)
        if not error <= limit:  # NaN is an error too
            raise WrongResultError(
                f"{name}: the {what} is off by {error:.2g} in relative rms, expected at most {limit:g}. "
                "Nothing was timed; `parity run` finds out why."
            )


def flaw(results: Results, job: Job) -> str | None:
    """Say what is wrong with a peer's results, as far as can be told: its initial weights are its own."""
    rows = (job.size.steps * job.size.calls, job.size.batch)
    shapes = {
        "output": (*rows, job.size.output_features),
        "gradient of input": (*rows, job.size.input_features),
    }
    for name, array in results.items():
        if array.shape != shapes.get(name, array.shape):
            return f"failed: its {name} has shape {array.shape}, expected {shapes[name]}"
        if not np.isfinite(array).all():
            return f"failed: its {name} is not finite"
        if not array.any() and array.size:
            return f"failed: its {name} is zero"
    return None
