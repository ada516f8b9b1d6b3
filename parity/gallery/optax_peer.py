"""optax: its losses as a user would call them in place of torch's, and what they are asked.

Its optimizers need no wrapping; they are written as calls in `parity.gallery.entries`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from parity.losses.probes import probes_of
from parity.probe import Probe


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return `softmax_cross_entropy_with_integer_labels(...)`, one loss per row."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def mean_cross_entropy(logits: Any, labels: Any) -> Any:
    """Return its mean."""
    return cross_entropy(logits, labels).mean()


def masked_cross_entropy(logits: Any, labels: Any) -> Any:
    """Mask labels of -1 as a careful user does: another label in their place, the mean over what counts."""
    counts = labels != -1
    each = cross_entropy(logits, jnp.where(counts, labels, 0))
    return jnp.where(counts, each, 0).sum() / counts.sum()


def mean_l2_loss(input: Any, target: Any) -> Any:
    """Return `l2_loss(...).mean()`."""
    return optax.l2_loss(input, target).mean()


def mean_squared_error(input: Any, target: Any) -> Any:
    """Return `squared_error(...).mean()`."""
    return optax.squared_error(input, target).mean()


def mean_huber_loss(input: Any, target: Any) -> Any:
    """Return `huber_loss(..., delta=0.3).mean()`."""
    return optax.huber_loss(input, target, delta=0.3).mean()


def mean_sigmoid_cross_entropy(logits: Any, target: Any) -> Any:
    """Return `sigmoid_binary_cross_entropy(...).mean()`."""
    return optax.sigmoid_binary_cross_entropy(logits, target).mean()


def mean_kl_divergence(log_predictions: Any, target: Any) -> Any:
    """Return `kl_divergence(...).mean()`."""
    return optax.kl_divergence(log_predictions, target).mean()


def cosine_similarity(x1: Any, x2: Any) -> Any:
    """Return `cosine_similarity(...)`, one for each row."""
    return optax.losses.cosine_similarity(x1, x2)


def guarded_cosine_similarity(x1: Any, x2: Any) -> Any:
    """Return the same with torch's epsilon of 1e-8; here it is the least square of a norm."""
    return optax.losses.cosine_similarity(x1, x2, epsilon=1e-16)


def ctc_loss(log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any) -> Any:
    """Return `ctc_loss(...)`, one loss per sequence, from torch's layout [T, B, C] and lengths."""
    steps, labels = jnp.arange(log_probs.shape[0]), jnp.arange(targets.shape[1])
    frame_padding = (steps[None, :] >= input_lengths[:, None]).astype(log_probs.dtype)
    label_padding = (labels[None, :] >= target_lengths[:, None]).astype(log_probs.dtype)
    return optax.ctc_loss(jnp.swapaxes(log_probs, 0, 1), frame_padding, targets, label_padding)


# What they are asked ----------------------------------------------------------------------------------------


def valid_labels() -> list[Probe]:
    """Return rows of logits whose labels all count."""
    return [probe for probe in probes_of("classification", {}) if probe.name == "none ignored"]


def ignored_labels(label: int) -> list[Probe]:
    """Return rows of logits, some with the label that torch ignores."""
    options = {"ignore_index": label}
    return [probe for probe in probes_of("classification", options) if probe.name == "some ignored"]


def zero_vectors() -> list[Probe]:
    """Return pairs of vectors, in one of which the first is zero."""
    (probe,) = probes_of("pairs", {})
    x1, x2 = probe.args
    x1 = np.array(x1)
    x1[2] = 0.0
    return [dataclasses.replace(probe, name="a zero vector", args=(x1, x2))]


def spellable() -> list[Probe]:
    """Return sequences that have a path for their labels."""
    return probes_of("ctc", {})


def unspellable() -> list[Probe]:
    """Return a batch with a sequence too short for its labels."""
    return [probe for probe in probes_of("ctc", {"zero_infinity": True}) if probe.name == "infeasible"]


def rows_of_distributions() -> list[Probe]:
    """Return pairs of distributions, one for each row."""
    return [probe for probe in probes_of("distributions", {}) if probe.name == "rows"]
