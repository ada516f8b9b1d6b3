"""Many seeds together: an error too small for one probe to tell, but always there or always of one sign.

A single probe allows a candidate four times the error of the reference, because one error is one draw. Over several
seeds two questions become sharp:

* **inflation**: is the error larger by habit? The geometric mean of rho_rms over the seeds is limited.
* **bias**: does it have a direction? Honest rounding errors average out. The mean of the signed error, in units of
  roundoff of the tensor's size, may exceed 1 only if that is within chance: of honest pairs, one in 10 million
  has a mean so many standard errors (over the seeds) from zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from parity.verdict import DIVERGENT, EQUIVALENT, Comparison, TensorResult

AT_LEAST = 8  # fewer seeds leave both questions open
INFLATION = 2.0  # honest pairs reach 1.54 (a saturated GRU cell, 8 seeds)
BIAS_SIZE, BIAS_CHANCE = 1.0, 1e-7


def over_seeds(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return one comparison more for every probe that was drawn from enough seeds (`1x #0`, `1x #1` ...).

    Both questions are about errors in the precision under test: where none was measured, as in float64 or where the
    reference refuses, there is nothing to ask.
    """
    by_probe: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        name, numbered, _ = comparison.name.partition(" #")
        if numbered and any(tensor.rho_rms is not None for tensor in comparison.tensors):
            by_probe.setdefault(name, []).append(comparison)
    return [
        combine(f"{name}, {len(found)} seeds", found)
        for name, found in by_probe.items()
        if len(found) >= AT_LEAST
    ]


def combine(name: str, comparisons: Sequence[Comparison]) -> Comparison:
    """Return what the same probe says over several seeds, one result per tensor."""
    by_name: dict[str, list[TensorResult]] = {}
    for comparison in comparisons:
        for tensor in comparison.tensors:
            if tensor.rho_rms is not None and tensor.verdict == EQUIVALENT:
                by_name.setdefault(tensor.name, []).append(tensor)
    results = tuple(_combined(found) for found in by_name.values() if len(found) == len(comparisons))
    return Comparison(
        name,
        results,
        expected=len(results),
        tiers=("numeric",),
        seconds=0.0,
        probe={"seeds": [comparison.probe.get("seed") for comparison in comparisons]},
    )


def _combined(found: Iterable[TensorResult]) -> TensorResult:
    tensors = list(found)
    inflation = float(np.exp(np.mean([np.log(max(t.rho_rms or 0.0, 1e-30)) for t in tensors])))
    bias = np.asarray([t.bias or 0.0 for t in tensors])
    mean, error = float(np.mean(bias)), float(np.std(bias, ddof=1) / np.sqrt(len(bias)))
    finding = None
    allowed = _quantile(len(bias) - 1) * error
    if not inflation <= INFLATION:
        finding = (
            "inflation",
            f"the error is {inflation:.2f} times the reference's by habit, limit {INFLATION}",
        )
    elif not (abs(mean) <= BIAS_SIZE or abs(mean) <= allowed):
        finding = (
            "bias",
            f"the error has a direction: {mean:+.2g} roundoffs on average, {error:.1g} expected",
        )
    first = tensors[0]
    return TensorResult(
        first.name,
        first.candidate_name,
        first.kind,
        EQUIVALENT if finding is None else DIVERGENT,
        first.shape,
        first.dtype,
        gate=None if finding is None else finding[0],
        message="" if finding is None else finding[1],
        rho_rms=inflation,
        rho_limits=(INFLATION, np.inf),
        bias=mean,
    )


def _quantile(freedom: int) -> float:
    """Return how many standard errors a mean of zero exceeds by chance alone (Student's t)."""
    from scipy import stats  # here, because comparing needs NumPy alone

    return float(stats.t.isf(BIAS_CHANCE / 2, freedom))
