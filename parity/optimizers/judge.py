"""Are two optimizers the same? Both are given the same gradients, and every step of every parameter is compared.

    report = compare_optimizers(lambda lr: optax.adamw(lr, weight_decay=1e-2), torch.optim.AdamW, ...)

The gates are those of `parity.compare`, with one thing measured beside. In float64 torch loses digits of its
own: its `1 - b2**t` three of them, RAdam's ρ as many again. How many is found twice: by the same equations in
80 bits, where they are spelled out (`parity.longhand.optimizers`), and by moving every hyperparameter by one
rounding. The semantic limit grows by the larger of the two; the numeric tier knows nothing of it, since torch
computes these numbers in Python's float64 whatever the parameters have.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from parity import gates
from parity.compare import compare_arrays, reference_errors, tiers_of
from parity.environment import environment
from parity.gates import PRECISIONS, U64, Array, ReferenceError
from parity.longhand import optimizers as longhand
from parity.longhand.optimizers import Setup
from parity.optimizers.replay import Replay, designed
from parity.verdict import DIVERGENT, EQUIVALENT, CaseResult, Comparison, Report, TensorResult, worst
from parity.weighing import explained, put_in_words

if TYPE_CHECKING:
    from parity.optimizers.jax_side import Candidate
    from parity.optimizers.torch_side import Factory

DRAWS = 4  # of the reference's rounding errors, beside its own; elementwise arithmetic amplifies none
# torch and the equations in 80 bits are apart by at most 6e-11 (RAdam with coupled decay), unless one is wrong.
CONFLICT = 1e-8
# Where parameters are compared: they add up what went before, so that a wrong step shows in all that follow.
JUDGED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40)  # and the last
_HAS_80_BITS = bool(np.finfo(np.longdouble).eps < 1e-18)

Run = Mapping[str, Array]  # a parameter after every step, [steps, *shape], by name


@dataclass(frozen=True)
class OptimizerPair:
    """A torch optimizer and what clips its gradients; `make` takes named parameters and returns an optimizer."""

    make: Factory
    clip_norm: float | None = None
    clip_value: float | None = None

    def run(self, replay: Replay, dtype: str, moved: int = 0) -> dict[str, Array]:
        """Return every parameter after every step."""
        from parity.optimizers import torch_side

        return torch_side.run(
            self.make, replay, dtype, clip_norm=self.clip_norm, clip_value=self.clip_value, moved=moved
        )

    def setup(self, replay: Replay) -> Setup | None:
        """Return how the optimizer is built, where it is one of torch's."""
        from parity.optimizers import torch_side

        return torch_side.setup_of(self.make, replay, clip_norm=self.clip_norm, clip_value=self.clip_value)


@dataclass(frozen=True)
class OptimizerEvidence:
    """What the reference makes of some gradients, computed once for any number of candidates.

    noise: how far torch's own float64 run is from the truth, rms at every step.
    """

    replay: Replay
    setup: Setup | None
    measured: Run = field(repr=False)
    oracle: Run = field(repr=False)
    redrawn: Mapping[str, ReferenceError] = field(repr=False)
    noise: Run = field(repr=False)
    description: str = ""

    @cached_property
    def widened(self) -> dict[str, ReferenceError]:
        """The reference's error as the semantic gate takes it: that of its float64 run counts too."""
        ratio = PRECISIONS["float32"].unit_roundoff / U64
        found = {}
        for name, noise in self.noise.items():
            for k, size in enumerate(noise):
                step = step_name(k, name)
                drawn = self.redrawn[step]
                found[step] = ReferenceError(max(drawn.rms, float(size) * ratio), drawn.peak)
        return found

    @cached_property
    def limits(self) -> dict[str, Array]:
        """The semantic limit of every step of every parameter, relative to its size."""
        found = {}
        for name, oracle in self.oracle.items():
            sizes = rms_of_steps(oracle)
            errors = [self.widened[step_name(k, name)].rms for k in range(self.replay.steps)]
            own = rms_of_steps(gates.float64(self.measured[name]) - oracle)
            with np.errstate(all="ignore"):
                kappa = np.maximum(errors, own) / sizes / PRECISIONS["float32"].unit_roundoff
            kappa = np.where(np.isfinite(kappa), kappa, 0.0)
            found[name] = np.maximum(gates.SEMANTIC_FLOOR, gates.SEMANTIC_SLOPE * kappa) * U64
        return found


