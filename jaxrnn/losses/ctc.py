"""Connectionist temporal classification: the loss of a label sequence without its alignment."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.lengths import is_traced
from jaxrnn.losses.common import Reduction, check_reduction, known, promote, reduce, refuse, with_slopes


def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
) -> Float[Array, "..."]:
    """Return the negative log probability that the frames spell the target (Graves et al., 2006).

    It sums over all alignments: paths of one label or blank per frame that become the target once repeated
    labels are merged and blanks dropped. Over the target with blanks around every label, ``z``::

        a_t(s) = log p_t(z_s) + log(exp a_t-1(s) + exp a_t-1(s-1) + [z_s ≠ blank, z_s ≠ z_s-2] exp a_t-1(s-2))
        l = -log(exp a_T(last) + exp a_T(last - 1))

    The mean is torch's: each loss divided by the length of its target (at least 1), then the mean of the batch.

    A target that no path can spell, such as one with more labels than frames, has an infinite loss and a NaN
    gradient. `zero_infinity` makes both zero; the row still counts in the mean.

    Args:
        log_probs: `[T, N, C]`, the output of `jax.nn.log_softmax`, or `[T, C]` for one sequence.
        targets: labels `[N, S]`, whatever follows a target, or all of them end to end, `[sum(target_lengths)]`.
            Where lengths are traced the former is cheaper: of the latter, one target might be all.
        input_lengths: frames of each sequence, `[N]`; for one sequence also a number.
        target_lengths: labels of each sequence, likewise.
        blank: the class that stands for no label.
        reduction: "none", "mean" or "sum".
        zero_infinity: replace infinite losses by 0.

    The gradient with respect to `log_probs` is the derivative. torch returns that of the logits under a
    softmax instead; behind `log_softmax` both are the same. Labels must be integers, and half precision is
    computed in float32 (torch takes float labels and refuses half precision).

    Raises:
        RuntimeError: shapes that do not match; lengths that are negative or too great.
        ValueError: a label that is the blank or no class (torch reads whatever memory is there); an unknown
            reduction.
        TypeError: labels that are not integers.

    Where lengths or labels are traced, the loss is NaN instead.
    """
    check_reduction(reduction)
    dtype, (log_p,) = promote(log_probs, name="log_probs")
    single = log_p.ndim == 2
    if single:
        log_p = log_p[:, None]
    if log_p.ndim != 3:
        raise RuntimeError(
            f"Expected 3-dimensional tensor, but got {log_p.ndim}-dimensional tensor for argument #1 'log_probs'. "
            "Pass log-probabilities [T, N, C], time first, or [T, C]."
        )
    if not log_p.size:
        raise RuntimeError(f"log_probs tensor must not be empty. Got shape {list(jnp.shape(log_probs))}.")
    frames, rows, classes = log_p.shape
    if not 0 <= blank < classes:
        raise RuntimeError(
            f"blank must be in label range. Pass a class from 0 to {classes - 1}, not {blank}."
        )
    input_lengths = _lengths("input_lengths", input_lengths, rows)
    target_lengths = _lengths("target_lengths", target_lengths, rows)
    impossible = (input_lengths < 0) | (input_lengths > frames)
    log_p = refuse(log_p, impossible[:, None], lambda: _frames_missing(input_lengths, frames))
    used_lengths = jnp.where(impossible, frames, input_lengths)  # all frames of a row of NaN
    labels, consistent = _padded(targets, target_lengths, rows, single)
    inside = np.arange(labels.shape[1]) < target_lengths[:, None]

    losses = _negative_log_likelihood(
        log_p, jnp.where(inside, labels, blank), used_lengths, target_lengths, blank, zero_infinity
    )
    losses = refuse(losses, ~consistent, lambda: _labels_missing(target_lengths, jnp.shape(targets)))
    wrong = inside & ((labels < 0) | (labels >= classes) | (labels == blank))
    losses = refuse(losses, wrong.any(-1), lambda: _no_label(labels[wrong].flat[0], blank, classes))
    if reduction == "mean":
        losses = losses / jnp.maximum(target_lengths, 1)
    return reduce(losses[0] if single else losses, reduction, dtype)


def _negative_log_likelihood(
    log_p: Float[Array, "T N C"],
    labels: Int[Array, "N S"],
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    zero_infinity: bool,
) -> Float[Array, " N"]:
    rows, most = labels.shape
    running = jnp.arange(len(log_p))[:, None] < input_lengths  # [T, N]
    log_p = jnp.where(running[..., None], log_p, 0)
    symbols = jnp.full((rows, 2 * most + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    may_skip = jnp.zeros(symbols.shape, bool).at[:, 3::2].set(labels[:, 1:] != labels[:, :-1])
    emitted = jnp.take_along_axis(log_p, symbols[None], -1)  # [T, N, 2 S + 1]

    def step(
        alpha: Float[Array, "N Z"], frame: tuple[Float[Array, "N Z"], Bool[Array, " N"]]
    ) -> tuple[Float[Array, "N Z"], None]:
        emission, goes_on = frame
        skip = jnp.where(may_skip, _moved(alpha, 2), -jnp.inf)
        return jnp.where(goes_on[:, None], _log_add(alpha, _moved(alpha, 1), skip) + emission, alpha), None

    # Before the first frame a path waits at the first blank: from there it reaches that blank or the first label.
    before = jnp.full(symbols.shape, -jnp.inf, log_p.dtype).at[:, 0].set(0)
    alpha, _ = jax.lax.scan(step, before, (emitted, running))
    last = 2 * jnp.clip(jnp.asarray(target_lengths), 0, most)[:, None]
    ends_on_label = jnp.where(last > 0, jnp.take_along_axis(alpha, jnp.maximum(last - 1, 0), 1), -jnp.inf)
    losses = -_log_add(jnp.take_along_axis(alpha, last, 1), ends_on_label)[:, 0]
    impossible = losses == jnp.inf
    if zero_infinity:
        return jnp.where(impossible, 0, losses)
    # An infinite loss has no gradient: NaN on all frames of the row, as in torch. Zero would look harmless.
    everything = jnp.sum(log_p, (0, 2))
    return with_slopes(
        losses, (losses, everything), (jnp.ones_like(losses), jnp.where(impossible, jnp.nan, 0))
    )


def _log_add(*terms: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``log Σ exp``; where all terms are -inf it is -inf with a gradient of zero."""
    top = functools.reduce(jnp.maximum, terms)
    top = jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    total = functools.reduce(jnp.add, [jnp.exp(term - top) for term in terms])
    nothing = total == 0
    return jnp.where(nothing, -jnp.inf, top + jnp.log(jnp.where(nothing, 1, total)))


