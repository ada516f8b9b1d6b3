"""Losses with one mistake each, in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrnn import losses

WEIGHTS = (0.5, 2.0, 0.25, 1.0, 3.0)
IGNORED = -100


def _surprise(logits: Any) -> Any:
    """Negative log-probabilities, the classes on axis 1."""
    return -jax.nn.log_softmax(logits, 1)


def _picked(values: Any, labels: Any) -> Any:
    places = jnp.expand_dims(jnp.where(labels == IGNORED, 0, labels), 1)
    return jnp.take_along_axis(values, places, 1).squeeze(1)


def _rows(logits: Any, labels: Any) -> Any:
    return jnp.where(labels == IGNORED, 0.0, _picked(_surprise(logits), labels))


def _weights(labels: Any, dtype: Any) -> Any:
    weights = jnp.asarray(WEIGHTS, dtype)[jnp.where(labels == IGNORED, 0, labels)]
    return jnp.where(labels == IGNORED, 0.0, weights)


def mean_over_all(logits: Any, labels: Any) -> Any:
    """C01."""
    return jnp.mean(_rows(logits, labels))


def mean_over_count(logits: Any, labels: Any) -> Any:
    """C02."""
    each = _weights(labels, logits.dtype) * _rows(logits, labels)
    return jnp.sum(each) / jnp.sum(labels != IGNORED)


def smoothed_among_others(logits: Any, labels: Any, amount: float = 0.1) -> Any:
    """C03."""
    surprise = _surprise(logits)
    own = _picked(surprise, labels)
    others = amount / (logits.shape[1] - 1) * (jnp.sum(surprise, 1) - own)
    each = jnp.where(labels == IGNORED, 0.0, (1 - amount) * own + others)
    return jnp.sum(each) / jnp.sum(labels != IGNORED)


def smoothed(kind: str) -> Any:
    """Return C04 ("plain"), C04-label ("label") or C05-leak ("leak"): another uniform part, smoothing 0.3."""

    def loss(logits: Any, labels: Any) -> Any:
        amount, surprise = 0.3, _surprise(logits)
        valid, share = labels != IGNORED, _weights(labels, logits.dtype)
        along = jnp.asarray(WEIGHTS, logits.dtype).reshape(-1, *[1] * (logits.ndim - 2))
        uniform = {
            "plain": jnp.where(valid, jnp.sum(surprise, 1), 0.0),
            "label": share * jnp.sum(surprise, 1),
            "leak": jnp.sum(along * surprise, 1),
        }[kind]
        each = (1 - amount) * share * _rows(logits, labels) + amount / logits.shape[1] * uniform
        return jnp.sum(each) / jnp.sum(share)

    return loss


def optax_cross_entropy(logits: Any, labels: Any) -> Any:
    """C05: a label of -100 is NaN."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jnp.moveaxis(logits, 1, -1), labels))


def relabelled(label: int) -> Any:
    """Return C05-last or C05-first: ignored labels are a class."""

    def loss(logits: Any, labels: Any) -> Any:
        labels = jnp.where(labels == IGNORED, label % logits.shape[1], labels)
        return losses.cross_entropy(logits, labels)

    return loss


def nothing_ignored(logits: Any, labels: Any) -> Any:
    """C05-class, with ignore_index=0."""
    return losses.cross_entropy(logits, labels)


def softmax_over_last_axis(logits: Any, labels: Any) -> Any:
    """C06."""
    return losses.nll_loss(jax.nn.log_softmax(logits, -1), labels)


def half_squared_error(x: Any, y: Any) -> Any:
    """C07."""
    return jnp.mean(optax.l2_loss(x, y))


def huber(x: Any, y: Any) -> Any:
    """C08, with beta=2.5."""
    return jnp.mean(optax.huber_loss(x, y, delta=2.5))


def huber_by_delta(x: Any, y: Any) -> Any:
    """C08-reverse, with delta=0.3."""
    return jnp.mean(optax.huber_loss(x, y, delta=0.3)) / 0.3


def optax_binary(x: Any, y: Any) -> Any:
    """C09: optax knows no pos_weight."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(x, y))


def weighted_binary(x: Any, y: Any) -> Any:
    """C09-both."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(x, y) * jnp.asarray(WEIGHTS, x.dtype))


def double_sigmoid(x: Any, y: Any) -> Any:
    """C10."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(jax.nn.sigmoid(x), y))


def double_softmax(logits: Any, labels: Any) -> Any:
    """C10-softmax."""
    return losses.cross_entropy(jax.nn.softmax(logits, 1), labels)


def mean_of_divergences(log_q: Any, p: Any) -> Any:
    """C11-rows."""
    return jnp.mean(optax.kl_divergence(log_q, p))


def swapped_divergence(log_q: Any, p: Any) -> Any:
    """C11-swap."""
    return losses.kl_div(jnp.log(p), jnp.exp(log_q))


def ctc_per_sequence(log_probs: Any, targets: Any, frames: Any, labels: Any) -> Any:
    """C12."""
    return jnp.mean(losses.ctc_loss(log_probs, targets, frames, labels, reduction="none"))


def ctc_of_optax(log_probs: Any, targets: Any, frames: Any, labels: Any) -> Any:
    """C14-finite."""
    steps, places = jnp.arange(len(log_probs)), jnp.arange(targets.shape[1])
    paddings = (
        (row[None, :] >= lengths[:, None]).astype(log_probs.dtype)
        for row, lengths in ((steps, frames), (places, labels))
    )
    frame_padding, label_padding = paddings
    each = optax.ctc_loss(jnp.swapaxes(log_probs, 0, 1), frame_padding, targets, label_padding)
    return jnp.mean(each / labels)


def masked_over_all(x: Any, y: Any, weight: Any) -> Any:
    """C16."""
    return jnp.mean((x - y) ** 2 * weight)


def sum_over_time(logits: Any, labels: Any) -> Any:
    """C17."""
    return jnp.sum(_rows(logits, labels)) / len(labels)


def unguarded_similarity(x1: Any, x2: Any) -> Any:
    """C18."""
    return optax.losses.cosine_similarity(x1, x2)


def triple(x: Any, y: Any) -> Any:
    """Return the loss times a constant that has no name."""
    return 3.7 * losses.l1_loss(x, y)


def sum_of_absolute_errors(x: Any, y: Any) -> Any:
    """Return the loss times the number of elements."""
    return losses.l1_loss(x, y, reduction="sum")
