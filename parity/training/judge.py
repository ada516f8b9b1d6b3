"""Do two training runs agree? Step by step they must; freely they may part no faster than honest runs do.

Losses of two runs at step 200 cannot be compared by any tolerance: a rounding grows until it is everything. So
three things are asked, each of which isolates something:

* **replay**: the optimizers, on the gradients that the reference recorded, from its weights and from zero (where no
  rounding of a weight hides an update);
* **one step at a time**: from the reference's parameters, and with an optimizer that has seen its gradients,
  one whole step: loss, gradients, parameters after it. This finds the first bad step;
* **free run**: how far the candidate's losses are from a run in float64 (gold), beside a null ensemble: float32
  runs of the reference whose weights and gradients are nudged by roundings. It may leave gold at most four
  times as far as the worst of these has by then, up to the horizon, where the ensemble itself is a hundredth
  away and all is chaos.

A run that does not train compares nothing: the loss must move by more than ten times its noise, and gradients
must not be zero.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.compare import compare_arrays, reference_errors, tiers_of
from parity.gates import Array
from parity.longhand import optimizers as longhand
from parity.optimizers import judge as optimizers
from parity.optimizers.judge import OptimizerPair
from parity.optimizers.replay import Replay
from parity.training.trajectory import LIMIT, SHORTEST, Trajectory, judge_trajectory
from parity.verdict import (
    DIVERGENT,
    EQUIVALENT,
    CaseResult,
    Comparison,
    Element,
    TensorResult,
    worst,
)
from parity.weighing import put_in_words, side_of

SCHEMA = "parity-training/1"
REPLAYED = 50  # steps of the recorded gradients that the optimizers are given
EVERY = 20  # steps between two that are taken by themselves
DRAWS = 3  # of the reference's error in a single step, beside its own

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What became of the three questions; those after an error were not asked."""

    id: str
    summary: str = ""
    replay: CaseResult | None = None
    single: CaseResult | None = None
    trajectory: Trajectory | None = None
    first_bad: int | None = None  # the first step, from 1, that is wrong by itself
    error: str | None = None
    not_run: str | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """The gravest of all verdicts."""
        return worst(case.verdict for case in self.cases())

    def cases(self) -> tuple[CaseResult, ...]:
        """Return the three questions as the cases of a report."""
        if self.error is not None or self.not_run is not None:
            return (CaseResult(self.id, self.summary, error=self.error, not_run=self.not_run),)
        found = [case for case in (self.replay, self.single) if case is not None]
        if self.trajectory is not None:
            diagnosis = self.replay.diagnosis if self.replay else None
            diverges = self.trajectory.verdict == DIVERGENT
            found.append(
                CaseResult(
                    f"{self.id}: free run",
                    self.summary,
                    (_as_comparison(self.trajectory),),
                    diagnosis=diagnosis if diverges else None,
                )
            )
        return tuple(found)

    def to_json(self) -> str:
        """Return verdicts and trajectories as JSON of schema `parity-training/1`, for plots."""
        trajectory = self.trajectory
        content = {
            "schema": SCHEMA,
            "id": self.id,
            "summary": self.summary,
            "verdict": self.verdict,
            "error": self.error,
            "not_run": self.not_run,
            "first_bad_step": self.first_bad,
            "limit": LIMIT,
            "seconds": self.seconds,
            "questions": {case.id: case.verdict for case in self.cases()},
            "trajectory": None if trajectory is None else dataclasses.asdict(trajectory),
        }
        return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity; a reader that is told "nan" cannot take it for a number."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _as_comparison(trajectory: Trajectory) -> Comparison:
    """Return the free run as a tensor that was judged."""
    steps = len(trajectory.gold)
    first = None
    if trajectory.first_outside is not None:
        k = trajectory.first_outside - 1
        first = Element((k,), trajectory.candidate[k], trajectory.reference[k], trajectory.gold[k])
    result = TensorResult(
        "loss",
        "loss",
        "output",
        trajectory.verdict,
        (steps,),
        "float32",
        gate=None if trajectory.verdict == EQUIVALENT else "envelope",
        message=trajectory.message,
        rho_max=trajectory.largest,
        rho_limits=(LIMIT, LIMIT),
        first=first,
        worst=first,
    )
    description = (
        f"torch in float64, {len(trajectory.ensemble)} float32 runs around it, {trajectory.horizon} steps"
    )
    return Comparison(f"{steps} steps", (result,), 1, ("training",), description, probe={"steps": steps})