def step_name(k: int, name: str) -> str:
    """Return `step3(weight)` for k = 2."""
    return f"step{k + 1}({name})"


def rms_of_steps(values: Array) -> Array:
    """Root mean square at every step."""
    return np.array([gates.rms(step) for step in np.asarray(values, np.float64)])


def gather(reference: OptimizerPair, replay: Replay) -> OptimizerEvidence:
    """Play gradients to the reference, in float32 and float64, and measure its errors in both.

    Raises OracleConflictError when torch and the spelled-out optimizer disagree.
    """
    measured, oracle = (reference.run(replay, dtype) for dtype in ("float32", "float64"))
    redrawn = reference_errors(_draws(reference, replay, measured, oracle))
    setup = reference.setup(replay)
    others = [reference.run(replay, "float64", moved) for moved in (1, -1)]
    description = f"torch.optim.{setup.kind} in float64" if setup else "the reference in float64"
    if setup is not None:
        exact = longhand.run(setup, replay, dtype=np.longdouble)
        _require_agreement(setup.kind, oracle, exact)
        others.append({name: np.asarray(value) for name, value in exact.items()})
        description += f", agrees with its equations in {'80 bits' if _HAS_80_BITS else 'NumPy'}"
    noise = {
        name: np.max([rms_of_steps(each[name] - value) for each in others], axis=0)
        for name, value in oracle.items()
    }
    return OptimizerEvidence(replay, setup, measured, oracle, redrawn, noise, description)


def _draws(
    reference: OptimizerPair, replay: Replay, measured: Run, oracle: Run
) -> Iterable[tuple[dict[str, Array], dict[str, Array]]]:
    yield _steps(measured), _steps(oracle)
    for number in range(DRAWS):
        moved = replay.jittered(number)
        yield _steps(reference.run(moved, "float32")), _steps(reference.run(moved, "float64"))


def _require_agreement(kind: str, oracle: Run, exact: Run) -> None:
    for name, value in oracle.items():
        sizes = np.maximum(rms_of_steps(value), 1e-3 * gates.rms(value))
        apart = rms_of_steps(np.asarray(exact[name] - value, np.float64))
        if not np.all(apart <= CONFLICT * sizes):
            from parity.oracle.oracle import OracleConflictError

            raise OracleConflictError(
                f"ORACLE CONFLICT: torch.optim.{kind} and its equations in parity.longhand.optimizers disagree on "
                f"{name} by {np.nanmax(apart / sizes):.2g}; repair these before judging by them."
            )


def _steps(run: Run) -> dict[str, Array]:
    """Name every step of every parameter, in the order of time."""
    steps = len(next(iter(run.values())))
    return {step_name(k, name): run[name][k] for k in range(steps) for name in run}


def _judged(run: Run) -> dict[str, Array]:
    """Name the parameters at the steps at which they are compared."""
    steps = len(next(iter(run.values())))
    chosen = [k for k in range(steps) if k + 1 in JUDGED or k + 1 == steps]
    return {step_name(k, name): run[name][k] for k in chosen for name in run}


@dataclass(frozen=True)
class Judgement:
    """A comparison and what it rests on."""

    comparison: Comparison
    evidence: OptimizerEvidence | None = None
    found: Run = field(default_factory=dict, repr=False)  # the candidate's, in the precision under test
    found64: Run = field(default_factory=dict, repr=False)

    @property
    def first_bad(self) -> int | None:
        """The first step, from 1, that is not the reference's in float64, or else in the precision under test."""
        if self.evidence is None:
            return None
        bad = np.zeros(self.evidence.replay.steps, bool)
        for name, oracle in self.evidence.oracle.items():
            errors = rms_of_steps(self.found64[name] - oracle)
            bad |= ~(errors <= self.evidence.limits[name] * rms_of_steps(oracle))
        if bad.any():
            return int(np.argmax(bad)) + 1
        steps = [t.name for t in self.comparison.tensors if t.verdict == DIVERGENT and not t.unexpected]
        return min((int(name[4 : name.index("(")]) for name in steps), default=None)