def _moved(alpha: Float[Array, "N Z"], places: int) -> Float[Array, "N Z"]:
    """Return alpha of the symbol `places` before each."""
    return jnp.pad(alpha, ((0, 0), (places, 0)), constant_values=-jnp.inf)[:, : alpha.shape[1]]


def _lengths(name: str, lengths: Any, rows: int) -> Any:
    """Return lengths `[N]`, in NumPy if they are known."""
    if isinstance(lengths, list | tuple) and any(is_traced(length) for length in lengths):
        lengths = jnp.asarray(lengths)
    lengths = known(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise RuntimeError(f"{name} must be integral. Expected a vector of integers, got {lengths.dtype}.")
    if lengths.size != rows or lengths.ndim > 1:
        raise RuntimeError(
            f"{name} must be of size batch_size. Expected one length for each of {rows} sequences, got shape "
            f"{list(lengths.shape)}; log_probs are [T, N, C], time first."
        )
    return lengths.reshape(rows)


def _padded(targets: Any, lengths: Any, rows: int, single: bool) -> tuple[Any, Any]:
    """Return the labels `[N, S]`, and which rows have all of theirs; both are known if targets and lengths are."""
    labels = known(targets)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"targets: expected integer labels, got {labels.dtype}. Pass targets.astype(jnp.int32)."
        )
    if single and labels.ndim == 1:
        labels = labels[None]
    if labels.ndim == 2:
        if len(labels) != rows:
            raise RuntimeError(
                f"Expected tensor to have size {rows} at dimension 0, but got size {len(labels)} for argument #2 "
                "'targets'. Padded targets are [N, S], the sequences first, unlike log_probs."
            )
        return labels, (lengths >= 0) & (lengths <= labels.shape[1])
    if labels.ndim != 1:
        raise RuntimeError(
            f"Expected 1 to 2 dimensions, but got {labels.ndim}-dimensional tensor for argument #2 'targets'. "
            "Pass labels [N, S], or all of them end to end in a vector."
        )
    consistent = (lengths >= 0) & (lengths.sum() == len(labels))
    most = len(labels) if is_traced(lengths) else min(max(lengths.max(), 0), len(labels))
    if most == 0:
        return np.zeros((rows, 0), np.int32), consistent
    places = (lengths.cumsum() - lengths)[:, None] + np.arange(most)
    if is_traced(places):
        labels = jnp.asarray(labels)
    return labels[places.clip(0, len(labels) - 1)], consistent


def _frames_missing(lengths: Any, frames: int) -> RuntimeError:
    negative = lengths.min() < 0
    limit = "at least 0" if negative else f"at most {frames}"
    value = lengths.min() if negative else lengths.max()
    return RuntimeError(
        f"Expected input_lengths to have value {limit}, but got value {value}. log_probs have {frames} frames: "
        "they are [T, N, C], time first."
    )


def _labels_missing(lengths: Any, shape: tuple[int, ...]) -> RuntimeError:
    if lengths.min() < 0:
        return RuntimeError(
            f"Expected target_lengths to have value at least 0, but got value {lengths.min()}. Count labels."
        )
    if len(shape) == 2:
        return RuntimeError(
            f"Expected tensor to have size at least {lengths.max()} at dimension 1, but got size {shape[1]} for "
            "argument #2 'targets'. target_lengths count the labels of each row, without its padding."
        )
    return RuntimeError(
        f"Expected tensor to have size {lengths.sum()} at dimension 0, but got size {shape[0]} for argument #2 "
        "'targets'. A vector of targets holds them end to end, without padding."
    )


def _no_label(label: int, blank: int, classes: int) -> ValueError:
    text = f"target index cannot be blank ({blank})" if label == blank else f"Target {label} is out of bounds"
    return ValueError(
        f"{text}. Labels go from 0 to {classes - 1} without the blank; see whether target_lengths count padding."
    )