def compare_training(
    candidate_model: Any,
    reference_model: Any,
    batches: Sequence[Any],
    loss_pair: tuple[Callable[..., Any], Callable[..., Any]],
    optimizer_pair: tuple[Any, OptimizerPair | Callable[..., Any]],
    steps: int,
    *,
    ensemble: int = 8,
    every: int = EVERY,
    id: str = "training",
    summary: str = "",
    progress: Progress = lambda text: None,
) -> TrainingResult:
    """Judge a training run in JAX by the same in PyTorch; neither model is changed.

    candidate_model, reference_model: an `nnx.Module` and a `torch.nn.Module`; training starts from the latter's
    weights,
        which must fit the former by torch's names. Nothing in them may be random: no active dropout.
    batches: NumPy arrays, nested in tuples or dicts, all of one shape; used in order, again and again.
    loss_pair: ``loss(model, batch) -> scalar`` in JAX, and in torch.
    optimizer_pair: an optax transformation (or a function of a learning rate, which is then 1 in units of torch's),
        clipping included; and an `OptimizerPair`, or a function of named parameters that returns an optimizer.
    ensemble: runs of the null ensemble, 6 to 12. every: steps between two that are taken by themselves.
    """
    started = time.perf_counter()
    optimizer, reference_optimizer = optimizer_pair
    if not isinstance(reference_optimizer, OptimizerPair):
        reference_optimizer = OptimizerPair(reference_optimizer)
    if steps < SHORTEST or ensemble < 2 or not batches:
        raise ValueError(
            f"steps={steps}, ensemble={ensemble}, {len(batches)} batches: expected at least {SHORTEST} steps, 2 "
            "runs of the ensemble (6 to 12 are usual) and 1 batch."
        )
    runs = _Runs(candidate_model, reference_model, batches, loss_pair, optimizer, reference_optimizer, steps)
    result = TrainingResult(id, summary)
    try:
        progress("recording the reference")
        recorded = runs.reference(record=True)
        progress("replay")
        replay = _replay(f"{id}: replay", summary, runs, recorded)
        progress("one step at a time")
        single, first_bad = _single(f"{id}: one step at a time", summary, runs, recorded, every)
        trajectory = _free(runs, recorded, ensemble, progress)
        result = dataclasses.replace(
            result, replay=replay, single=single, trajectory=trajectory, first_bad=first_bad
        )
    except Exception as error:
        result = dataclasses.replace(result, error=put_in_words(error))
    return dataclasses.replace(result, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class _Runs:
    """Both sides and what they are trained on."""

    candidate_model: Any
    reference_model: Any
    batches: Sequence[Any]
    losses: tuple[Callable[..., Any], Callable[..., Any]]
    optimizer: Any
    pair: OptimizerPair
    steps: int

    @property
    def torchs(self) -> Any:
        return importlib.import_module("parity.training.torch_side")

    @property
    def ours(self) -> Any:
        return importlib.import_module("parity.training.jax_side")

    @property
    def weights(self) -> dict[str, Array]:
        found: dict[str, Array] = side_of(self.reference_model).parameters(self.reference_model)
        return {name: value.astype(np.float32) for name, value in found.items()}

    def reference(self, dtype: str = "float32", **options: Any) -> Any:
        """Train the reference."""
        return self.torchs.train(
            self.reference_model, self.losses[1], self.pair, self.batches, self.steps, dtype, **options
        )

    def candidate(self) -> tuple[Array, Array]:
        """Train the candidate; return losses and norms of gradients."""
        return self.ours.train(
            self.candidate_model, self.weights, self.losses[0], self.optimizer, self.batches, self.steps
        )

    def single(self, recorded: Any, checked: Sequence[int], dtype: str) -> dict[str, Array]:
        """Take the candidate's single steps."""
        return self.ours.forced(
            self.candidate_model,
            self.losses[0],
            self.optimizer,
            self.batches,
            recorded.parameters,
            recorded.gradients,
            checked,
            dtype,
        )

    def reference_single(
        self, recorded: Any, checked: Sequence[int], dtype: str, jittered: int | None = None
    ) -> dict[str, Array]:
        """Take the reference's single steps."""
        return self.torchs.forced(
            self.reference_model,
            self.losses[1],
            self.pair,
            self.batches,
            recorded,
            checked,
            dtype,
            jittered=jittered,
        )


# Replay ---------------------------------------------------------------------------------------------------


def _replay(id: str, summary: str, runs: _Runs, recorded: Any) -> CaseResult:
    """Give both optimizers the recorded gradients, from the recorded weights and from zero."""
    gradients = {name: values[:REPLAYED] for name, values in recorded.gradients.items()}
    start = {name: values[0] for name, values in recorded.parameters.items()}
    zero = {name: np.zeros_like(value) for name, value in start.items()}
    rates = np.ones(len(next(iter(gradients.values()))))
    replays = [
        Replay("recorded gradients", start, gradients, rates),
        Replay("recorded gradients, from zero", zero, gradients, rates),
    ]
    judgements = [
        optimizers.weigh(runs.optimizer, optimizers.gather(runs.pair, replay)) for replay in replays
    ]
    return optimizers.conclude(id, summary, judgements)


# One step at a time ---------------------------------------------------------------------------------------


def _single(id: str, summary: str, runs: _Runs, recorded: Any, every: int) -> tuple[CaseResult, int | None]:
    """Compare single steps, every few of them; where one is wrong, look for the first that is."""
    checked = sorted({*range(0, runs.steps, every), runs.steps - 1})
    comparison = _compare_steps(f"every {every} steps", runs, recorded, checked)
    first, notes = _first_bad(comparison), _unclipped(runs.pair, recorded)
    if first is None:
        return CaseResult(id, summary, (comparison,), notes=notes), None
    good = max((step for step in checked if step < first - 1), default=-1)
    between = list(range(good + 1, first))
    closer = _compare_steps("up to the first bad step", runs, recorded, between)
    return CaseResult(id, summary, (comparison, closer), notes=notes), _first_bad(closer) or first


def _unclipped(pair: OptimizerPair, recorded: Any) -> tuple[str, ...]:
    """Say where clipping was never or always active: then half of it was not seen."""
    if pair.clip_norm is None:
        return ()
    above = longhand.total_norms(recorded.gradients) > pair.clip_norm
    if above.any() and not above.all():
        return ()
    when = "above" if above.any() else "below"
    return (f"clipping at both sides of its threshold: the norm of the gradients was always {when} it",)


def _compare_steps(name: str, runs: _Runs, recorded: Any, checked: Sequence[int]) -> Comparison:
    started = time.perf_counter()
    measured, oracle = (runs.reference_single(recorded, checked, dtype) for dtype in ("float32", "float64"))
    redrawn = reference_errors(
        (
            runs.reference_single(recorded, checked, "float32", draw),
            runs.reference_single(recorded, checked, "float64", draw),
        )
        for draw in range(DRAWS)
    )
    found, found64 = (runs.single(recorded, checked, dtype) for dtype in ("float32", "float64"))
    kinds = {each: {"l": "output", "g": "grad", "s": "step"}[each[0]] for each in measured}
    tensors = compare_arrays(
        {each: found[each] for each in found}, measured, oracle, found64, kinds=kinds, redrawn=redrawn
    )
    return Comparison(
        name,
        tensors,
        len(measured),
        tiers_of(tensors),
        "torch in float64, from the same parameters",
        seconds=time.perf_counter() - started,
        probe={"steps": [step + 1 for step in checked]},
    )


def _first_bad(comparison: Comparison) -> int | None:
    bad = [
        tensor.name for tensor in comparison.tensors if tensor.verdict == DIVERGENT and not tensor.unexpected
    ]
    return min((int(name[4:].partition("(")[0]) for name in bad), default=None)


# Free run -------------------------------------------------------------------------------------------------


def _free(runs: _Runs, recorded: Any, ensemble: int, progress: Progress) -> Trajectory:
    """Let both train, and see how far they come from gold."""
    progress("free run in float64")
    gold = runs.reference("float64").losses
    null = []
    for number in range(ensemble):
        progress(f"null ensemble, run {number + 1} of {ensemble}")
        null.append(runs.reference(nudged=number).losses)
    progress("free run of the candidate")
    losses, norms = runs.candidate()
    return judge_trajectory(gold, recorded.losses, losses, np.stack(null), norms)
