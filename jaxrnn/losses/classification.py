"""Cross entropy over classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrnn.lengths import is_traced
from jaxrnn.losses.common import (
    Reduction,
    check_reduction,
    known,
    number,
    promote,
    reduce,
    refuse,
)

_WRONG_AXIS = "The classes are on axis 1: turn logits [B, T, C] with jnp.moveaxis(logits, -1, 1)."


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """Return the cross entropy of logits against classes or probabilities, as `torch.nn.functional` does::

        p = log_softmax(input)
        l_n = -(1 - s) w_y p_ny - s / C Σ_c w_c p_nc            y = target_n, s = label_smoothing
        l_n = -Σ_c w_c ((1 - s) target_nc + s / C) p_nc         target of probabilities

    The mean over classes divides by the sum of the weights ``w_y`` of the rows that count, the mean over
    probabilities by the number of rows.

    Rows whose target is `ignore_index` give 0 and count nowhere; without any other row the mean is NaN with
    a gradient of zero. The gradient of an ignored row is zero if its logits are finite, but NaN if they are
    NaN or +inf, as in torch: replace such logits before the loss.

    Args:
        input: logits `[N, C, d1, ...]`, the classes on axis 1, or `[C]`.
        target: integers `[N, d1, ...]` or, for logits `[C]`, one integer; or probabilities of the shape of `input`.
        weight: of each class, `[C]`.
        ignore_index: may be any integer; with probabilities it must stay negative.
        reduction: "none", "mean" or "sum".
        label_smoothing: from 0 to 1, the share of the uniform distribution in the target (Szegedy et al., 2016).

    Any integer dtype is taken (torch: int64 and uint8), and weights and probabilities of another dtype
    than the logits are promoted. The gradient with respect to `weight`, which torch lacks, exists.

    Example::

        loss = cross_entropy(jnp.moveaxis(logits, -1, 1), ignore_padding(labels, lengths))  # [B, T, C], [B, T]

    Raises:
        IndexError: a label that is no class; if it is traced, its row is NaN instead, and so is its gradient.
        ValueError: not as many targets as rows; an unknown reduction; `label_smoothing` is NaN.
        RuntimeError: other shapes that do not match; `label_smoothing` outside 0..1.
        TypeError: logits that are not floating point.
    """
    check_reduction(reduction)
    label_smoothing = number("label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(
            f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}. It is a share; 0.1 is usual."
        )
    axis = _class_axis(input)
    if jnp.shape(input) == jnp.shape(target):
        return _of_probabilities(input, target, weight, ignore_index, reduction, label_smoothing)
    dtype, (logits, weights) = promote(input, _class_weights(input, weight))
    log_probs = jax.nn.log_softmax(logits, axis)
    return _of_classes(log_probs, target, weights, ignore_index, reduction, label_smoothing).astype(dtype)


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Return the negative log likelihood ``-w_y input_ny`` of classes, given log-probabilities.

    It is `cross_entropy` without the softmax: same arguments, means and errors. The gradient of an ignored
    row is zero, whatever its values.
    """
    check_reduction(reduction)
    dtype, (log_probs, weights) = promote(input, _class_weights(input, weight))
    return _of_classes(log_probs, target, weights, ignore_index, reduction, 0.0).astype(dtype)


def _of_classes(
    log_probs: Float[Array, "..."],
    target: Any,
    weights: Float[Array, " C"],
    ignore_index: int,
    reduction: Reduction,
    smoothing: float,
) -> Float[Array, "..."]:
    axis = _class_axis(log_probs)
    classes = log_probs.shape[axis]
    labels, bad = _labels(target, log_probs.shape, ignore_index)
    valid = labels != ignore_index
    places = jnp.asarray(jnp.clip(jnp.where(valid, labels, 0), 0, classes - 1))
    picked = jnp.take_along_axis(log_probs, jnp.expand_dims(places, axis), axis).squeeze(axis)
    # Chosen by where, not multiplied: the cotangents of ignored rows are NaN if nothing else is there to divide by.
    shares = jnp.where(valid, weights[places], 0)
    losses = -shares * jnp.where(valid, picked, 0)
    if smoothing > 0:
        everywhere = -jnp.sum(log_probs * _along(weights, axis, log_probs.ndim), axis)
        losses = (1 - smoothing) * losses + smoothing / classes * jnp.where(valid, everywhere, 0)
    losses = refuse(losses, bad, lambda: _no_class(labels[bad].flat[0], classes))
    if reduction == "mean":
        return jnp.sum(losses) / jnp.sum(shares)
    return reduce(losses, reduction, losses.dtype)


