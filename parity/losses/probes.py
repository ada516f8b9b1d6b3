"""What losses are asked, task by task. NumPy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from parity.gates import Array
from parity.probe import Probe

ROWS, CLASSES, STEPS, FRAMES = 7, 5, 4, 9
Options = Mapping[str, Any]

# The task of each of torch's losses, by the name of its class or function.
TASKS = {
    "CrossEntropyLoss": "classification",
    "cross_entropy": "classification",
    "NLLLoss": "log_probabilities",
    "nll_loss": "log_probabilities",
    "MSELoss": "regression",
    "mse_loss": "regression",
    "L1Loss": "regression",
    "l1_loss": "regression",
    "HuberLoss": "regression",
    "huber_loss": "regression",
    "SmoothL1Loss": "regression",
    "smooth_l1_loss": "regression",
    "BCELoss": "binary",
    "binary_cross_entropy": "binary",
    "BCEWithLogitsLoss": "binary_logits",
    "binary_cross_entropy_with_logits": "binary_logits",
    "KLDivLoss": "distributions",
    "kl_div": "distributions",
    "GaussianNLLLoss": "gaussian",
    "gaussian_nll_loss": "gaussian",
    "PoissonNLLLoss": "counts",
    "poisson_nll_loss": "counts",
    "CosineSimilarity": "pairs",
    "cosine_similarity": "pairs",
    "CosineEmbeddingLoss": "labelled_pairs",
    "cosine_embedding_loss": "labelled_pairs",
    "CTCLoss": "ctc",
    "ctc_loss": "ctc",
}


def probes_of(task: str, options: Options, probe_set: str = "designed", seed: int = 0) -> list[Probe]:
    """Return the probes of a task; `options` are those of torch's loss, as `ignore_index`.

    Raises:
        ValueError: there is no such task.
    """
    if task not in _PROBES:
        raise ValueError(f"task={task!r} is not one of {sorted(_PROBES)}; or pass probes=.")
    probes = _PROBES[task](np.random.default_rng(seed), options)
    probes = [dataclasses.replace(probe, seed=seed + number) for number, probe in enumerate(probes)]
    return probes[:1] if probe_set == "quick" else probes


def _probe(name: str, *args: Array, names: str = "input target", **kwargs: Array) -> Probe:
    return Probe(name, args=args, kwargs=kwargs, arg_names=tuple(names.split()), outputs=("loss",))


def _normal(rng: np.random.Generator, *shape: int, size: float = 1.0) -> Array:
    return np.asarray(size * rng.standard_normal(shape), np.float32)


def _logits(rng: np.random.Generator, *shape: int) -> Array:
    """Logits, one row of them saturated."""
    logits = _normal(rng, *shape, size=2.0)
    logits[0] = 30 * np.sign(logits[0])
    return logits


def _labels(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, CLASSES, shape)


def _classification(rng: np.random.Generator, options: Options) -> list[Probe]:
    ignored = options.get("ignore_index", -100)
    some = _labels(rng, ROWS)
    some[[2, 5]] = ignored
    dense = _labels(rng, 3, STEPS)
    dense[1] = ignored  # a row without any label that counts
    dense[2, 0] = ignored
    return [
        _probe("some ignored", _logits(rng, ROWS, CLASSES), some),
        _probe("dense", _logits(rng, 3, CLASSES, STEPS), dense),
        _probe("none ignored", _logits(rng, ROWS, CLASSES), (np.arange(ROWS) % CLASSES + 1) % CLASSES),
    ]


def _log_probabilities(rng: np.random.Generator, options: Options) -> list[Probe]:
    return [
        dataclasses.replace(probe, args=(_log_softmax(probe.args[0], 1), probe.args[1]))
        for probe in _classification(rng, options)
    ]


def _log_softmax(logits: Array, axis: int) -> Array:
    logits = np.clip(logits, -10, 10).astype(np.float64)
    return np.asarray(logits - np.log(np.sum(np.exp(logits), axis, keepdims=True)), np.float32)


def _soft_classification(rng: np.random.Generator, options: Options) -> list[Probe]:
    def probabilities(*shape: int) -> Array:
        return np.asarray(np.moveaxis(rng.dirichlet(np.ones(CLASSES), shape), -1, 1), np.float32)

    return [
        _probe("rows", _logits(rng, ROWS, CLASSES), probabilities(ROWS)),
        _probe("dense", _logits(rng, 3, CLASSES, STEPS), probabilities(3, STEPS)),
    ]


def _regression(rng: np.random.Generator, options: Options) -> list[Probe]:
    """Errors of all sizes, none of them near a knee: at 0.3, 0.5, 1 or 2.5."""

    def pair(*shape: int) -> tuple[Array, Array]:
        target = _normal(rng, *shape, size=3.0)
        sizes = rng.choice([0.05, 0.2, 0.4, 0.7, 1.7, 4.0, 9.0], shape) * rng.uniform(0.9, 1.1, shape)
        return np.asarray(target + sizes * rng.choice([-1.0, 1.0], shape), np.float32), target

    return [_probe("rows", *pair(ROWS, CLASSES)), _probe("vector", *pair(11))]


def _masked_regression(rng: np.random.Generator, options: Options) -> list[Probe]:
    (probe, *_) = _regression(rng, options)
    mask = np.asarray(np.arange(CLASSES)[None, :] < np.array([5, 1, 3, 2, 4, 3, 5])[:, None], np.float32)
    return [dataclasses.replace(probe, name="masked", kwargs={"weight": mask})]


def _uniform(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.uniform(0.02, 0.98, shape), np.float32)


def _binary(rng: np.random.Generator, options: Options) -> list[Probe]:
    return [
        _probe("soft", _uniform(rng, ROWS, CLASSES), _uniform(rng, ROWS, CLASSES)),
        # Not 1: a probability that is moved by a rounding must stay one.
        _probe("hard", _uniform(rng, ROWS, CLASSES), np.float32(0.75) * _answers(rng, ROWS, CLASSES)),
    ]


def _binary_logits(rng: np.random.Generator, options: Options) -> list[Probe]:
    return [
        _probe("soft", _normal(rng, ROWS, CLASSES, size=2.0), _uniform(rng, ROWS, CLASSES)),
        _probe("hard", _logits(rng, ROWS, CLASSES), _answers(rng, ROWS, CLASSES)),
    ]


def _answers(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.random(shape) < 0.5, np.float32)


def _distributions(rng: np.random.Generator, options: Options) -> list[Probe]:
    def pair(*shape: int) -> tuple[Array, Array]:
        target = rng.dirichlet(np.ones(CLASSES), shape)
        target = np.log(target) if options.get("log_target") else target
        return _log_softmax(_normal(rng, *shape, CLASSES), -1), np.asarray(target, np.float32)

    return [_probe("rows", *pair(ROWS)), _probe("dense", *pair(3, STEPS))]


def _gaussian(rng: np.random.Generator, options: Options) -> list[Probe]:
    x, y = _normal(rng, ROWS, CLASSES), _normal(rng, ROWS, CLASSES)
    variance = np.asarray(rng.uniform(0.1, 3.0, (ROWS, CLASSES)), np.float32)
    return [_probe("rows", x, y, variance, names="input target var")]


def _counts(rng: np.random.Generator, options: Options) -> list[Probe]:
    # Of counts of 0 torch's Stirling term has a gradient of NaN, and it begins at 2.
    counts = np.asarray(rng.integers(2 if options.get("full") else 0, 7, (ROWS, CLASSES)), np.float32)
    x = _normal(rng, ROWS, CLASSES) if options.get("log_input", True) else _uniform(rng, ROWS, CLASSES)
    return [_probe("rows", x, counts)]


def _pairs(rng: np.random.Generator, options: Options) -> list[Probe]:
    return [_probe("rows", _normal(rng, ROWS, CLASSES), _normal(rng, ROWS, CLASSES), names="x1 x2")]


def _labelled_pairs(rng: np.random.Generator, options: Options) -> list[Probe]:
    one = _normal(rng, ROWS, CLASSES)
    signs = np.array([1, -1, -1, 1, 1, -1, -1])
    # Pairs of label -1 are alike enough that the margin does not hide them.
    two = np.asarray(signs[:, None] * -0.7 * one + 0.5 * _normal(rng, ROWS, CLASSES), np.float32)
    return [_probe("rows", one, two, signs, names="input1 input2 target")]


def _ctc(rng: np.random.Generator, options: Options) -> list[Probe]:
    blank = options.get("blank", 0)
    # Neither the first class nor the last, one of which a mistake may take for the blank.
    letters = np.array([c for c in range(1, CLASSES - 1) if c != blank])
    targets = letters[
        np.array([[0, 0, 2], [1, 0, 1], [2, 2, 0], [1, 0, 0]]) % len(letters)
    ]  # repeated labels
    frames, labels = np.array([FRAMES, 5, 7, 8]), np.array([3, 2, 3, 1])
    names = "logits targets input_lengths target_lengths"

    def probe(name: str, frames: Array) -> Probe:
        return _probe(name, _normal(rng, FRAMES, 4, CLASSES, size=1.5), targets, frames, labels, names=names)

    probes = [probe("feasible", frames)]
    if options.get("zero_infinity"):
        probes.append(probe("infeasible", np.array([FRAMES, 5, 3, 8])))  # 2 2 0 needs four frames
    return probes


def _log_ctc(rng: np.random.Generator, options: Options) -> list[Probe]:
    """Ask the same at the log-probabilities, where torch's gradient is not the derivative."""
    (probe, *_) = _ctc(rng, options)
    logits, *rest = probe.args
    names = ("log_probs", *(probe.arg_names or ())[1:])
    return [dataclasses.replace(probe, args=(_log_softmax(logits, -1), *rest), arg_names=names)]


_PROBES: dict[str, Callable[[np.random.Generator, Options], list[Probe]]] = {
    "classification": _classification,
    "log_probabilities": _log_probabilities,
    "soft_classification": _soft_classification,
    "regression": _regression,
    "masked_regression": _masked_regression,
    "binary": _binary,
    "binary_logits": _binary_logits,
    "distributions": _distributions,
    "gaussian": _gaussian,
    "counts": _counts,
    "pairs": _pairs,
    "labelled_pairs": _labelled_pairs,
    "ctc": _ctc,
    "log_ctc": _log_ctc,
}


TASK_NAMES = tuple(_PROBES)
