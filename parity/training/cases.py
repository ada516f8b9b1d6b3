"""The training runs that exist twice, in one table; nothing is imported to read it."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.cases import INSTALL
from parity.gates import Array
from parity.optimizers.judge import OptimizerPair
from parity.training.judge import Progress, TrainingResult, compare_training


@dataclass(frozen=True)
class TrainingCase:
    """A training run that exists twice: a forecaster of one kind of layer, its optimizer, how it is clipped."""

    id: str
    summary: str
    kind: str
    reference: str  # torch's optimizer as a call
    candidate: str
    clip_norm: float | None = None
    hidden: int = 16


ROWS, STEPS, FEATURES, PREDICTED, BATCHES = 11, 12, 3, 2, 8
SIZE = 3.0  # of what is predicted: the norm of the gradients is now above, now below the clipping's threshold

CASES = (
    TrainingCase(
        "lstm",
        "LSTM, Adam at 1e-2, gradients clipped at norm 1",
        "LSTM",
        "Adam(lr=1e-2)",
        "optax.chain(jaxrnn.optim.clip_grad_norm(1.0), jaxrnn.optim.adam(1e-2))",
        clip_norm=1.0,
    ),
    TrainingCase(
        "gru",
        "GRU, AdamW at 3e-3",
        "GRU",
        "AdamW(lr=3e-3)",
        "jaxrnn.optim.adamw(3e-3)",
    ),
    TrainingCase(
        "rnn",
        "RNN, SGD with momentum 0.9 at 1e-2",
        "RNN",
        "SGD(lr=1e-2, momentum=0.9)",
        "jaxrnn.optim.sgd(1e-2, momentum=0.9)",
    ),
)


def judge_case(
    case: TrainingCase,
    steps: int = 240,
    ensemble: int = 8,
    *,
    seed: int = 0,
    candidate: Any = None,
    progress: Progress = lambda text: None,
) -> TrainingResult:
    """Judge one row; `candidate`, where given, is the optimizer in place of the case's own, or a call of it."""
    if importlib.util.find_spec("torch") is None:
        return TrainingResult(case.id, case.summary, not_run=f"torch not installed; {INSTALL['torch']}")
    torchs = importlib.import_module("parity.training.subjects_torch")
    ours = importlib.import_module("parity.training.subjects_jax")
    sizes = (FEATURES, case.hidden, 1, PREDICTED)
    optimizer = case.candidate if candidate is None else candidate
    if isinstance(optimizer, str):
        optimizer = importlib.import_module("parity.optimizers.jax_side").from_text(optimizer)
    make = importlib.import_module("parity.optimizers.torch_side").from_text(case.reference)
    return compare_training(
        ours.forecaster(case.kind, sizes),
        torchs.forecaster(case.kind, sizes, seed),
        regression(seed),
        (ours.squared_error, torchs.squared_error),
        (optimizer, OptimizerPair(make, case.clip_norm)),
        steps,
        ensemble=ensemble,
        id=case.id,
        summary=case.summary,
        progress=progress,
    )


def regression(seed: int) -> list[tuple[Array, Array]]:
    """Return batches (x [B, T, I], y [B, O]) of noisy waves and where they go next."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(BATCHES):
        phase = rng.uniform(0, 2 * np.pi, (ROWS, 1, FEATURES))
        speed = rng.uniform(0.2, 0.9, (ROWS, 1, FEATURES))
        waves = np.sin(phase + speed * np.arange(STEPS + 1)[None, :, None])
        x = waves[:, :STEPS] + 0.1 * rng.standard_normal((ROWS, STEPS, FEATURES))
        found.append((np.asarray(x, np.float32), np.asarray(SIZE * waves[:, -1, :PREDICTED], np.float32)))
    return found