def _of_probabilities(
    input: Any, target: Any, weight: Any, ignore_index: int, reduction: Reduction, smoothing: float
) -> Float[Array, "..."]:
    if not jnp.issubdtype(jnp.result_type(target), jnp.floating):
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {jnp.result_type(target)}. "
            "A target of the shape of input holds probabilities; classes have no class axis."
        )
    if ignore_index >= 0:
        raise RuntimeError(
            f"ignore_index is not supported for floating point target. Leave out ignore_index={ignore_index}; "
            "a row of zeros gives a loss of 0, or use reduction='none' and masked_mean."
        )
    dtype, (logits, probabilities, weights) = promote(input, target, _class_weights(input, weight))
    axis = _class_axis(logits)
    if smoothing > 0:
        probabilities = probabilities * (1 - smoothing) + smoothing / logits.shape[axis]
    shares = probabilities * _along(weights, axis, logits.ndim)
    losses = -jnp.sum(jax.nn.log_softmax(logits, axis) * shares, axis)
    return reduce(losses, reduction, dtype)


def _along(weights: Float[Array, " C"], axis: int, ndim: int) -> Float[Array, "..."]:
    """Return the weights along one axis of an array with `ndim` axes."""
    return weights.reshape([-1] + [1] * (ndim - axis - 1))


def _class_axis(input: Any) -> int:
    if jnp.ndim(input) == 0:
        raise ValueError("Expected 1 or more dimensions (got 0). Pass logits of shape (C,) or (N, C, ...).")
    return 0 if jnp.ndim(input) == 1 else 1


def _class_weights(input: Any, weight: Any) -> Any:
    """Return the weight of each class, ones without `weight`."""
    classes = jnp.shape(input)[_class_axis(input)]
    if weight is None:
        # Booleans change no dtype.
        return np.ones(classes, bool)
    if jnp.shape(weight) != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor "
            f"of shape: {list(jnp.shape(weight))}. {_WRONG_AXIS}"
        )
    return weight


def _labels(target: Any, shape: tuple[int, ...], ignore_index: int) -> tuple[Any, Any]:
    """Return the labels `[N, d1, ...]` and which of them are no class; both stay known if the target is."""
    _check_target_shape(jnp.shape(target), shape)
    if not jnp.issubdtype(jnp.result_type(target), jnp.integer):
        raise RuntimeError(
            f"expected target dtype to be Long or Byte, but got {jnp.result_type(target)}. Pass integer classes; "
            f"probabilities must have the shape of the input, {list(shape)}."
        )
    labels = known(target).reshape(shape[:1] + shape[2:] if len(shape) > 1 else ())
    classes = shape[0 if len(shape) == 1 else 1]
    if is_traced(labels):
        labels = labels.astype(
            jnp.promote_types(labels.dtype, jnp.int32)
        )  # unsigned ones cannot be compared to -100
    return labels, (labels != ignore_index) & ((labels < 0) | (labels >= classes))


def _check_target_shape(target: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if len(shape) == 1:
        if target not in ((), (1,)):
            raise ValueError(
                f"For 1D input, 1D target must have size 1, but got target size: {target[0]}. "
                "Logits of shape (C,) are one row; several rows are (N, C)."
            )
        return
    rows = target[0] if target else 0
    if rows != shape[0]:
        raise ValueError(
            f"Expected input batch_size ({shape[0]}) to match target batch_size ({rows}). {_WRONG_AXIS}"
        )
    if len(shape) == 2 and len(target) != 1:
        raise RuntimeError(
            "0D or 1D target tensor expected, multi-target not supported. "
            f"Logits {list(shape)} take one class for each row, not a target {list(target)}: use target[:, 0], or "
            "probabilities of the shape of the logits with cross_entropy."
        )
    expected = shape[:1] + shape[2:]
    if target != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(target)}. {_WRONG_AXIS}")


def _no_class(label: int, classes: int) -> IndexError:
    return IndexError(
        f"Target {label} is out of bounds. Labels go from 0 to {classes - 1}; "
        "give labels to be left out as ignore_index (-100 unless you choose another)."
    )