def weigh(candidate: Candidate, evidence: OptimizerEvidence) -> Judgement:
    """Play the same gradients to a candidate and compare every step."""
    from parity.optimizers import jax_side

    replay = evidence.replay
    started = time.perf_counter()
    found, found64 = (jax_side.run(candidate, replay, dtype) for dtype in ("float32", "float64"))
    tensors = _judge(evidence, found, found64)
    notes: tuple[str, ...] = ()
    if jax_side.is_transformation(candidate):
        notes = ("learning rates that change: the candidate's is fixed; pass a function of the rate",)
    comparison = Comparison(
        replay.name,
        tensors,
        expected=len(_judged(evidence.oracle)),
        tiers=tiers_of(tensors),
        oracle=evidence.description,
        notes=notes,
        seconds=time.perf_counter() - started,
        probe=replay.describe(),
    )
    return Judgement(comparison, evidence, found, found64)


def _judge(evidence: OptimizerEvidence, found: Run, found64: Run) -> tuple[TensorResult, ...]:
    c, c64, r, o = map(_judged, (found, found64, evidence.measured, evidence.oracle))
    kinds = dict.fromkeys(r, "step")
    numeric = compare_arrays(c, r, o, kinds=kinds, redrawn=evidence.redrawn)
    semantic = compare_arrays(c64, r, o, kinds=kinds, redrawn=evidence.widened)
    return tuple(_merged(*pair) for pair in zip(semantic, numeric, strict=True))


def _merged(semantic: TensorResult, numeric: TensorResult) -> TensorResult:
    """Return one result with the numbers of both tiers; the semantic finding comes first."""
    verdict = worst((semantic.verdict, numeric.verdict))
    decisive = semantic if semantic.verdict == verdict else numeric
    return dataclasses.replace(
        numeric,
        verdict=verdict,
        compared=semantic.compared and numeric.compared,
        gate=decisive.gate if verdict != EQUIVALENT else None,
        message=decisive.message,
        semantic_error=semantic.semantic_error,
        semantic_limit=semantic.semantic_limit,
        semantic_sensitivity=semantic.semantic_sensitivity,
        first=decisive.first,
        worst=decisive.worst,
    )


def compare_optimizers(
    candidate: Candidate,
    reference: Factory,
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    probe_set: str = "designed",
    seed: int = 0,
    replays: Iterable[Replay] | None = None,
    name: str = "optimizer",
) -> Report:
    """Judge an optax transformation by a torch optimizer, on recorded gradients.

    candidate: a function of the learning rate, which it receives as a schedule, so that the rate can change at
    every
        step: ``lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))``, with the rate in units of
        the reference's (`lambda lr: adamw(lambda k: 1e-3 * lr(k))`); or a finished transformation, whose rate
        stays.
    reference: a function of named parameters, ``lambda named: torch.optim.AdamW(named.values(), lr=1e-3)``. It may
        sort them into groups, or leave some out: these are frozen.
    clip_norm, clip_value: what torch's `clip_grad_norm_` and `clip_grad_value_` do before each step.
    replays: gradients instead of the designed ones, for instance recorded in a training run.
    """
    started = time.perf_counter()
    pair = OptimizerPair(reference, clip_norm, clip_value)
    chosen = designed(probe_set, seed, clip_norm=clip_norm) if replays is None else list(replays)
    result = judge_pair(name, "", candidate, pair, chosen)
    return Report((result,), environment(), time.perf_counter() - started)


def judge_pair(
    id: str,
    summary: str,
    candidate: Candidate,
    reference: OptimizerPair,
    replays: Iterable[Replay],
    progress: Callable[[], None] = lambda: None,
) -> CaseResult:
    """Play gradients to both optimizers; where they diverge, say why."""
    from parity.optimizers import jax_side

    fixed = jax_side.is_transformation(candidate)
    judgements = []
    for replay in replays:
        judgements.append(_try(candidate, reference, replay.steady() if fixed else replay))
        progress()
    return conclude(id, summary, judgements)


def _try(candidate: Candidate, reference: OptimizerPair, replay: Replay) -> Judgement:
    try:
        return weigh(candidate, gather(reference, replay))
    except Exception as error:
        return Judgement(Comparison(replay.name, error=put_in_words(error), probe=replay.describe()))


def conclude(id: str, summary: str, judgements: list[Judgement]) -> CaseResult:
    """Return the case's result; where it diverges, with its diagnosis."""
    result = CaseResult(id, summary, tuple(judgement.comparison for judgement in judgements))

    def explain(result: CaseResult) -> CaseResult:
        from parity.optimizers.diagnosis import diagnose

        return dataclasses.replace(result, diagnosis=diagnose(judgements))

    return explained(result, explain)
