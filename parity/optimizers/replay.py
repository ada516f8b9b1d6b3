"""What both optimizers are given: recorded gradients, played back to them. NumPy only.

Two optimizers that compute their own gradients part by chaos, whether they are equal or not. Given the same
gradients, every step of one must be the step of the other. The designed gradients span 1e-12 to 1e3, with zeros and
changing signs; the learning rate changes at every step; parameters have all shapes, some start at zero, so that
no rounding of theirs hides an update; one element never gets a gradient; where gradients are clipped, their
norm is below, at and above the threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from parity.gates import PRECISIONS, Array
from parity.probe import JITTER

STEPS = 50
# Norms of the clipped gradients, in units of the threshold: far below, below, at, above, far above.
NORMS = (0.3, 1.0, 7.0, 1.0, 1e3, 1e-3)


class _Drawn(NamedTuple):
    """How a designed parameter and its gradients are drawn."""

    shape: tuple[int, ...]
    start: float  # standard deviation of its first value
    decades: tuple[float, float]  # of the sizes of its gradients' elements
    zeros: float = 0.1  # share of its gradients' elements that are zero


PARAMETERS = {
    "rnn.weight_ih_l0": _Drawn((7, 5), 0.01, (-3, 1)),
    "rnn.weight_hh_l0": _Drawn((3, 2, 4), 0.01, (0, 3)),
    "rnn.bias_ih_l0": _Drawn((11,), 0.0, (-6, -1)),
    "rnn.bias_hh_l0": _Drawn((6,), 0.0, (-12, -7)),  # where eps decides
    "norm.weight": _Drawn((4,), 1.0, (-1, 1), zeros=0.0),
    "embedding.weight": _Drawn((9, 2), 0.3, (-2, 0), zeros=0.7),
}


@dataclass(frozen=True)
class Replay:
    """Parameters, a gradient for each of them at every step, and how the learning rate changes.

    start: float32 arrays by name. gradients: likewise, with an axis of steps in front. rates: by what the learning
    rates are multiplied at each step.
    """

    name: str
    start: Mapping[str, Array] = field(repr=False)
    gradients: Mapping[str, Array] = field(repr=False)
    rates: Array = field(repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        if set(self.start) != set(self.gradients):
            raise ValueError(f"gradients of {sorted(self.gradients)}, but parameters {sorted(self.start)}.")
        for name, start in self.start.items():
            expected = (len(self.rates), *np.shape(start))
            if np.shape(self.gradients[name]) != expected:
                raise ValueError(
                    f"gradients[{name!r}]: shape {np.shape(self.gradients[name])}, expected {expected}: one "
                    "gradient for each rate."
                )

    @property
    def steps(self) -> int:
        """How many updates there are."""
        return len(self.rates)

    @property
    def constant_rate(self) -> bool:
        """Whether the learning rate stays what it is."""
        return bool(np.all(self.rates == 1.0))

    def steady(self) -> Replay:
        """Return the same with a learning rate that does not change."""
        return dataclasses.replace(self, name=f"{self.name}, constant rate", rates=np.ones(self.steps))

    def jittered(self, number: int) -> Replay:
        """Return the same question with other roundings: every number moved by a few units of roundoff."""
        rng = np.random.default_rng([self.seed, number])
        spread = JITTER * PRECISIONS["float32"].unit_roundoff

        def moved(values: Array) -> Array:
            exact = np.asarray(values, np.float64)
            return np.asarray(exact * (1 + spread * rng.uniform(-1, 1, exact.shape)), np.float32)

        start = {name: moved(values) for name, values in self.start.items()}
        gradients = {name: moved(values) for name, values in self.gradients.items()}
        return dataclasses.replace(self, start=start, gradients=gradients)

    def describe(self) -> dict[str, Any]:
        """Say what was asked, for the report."""
        shapes = {name: f"float32{list(np.shape(value))}" for name, value in self.start.items()}
        return {"seed": self.seed, "steps": self.steps, "parameters": shapes}


def designed(
    probe_set: str = "designed", seed: int = 0, *, steps: int = STEPS, clip_norm: float | None = None
) -> list[Replay]:
    """Return the designed replays: gradients of all sizes, and in the designed set also steady ones."""
    found = [_wide(seed, steps, clip_norm)]
    return found if probe_set == "quick" else [*found, _drifting(seed, steps, clip_norm)]


def _wide(seed: int, steps: int, clip_norm: float | None) -> Replay:
    rng = np.random.default_rng([seed, 0])
    gradients = {}
    for name, drawn in PARAMETERS.items():
        shape = (steps, *drawn.shape)
        sizes = 10.0 ** rng.uniform(*drawn.decades, drawn.shape)
        values = np.asarray(sizes * rng.standard_normal(shape))
        values[rng.random(shape) < drawn.zeros] = 0.0
        gradients[name] = values
    signs = np.where(np.arange(steps) % 2, -1.0, 1.0)[:, None]
    gradients["norm.weight"] = np.abs(gradients["norm.weight"]) * signs
    gradients["norm.weight"][:, -1] = 0.0  # an element that never gets a gradient
    return _replay("wide", rng, gradients, rng.uniform(0.2, 1.8, steps), clip_norm, seed)


def _drifting(seed: int, steps: int, clip_norm: float | None) -> Replay:
    """Gradients that keep a direction, as in training: what adds up over steps shows."""
    rng = np.random.default_rng([seed, 1])
    gradients = {
        name: rng.standard_normal(drawn.shape) + 0.3 * rng.standard_normal((steps, *drawn.shape))
        for name, drawn in PARAMETERS.items()
    }
    return _replay("drifting", rng, gradients, np.ones(steps), clip_norm, seed)


def _replay(
    name: str,
    rng: np.random.Generator,
    gradients: dict[str, Array],
    rates: Array,
    clip_norm: float | None,
    seed: int,
) -> Replay:
    if clip_norm is not None and np.isfinite(clip_norm):
        gradients = with_norms(gradients, clip_norm * np.resize(NORMS, len(rates)))
    start = {key: each.start * rng.standard_normal(each.shape) for key, each in PARAMETERS.items()}
    start["norm.weight"] = 1.0 + 0.1 * start["norm.weight"]
    return Replay(name, _float32(start), _float32(gradients), rates, seed)


def with_norms(gradients: Mapping[str, Array], norms: Array) -> dict[str, Array]:
    """Return gradients scaled so that the norm of all together is a given one at each step."""
    squares = sum(np.sum(g.reshape(len(g), -1) ** 2, axis=1) for g in gradients.values())
    share = norms / np.sqrt(squares)
    return {name: g * share.reshape(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}


def _float32(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}
