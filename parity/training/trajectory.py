"""The losses of a free run, judged by how far honest runs part from float64. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parity.gates import PRECISIONS, Array
from parity.verdict import DIVERGENT, EQUIVALENT, INCONCLUSIVE

LIMIT = 4.0  # times the null ensemble's distance; an honest run reaches 2.8
HORIZON = 1e-2  # relative distance of the null ensemble at which chaos has won
MOVES = 10.0  # times its noise that a loss must move by
SHORTEST = 5  # steps before the horizon, at least


@dataclass(frozen=True)
class Trajectory:
    """The losses of a free run beside gold and null ensemble, all `[steps]`, and what is made of them.

    envelope: running maximum of the null ensemble's largest relative distance from gold. distance: the candidate's
    running maximum. horizon: steps before chaos. first_outside: the first step, from 1, at which the candidate is
    further away than `LIMIT` envelopes.
    """

    gold: tuple[float, ...] = field(repr=False)
    reference: tuple[float, ...] = field(repr=False)
    candidate: tuple[float, ...] = field(repr=False)
    ensemble: tuple[tuple[float, ...], ...] = field(repr=False)
    envelope: tuple[float, ...] = field(repr=False)
    distance: tuple[float, ...] = field(repr=False)
    horizon: int
    first_outside: int | None
    largest: float  # of distance / envelope, before the horizon
    verdict: str
    message: str = ""

    @property
    def ratio(self) -> tuple[float, ...]:
        """How many envelopes the candidate is from gold, at each step."""
        return tuple(d / e for d, e in zip(self.distance, self.envelope, strict=True))


def judge_trajectory(
    gold: Array, reference: Array, candidate: Array, ensemble: Array, norms: Array | None = None
) -> Trajectory:
    """Judge the losses of a free run, `[steps]`, by those of gold and of a null ensemble, `[runs, steps]`.

    norms: of the candidate's gradients, which must not be zero.
    """
    unit = PRECISIONS["float32"].unit_roundoff
    size = np.maximum(np.abs(gold), 1e-30)
    null = _running(np.max(np.abs(np.vstack([ensemble, reference[None]]) - gold) / size, axis=0))
    envelope = np.maximum(null, 4 * unit)  # a loss that happens to be exact is no measure
    distance = _running(np.abs(candidate - gold) / size)
    beyond = np.flatnonzero(~(envelope < HORIZON))
    horizon = int(beyond[0]) if len(beyond) else len(gold)
    with np.errstate(all="ignore"):
        ratio = distance / envelope
    outside = np.flatnonzero(~(ratio[:horizon] <= LIMIT))  # NaN is outside
    first = int(outside[0]) + 1 if len(outside) else None
    largest = float(np.max(ratio[:horizon], initial=0.0))
    verdict, message = _verdict(gold, candidate, envelope, horizon, first, norms)
    return Trajectory(
        _floats(gold),
        _floats(reference),
        _floats(candidate),
        tuple(map(_floats, ensemble)),
        _floats(envelope),
        _floats(distance),
        horizon,
        first,
        largest,
        verdict,
        message,
    )


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(map(float, values))


def _running(values: Array) -> Array:
    """Return the running maximum; NaN stays."""
    return np.maximum.accumulate(values)


def _verdict(
    gold: Array, candidate: Array, envelope: Array, horizon: int, first: int | None, norms: Array | None
) -> tuple[str, str]:
    if not np.all(np.isfinite(gold)):
        return INCONCLUSIVE, "the reference itself does not stay finite: lower the learning rate"
    if norms is not None and not np.any(norms):
        return DIVERGENT, "the candidate's gradients are zero: nothing trains"
    if len(candidate) > 1 and np.all(candidate == candidate[0]) and np.ptp(gold) > 0:
        return DIVERGENT, "the candidate's loss never moves: nothing trains"
    if horizon < SHORTEST:
        return INCONCLUSIVE, f"chaos after {horizon} steps: lower the learning rate, or clip"
    noise = float(envelope[horizon - 1]) * float(np.max(np.abs(gold[:horizon])))
    if not np.ptp(gold[:horizon]) > MOVES * noise:
        return INCONCLUSIVE, (
            f"the loss moves by {np.ptp(gold[:horizon]):.2g}, not by more than {MOVES:g} times its noise of "
            f"{noise:.2g}: nothing was trained; take more steps or a larger learning rate"
        )
    if first is not None:
        return DIVERGENT, f"leaves the envelope at step {first}"
    return EQUIVALENT, ""
