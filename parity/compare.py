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

      rho_rms = rms(c - o) / max(rms(r - o), 4u rms(o)) <= 4       (half-precision types: 2)
      rho_max = max|c - o| / max(max|r - o|, 4u max|o|) <= 6       (half-precision types: 3)

  The constants are twice the largest values seen on 1344 tensors of faithful LSTM and GRU ports; without the
  floor of 4u a tensor in which the reference happens to be almost exact raises false alarms. The gate is
  one-sided: a candidate more accurate than the reference passes.

Both tiers measure the candidate by the reference's own error, which is itself one draw of a random number: where
one early rounding error is amplified and dominates a whole gradient, the ratio of two such draws has no
variance, and exceeds 4 in one honest case of six. `reference_errors` therefore draws it anew several times, from
weights and inputs that are changed by a few units of roundoff, and the gates take the largest. With that, none
of 24 996 tensors (the registered cases, 12 seeds) is a false alarm; the largest values are 0.37 of the semantic
limit, rho_rms 3.7 and rho_max 4.7, the last two in a saturated GRU cell.

There is no `atol`: a tolerance that a user could widen is one that hides the bug. Every gate is written as
`finite and value <= limit`, so that NaN passes none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parity import gates
from parity.gates import Array, Quartet, ReferenceError, Zeros
from parity.verdict import DIVERGENT, EQUIVALENT, TensorResult, worst


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
) -> tuple[TensorResult, ...]:
    """Return a verdict per name: the reference's names in order, then the candidate's unexpected ones.

    Without an oracle a reference in float64 is one, and a candidate in float64 is its own `candidate64`:
    float64 on both sides is judged by the semantic gate alone. What is missing beyond that makes the tensors
    INCONCLUSIVE, never the rule weaker.

    kinds: "output" (the default), "state", "grad", "step", or "param" (compared exactly).
    zeros: names declared to be exactly zero, everywhere (True) or where a mask says so.
    batch_axes: the axis of a tensor along which the oracle must not be constant.
    redrawn: the reference's error as found by `reference_errors`.

    Raises ValueError when the oracle's names are not the reference's, or candidate64's not the candidate's.
    """
    _require_same_names("oracle", oracle, "reference", reference)
    _require_same_names("candidate64", candidate64, "candidate", candidate)
    paths = candidate_names or {}
    results = []
    for name in reference:
        kind = (kinds or {}).get(name, "output")
        if name not in candidate:
            results.append(_misnamed(name, "-", kind, reference[name], "missing in the candidate"))
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
        )
        results.append(judge(quartet, name, paths.get(name, name)))
    for name in candidate:
        if name not in reference:
            kind = (kinds or {}).get(name, "output")
            message = "unexpected: the reference has no array of this name"
            results.append(_misnamed("-", paths.get(name, name), kind, candidate[name], message))
    return tuple(results)


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


def judge(quartet: Quartet, name: str, candidate_name: str) -> TensorResult:
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
    return TensorResult(**base, **_measure(quartet))


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


def _measure(q: Quartet) -> dict[str, Any]:
    """Put one tensor through both tiers; both are always measured, so that a report shows both numbers."""
    semantic, semantic_finding = gates.semantic(q)
    numeric, numeric_finding = gates.numeric(q)
    findings = [found for found in (semantic_finding, numeric_finding) if found is not None]
    if not semantic and not numeric and not findings:
        findings = [gates.no_tier(q)]
    verdict = worst(found.verdict for found in findings) if findings else EQUIVALENT
    result: dict[str, Any] = {**semantic, **numeric, "verdict": verdict}
    if findings:
        decisive = next(found for found in findings if found.verdict == verdict)
        result |= {"gate": decisive.gate, "message": decisive.message}
    if verdict == DIVERGENT:
        result |= gates.where(q, result["gate"], semantic.get("semantic_limit", 0.0))
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
