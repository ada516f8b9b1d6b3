"""The null distribution: what honest pairs look like, and how likely they are to be taken for wrong.

Every registered case is faithful, so each tensor that does not pass is a false alarm. The tail of what is measured
is fitted by the peaks over a threshold, as a generalised Pareto distribution (Pickands, 1975), which says how often
a limit that was never reached would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from parity.cases import Case
from parity.gates import Array
from parity.judge import judge_case
from parity.verdict import EQUIVALENT, NOT_RUN, CaseResult, TensorResult

PEAKS = 0.98  # the share of measurements below the threshold of the fit
MEASURES = ("semantic", "rho_rms", "rho_max")  # each as a share of its limit


@dataclass(frozen=True)
class Tail:
    """How one measure is distributed over honest tensors, as a share of its limit."""

    measure: str
    count: int
    median: float
    largest: float
    shape: float  # of the Pareto distribution; negative: it ends
    exceeds: float  # probability, per tensor, that an honest one exceeds the limit


@dataclass
class NullRun:
    """The measurements of honest tensors, collected case by case."""

    tensors: int = 0
    alarms: list[str] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in MEASURES})

    def add(self, result: CaseResult, seed: int) -> None:
        """Add a case's tensors; whatever is not EQUIVALENT is a false alarm."""
        self.tensors += len(result.tensors)
        for comparison in result.comparisons:
            if comparison.error or comparison.compared != comparison.expected:
                self.alarms.append(
                    f"{result.id} {comparison.name} seed {seed}: {comparison.error or 'incomplete'}"
                )
            for tensor in comparison.tensors:
                self._add_tensor(tensor, f"{result.id} {comparison.name} seed {seed}")

    def _add_tensor(self, tensor: TensorResult, where: str) -> None:
        if tensor.verdict != EQUIVALENT:
            self.alarms.append(f"{where}: {tensor.name} {tensor.verdict} by {tensor.gate}")
        if tensor.semantic_ratio is not None:
            self.shares["semantic"].append(tensor.semantic_ratio)
        if tensor.rho_limits is not None and tensor.rho_rms is not None and tensor.rho_max is not None:
            self.shares["rho_rms"].append(tensor.rho_rms / tensor.rho_limits[0])
            self.shares["rho_max"].append(tensor.rho_max / tensor.rho_limits[1])

    def tails(self) -> list[Tail]:
        """Return the fitted tail of each measure."""
        return [fit_tail(name, np.asarray(shares)) for name, shares in self.shares.items() if shares]

    @property
    def upper_bound(self) -> float:
        """The 95 % upper confidence bound (Clopper-Pearson) of the rate of false alarms per tensor."""
        return float(stats.beta.ppf(0.95, len(self.alarms) + 1, max(self.tensors - len(self.alarms), 1)))


def fit_tail(measure: str, shares: Array) -> Tail:
    """Fit the largest 2 % of some measurements, and ask how often they would exceed 1, the limit."""
    threshold = float(np.quantile(shares, PEAKS))
    peaks = shares[shares > threshold] - threshold
    rate = len(peaks) / len(shares)
    shape, _, scale = stats.genpareto.fit(peaks, floc=0.0) if len(peaks) >= 10 else (np.nan, 0.0, np.nan)
    exceeds = rate * float(stats.genpareto.sf(1.0 - threshold, shape, scale=scale))
    return Tail(measure, len(shares), float(np.median(shares)), float(shares.max()), float(shape), exceeds)


def run_null(
    cases: Sequence[Case],
    tensors: int,
    first_seed: int = 0,
    progress: Callable[[NullRun], None] = lambda run: None,
) -> NullRun:
    """Judge honest pairs, seed after seed, until so many tensors were compared.

    Raises RuntimeError when no case can be run at all.
    """
    run, seed = NullRun(), first_seed
    while run.tensors < tensors:
        before = run.tensors
        for case in cases:
            result = judge_case(case, "designed", seed)
            if result.verdict != NOT_RUN:
                run.add(result, seed)
            progress(run)
            if run.tensors >= tensors:
                break
        if run.tensors == before:
            raise RuntimeError("no case could be run: pip install 'jaxrnn[torch,examples]'.")
        seed += 1
    return run
