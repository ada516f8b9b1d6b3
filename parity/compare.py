"""The gates: named arrays in, one verdict per array out. NumPy only; nothing here knows a framework.

Four arrays stand behind each name: the candidate `c` and the reference `r`, both computed in the precision
under test, the oracle `o` (the reference in float64) and `c64` (the candidate in float64). In order:

* **structure**: names both ways, shape, dtype, and the places of NaN, +inf and -inf; integers and booleans
  are exact, and so are parameters, because weights are ported bit for bit.
* **vacuity**: an oracle that is zero everywhere, or the same for every row of the batch, tests nothing. What
  is declared zero must be exactly zero on all sides.
* **validity**: where the reference itself is far from its oracle, the probe is ill-conditioned: INCONCLUSIVE.
* **semantic** (float64 against float64): is it the same function?

      rms(c64 - o) / rms(o) <= max(64, 16 κ) 2^-53,    κ = rms(r - o) / rms(o) / u

  κ is how far the reference's own rounding was amplified, so that the limit needs no hand-picked number.
* **numeric** (the precision under test): is it as accurate as the reference?

      rho_rms = rms(c - o) / max(rms(r - o), 4u rms(o)) <= 8       (half-precision types: 2)
      rho_max = max|c - o| / max(max|r - o|, 4u max|o|) <= 12      (half-precision types: 3)

  The constants follow from the elementary functions. XLA's float32 tanh on a CPU is wrong by up to 4.5 units in the
  last place, 1.08 by rms; torch's by 0.5 and 0.29. A saturated network is made of little else, so that an honest
  port is up to 3.7 times (rms) and 9 times (largest element) less accurate. The largest seen in 100 102 honest
  tensors are 3.9 and 4.9 (`benchmarks/results/parity_null_run.json`); the smallest bug of the catalogue is at 200.
  Without the floor of 4u a tensor in which the reference happens to be almost exact raises false alarms. The gate
  is one-sided: a candidate more accurate than the reference passes.

Both tiers measure the candidate by the reference's own error, which is itself one draw of a random number: where
one early rounding error is amplified and dominates a whole gradient, the ratio of two such draws has no variance.
`reference_errors` therefore draws it anew several times, from weights and inputs that are changed a little, and the
gates take the largest. A candidate that still fails, by less than 100 times a limit, is drawn anew as well, and its
median counts (`candidate_errors`): what is wrong or imprecise is so on every draw. `parity calibrate` counts the
false alarms that remain.

There is no `atol`: a tolerance that a user could widen is one that hides the bug. Every gate is written as
`finite and value <= limit`, so that NaN passes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from parity import gates
from parity.gates import Array, CandidateError, Precision, Quartet, ReferenceError, Zeros
from parity.probe import Probe
from parity.trace import Trace
from parity.verdict import DIVERGENT, EQUIVALENT, UNNAMED, Comparison, TensorResult, worst


def compare_arrays(
    candidate: Mapping[str, Array],
    reference: Mapping[str, Array],
    oracle: Mapping[str, Array] | None = None,
    candidate64: Mapping[str, Array] | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    candidate_names: Mapping[str, str] | None = None,
    zeros: Mapping[str, Zeros] | None = None,
    batch_axes: Mapping[str, int] | None = None,
    redrawn: Mapping[str, ReferenceError] | None = None,
    usual: Mapping[str, CandidateError] | None = None,
    precision: Precision | None = None,
    tiers: Sequence[str] = gates.TIERS,
) -> tuple[TensorResult, ...]:
    """Return a verdict per name: the reference's names in order, then the candidate's unexpected ones.

    Without an oracle a reference in float64 is one, and a candidate in float64 is its own `candidate64`:
    float64 on both sides is judged by the semantic gate alone. What is missing beyond that makes the tensors
    INCONCLUSIVE, never the rule weaker.

    kinds: "output" (the default), "state", "grad", "step", or "param" (compared exactly).
    zeros: names declared to be exactly zero, everywhere (True) or where a mask says so.
    batch_axes: the axis of a tensor along which the oracle must not be constant.
    redrawn: the reference's error as found by `reference_errors`.
    usual: the candidate's as found by `candidate_errors`; it counts where it is smaller.
    precision: what to measure by, where it is not the reference's dtype that says so (TF32).
    tiers: those to judge by.

    Raises ValueError when the oracle's names are not the reference's, or candidate64's not the candidate's.
    """
    _require_same_names("oracle", oracle, "reference", reference)
    _require_same_names("candidate64", candidate64, "candidate", candidate)
    paths = candidate_names or {}
    results = []
    for name in reference:
        kind = (kinds or {}).get(name, "output")
        if name not in candidate:
            results.append(_misnamed(name, UNNAMED, kind, reference[name], "missing in the candidate"))
            continue
        quartet = _quartet(
            np.asarray(candidate[name]),
            np.asarray(reference[name]),
            None if oracle is None else np.asarray(oracle[name]),
            None if candidate64 is None else np.asarray(candidate64[name]),
            kind=kind,
            zeros=(zeros or {}).get(name, False),
            batch_axis=(batch_axes or {}).get(name),
            redrawn=(redrawn or {}).get(name),
            contract=precision,
            usual=(usual or {}).get(name),
        )
        results.append(judge(quartet, name, paths.get(name, name), tiers))
    for name in candidate:
        if name not in reference:
            kind = (kinds or {}).get(name, "output")
            message = "unexpected: the reference has no array of this name"
            results.append(_misnamed(UNNAMED, paths.get(name, name), kind, candidate[name], message))
    return tuple(results)


def misfitting(
    candidate: Mapping[str, Sequence[int]],
    reference: Mapping[str, Sequence[int]],
    candidate_names: Mapping[str, str],
) -> tuple[TensorResult, ...]:
    """Return the parameters, given by their shapes, that fit one side only: with these, nothing can be run."""
    ours, theirs = (
        {name: np.zeros(tuple(shape), np.float32) for name, shape in shapes.items()}
        for shapes in (candidate, reference)
    )
    results = compare_arrays(
        ours, theirs, kinds=dict.fromkeys({**ours, **theirs}, "param"), candidate_names=candidate_names
    )
    return tuple(result for result in results if result.verdict == DIVERGENT)


def compare_traces(
    candidate: Trace,
    reference: Trace,
    oracle: Trace,
    candidate64: Trace,
    probe: Probe,
    redrawn: Mapping[str, ReferenceError],
    usual: Mapping[str, CandidateError] | None = None,
) -> Comparison:
    """Compare the answers of two models to a probe."""
    results = compare_arrays(
        candidate,
        reference,
        oracle,
        candidate64,
        kinds={**candidate.kinds, **reference.kinds},
        candidate_names=candidate.paths,
        zeros=probe.zeros,
        batch_axes=probe.batch_axes,
        redrawn=redrawn,
        usual=usual,
        precision=probe.precision,
        tiers=probe.tiers,
    )
    return Comparison(
        probe.name, results, expected=len(reference), tiers=tiers_of(results), probe=probe.describe()
    )


def tiers_of(results: Iterable[TensorResult]) -> tuple[str, ...]:
    """Return the tiers by which every measured tensor was judged."""
    measured = [result for result in results if (result.semantic_error, result.rho_rms) != (None, None)]
    tiers = {
        "semantic": all(result.semantic_error is not None for result in measured),
        "numeric": all(result.rho_rms is not None for result in measured),
    }
    return tuple(tier for tier, judged in tiers.items() if judged and measured)


def reference_errors(
    draws: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
) -> dict[str, ReferenceError]:
    """Return the largest error of each array over several draws of (reference, its oracle)."""
    found: dict[str, ReferenceError] = {}
    for reference, oracle in draws:
        for name in reference.keys() & oracle.keys():
            q = Quartet(
                None, np.asarray(reference[name]), np.asarray(oracle[name]), None, redrawn=found.get(name)
            )
            if not q.exact:
                found[name] = q.noise
    return found


def candidate_errors(
    draws: Iterable[tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]]],
) -> dict[str, CandidateError]:
    """Return the median error of each array over several draws of (candidate, candidate in float64, oracle)."""
    found: dict[str, list[CandidateError]] = {}
    for candidate, candidate64, oracle in draws:
        for name in candidate.keys() & candidate64.keys() & oracle.keys():
            q = Quartet(np.asarray(candidate[name]), None, np.asarray(oracle[name]), None)
            if q.exact or q.subject.shape != q.expected.shape:
                continue
            errors = (
                q.error(q.subject),
                q.error(q.subject, gates.peak),
                q.error(np.asarray(candidate64[name])),
            )
            found.setdefault(name, []).append(CandidateError(*errors))
    # NaN in a single draw makes a median NaN, which passes no gate.
    return {name: CandidateError(*np.median(np.asarray(errors), axis=0)) for name, errors in found.items()}


def judge(
    quartet: Quartet, name: str, candidate_name: str, tiers: Sequence[str] = gates.TIERS
) -> TensorResult:
    """Put one tensor through the gates."""
    base: dict[str, Any] = {
        "name": name,
        "candidate_name": candidate_name,
        "kind": quartet.kind,
        "shape": quartet.subject.shape,
        "dtype": quartet.subject.dtype.name,
    }
    finding = gates.structure(quartet)
    if finding is not None:
        return TensorResult(**base, **finding._asdict(), compared=False)
    finding = gates.non_finite(quartet)
    if finding is not None:
        return TensorResult(**base, **finding._asdict())
    if quartet.exact:
        return TensorResult(**base, **gates.exact(quartet))
    finding = gates.declared_zero(quartet) or gates.vacuity(quartet)
    if finding is not None:
        return TensorResult(**base, **finding._asdict())
    if not np.any(quartet.expected):  # declared zero, and exactly zero
        return TensorResult(**base, verdict=EQUIVALENT)
    finding = gates.validity(quartet)
    if finding is not None:
        precision = quartet.precision if quartet.size() > 0 else None
        error = quartet.reference_error / precision.unit_roundoff if precision else None
        return TensorResult(**base, **finding._asdict(), reference_error=error)
    return TensorResult(**base, **_measure(quartet, tiers))


def _quartet(c: Array, r: Array, o: Array | None, c64: Array | None, **options: Any) -> Quartet:
    """Sort the arrays given into the four roles: float64 arrays are oracles, whatever they came as."""
    if o is None and r.dtype == np.float64:
        o, r_or_none = r, None
    else:
        r_or_none = r
    if c64 is None and c.dtype == np.float64:
        c64, c_or_none = c, None
    else:
        c_or_none = c
    return Quartet(c_or_none, r_or_none, o, c64, **options)


def _measure(q: Quartet, tiers: Sequence[str]) -> dict[str, Any]:
    """Put one tensor through the tiers asked for; one is measured even if the other failed."""
    semantic, semantic_finding = gates.semantic(q) if "semantic" in tiers else ({}, None)
    numeric, numeric_finding = gates.numeric(q) if "numeric" in tiers else ({}, None)
    findings = [found for found in (semantic_finding, numeric_finding) if found is not None]
    if not semantic and not numeric and not findings:
        findings = [gates.no_tier(q)]
    verdict = worst(found.verdict for found in findings) if findings else EQUIVALENT
    result: dict[str, Any] = {**semantic, **numeric, "verdict": verdict, "sample": gates.sample(q)}
    if findings:
        decisive = next(found for found in findings if found.verdict == verdict)
        result |= {"gate": decisive.gate, "message": decisive.message}
    if verdict == DIVERGENT:
        result |= gates.where(q, result["gate"])
    return result


def _misnamed(name: str, path: str, kind: str, array: Array, message: str) -> TensorResult:
    array = np.asarray(array)
    return TensorResult(
        name=name,
        candidate_name=path,
        kind=kind,
        verdict=DIVERGENT,
        shape=array.shape,
        dtype=array.dtype.name,
        compared=False,
        gate="structure",
        message=message,
    )


def _require_same_names(
    name: str, arrays: Mapping[str, Array] | None, of: str, others: Mapping[str, Array]
) -> None:
    if arrays is None or set(arrays) == set(others):
        return
    missing, extra = sorted(set(others) - set(arrays)), sorted(set(arrays) - set(others))
    raise ValueError(
        f"{name}= must have the names of the {of}: missing {missing}, unexpected {extra}. "
        "Both must come from the same model."
    )
