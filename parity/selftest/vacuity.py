"""Emptiness must not pass: situations in which other harnesses have said "equal", each of which must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from parity.compare import compare_arrays
from parity.verdict import CaseResult, Comparison, Report

Situation = Callable[[], Report]


def _values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 6)).astype(np.float32)


def _judge(candidate: dict, reference: dict, expected: int | None = None, **options: object) -> Report:
    """Compare arrays, with their own float64 values as oracles."""
    wide = {
        "oracle": {name: array.astype(np.float64) for name, array in reference.items()},
        "candidate64": {name: array.astype(np.float64) for name, array in candidate.items()},
    }
    tensors = compare_arrays(candidate, reference, **wide, **options)  # type: ignore[arg-type]
    count = len(reference) if expected is None else expected
    return Report((CaseResult("vacuity", comparisons=(Comparison("arrays", tensors, count),)),))


def situations() -> Iterator[tuple[str, Situation]]:
    """Yield each situation by name."""
    x = _values()
    nan = np.full_like(x, np.nan)
    some = x.copy()
    some[1, 2] = np.nan
    yield "NaN in the candidate", lambda: _judge({"y": nan}, {"y": x})
    yield "NaN in the reference", lambda: _judge({"y": x}, {"y": nan})
    yield "NaN in both, everywhere", lambda: _judge({"y": nan}, {"y": nan})
    yield "one NaN in the candidate", lambda: _judge({"y": some}, {"y": x})
    yield "nothing to compare", lambda: _judge({}, {})
    yield "fewer tensors than there should be", lambda: _judge({"y": x}, {"y": x}, expected=2)
    yield "a tensor missing in the candidate", lambda: _judge({"y": x}, {"y": x, "z": x})
    yield "a tensor missing in the reference", lambda: _judge({"y": x, "z": x}, {"y": x})
    yield "two dead models: zeros on both sides", lambda: _judge({"y": 0 * x}, {"y": 0 * x})
    yield "a tensor without elements", lambda: _judge({"y": x[:0]}, {"y": x[:0]})
    yield (
        "every row of the batch the same",
        lambda: _judge({"y": np.repeat(x[:1], 4, 0)}, {"y": np.repeat(x[:1], 4, 0)}, batch_axes={"y": 0}),
    )
    yield "equal means: rows in reverse order", lambda: _judge({"y": x[::-1].copy()}, {"y": x})
    yield "equal sums: another sign", lambda: _judge({"y": x[:, ::-1].copy()}, {"y": x})
    yield "another shape of as many elements", lambda: _judge({"y": x.T.copy()}, {"y": x})
    yield "another dtype", lambda: _judge({"y": x.astype(np.float16)}, {"y": x})
    yield (
        "an exception in the harness",
        lambda: Report((CaseResult("error", comparisons=(Comparison("p", error="KeyError: 'y'"),)),)),
    )
    yield "no case at all", lambda: Report(())
    yield "a case without probes", lambda: Report((CaseResult("empty"),))
    yield "every case left out", lambda: Report((CaseResult("skipped", not_run="torch not installed"),))
