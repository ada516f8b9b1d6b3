"""Mistakes in losses, as substitutions of torch's functions.

A mistake in a reduction shows where the reference reduces; on other options the substitution computes what
torch does, and explains no candidate that differs from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.faults.substitution import Substitution

_f: Any = F  # torch's stubs do not know the weights of its regression losses


# Cross entropy --------------------------------------------------------------------------------------------


def _cross_entropy(change: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss over classes that hands rows and options to `change`."""

    def instead(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        ignore_index: int = -100,
        reduce: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        options: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
        if function is F.cross_entropy:
            options["label_smoothing"] = label_smoothing
        if target.is_floating_point():
            return function(input, target, reduction=reduction, **options)
        return change(function, input, target, reduction, options)

    return instead


def _reduced(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Return a change of the mean: of the losses of all rows, and which of them count."""

    def apply(
        function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
    ) -> Tensor:
        if reduction != "mean":
            return function(input, target, reduction=reduction, **options)
        rows = function(input, target, reduction="none", **options)
        return change(rows, target != options["ignore_index"])

    return apply


def _over_all(rows: Tensor, valid: Tensor) -> Tensor:
    return rows.sum() / rows.numel()


def _over_valid(rows: Tensor, valid: Tensor) -> Tensor:
    return rows.sum() / valid.sum()


def _over_batch(rows: Tensor, valid: Tensor) -> Tensor:
    return rows.sum() / rows.shape[0]


def _summed(rows: Tensor, valid: Tensor) -> Tensor:
    return rows.sum()


def _smoothed(uniform: Callable[..., Tensor]) -> Callable[..., Any]:
    """Return a change of the uniform part of the labels: of the negative log-probabilities `[N, C, ...]`."""

    def apply(
        function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
    ) -> Tensor:
        amount, weight, ignored = (options[key] for key in ("label_smoothing", "weight", "ignore_index"))
        classes = input.shape[1]
        weight = torch.ones(classes, dtype=input.dtype) if weight is None else weight
        surprise, valid = -F.log_softmax(input, 1), target != ignored
        labels = torch.where(valid, target, 0)
        nll = surprise.gather(1, labels.unsqueeze(1)).squeeze(1)
        share = weight[labels]
        each = torch.where(valid, (1 - amount) * share * nll, 0.0)
        each = each + uniform(surprise, weight, share, nll, valid, amount, classes)
        if reduction == "mean":
            return each.sum() / torch.where(valid, share, 0.0).sum()
        return each.sum() if reduction == "sum" else each

    return apply


def _by_class(values: Tensor, weight: Tensor) -> Tensor:
    return torch.movedim(torch.movedim(values, 1, -1) * weight, -1, 1)


def _other_classes(
    surprise: Any, weight: Any, share: Any, nll: Any, valid: Any, amount: float, classes: int
) -> Tensor:
    others = _by_class(surprise, weight).sum(1) - share * nll
    return torch.where(valid, amount / (classes - 1) * others, 0.0)


def _unweighted(
    surprise: Any, weight: Any, share: Any, nll: Any, valid: Any, amount: float, classes: int
) -> Tensor:
    return torch.where(valid, amount / classes * surprise.sum(1), 0.0)


def _weighted_by_label(
    surprise: Any, weight: Any, share: Any, nll: Any, valid: Any, amount: float, classes: int
) -> Tensor:
    return torch.where(valid, amount / classes * share * surprise.sum(1), 0.0)


def _leaking(
    surprise: Any, weight: Any, share: Any, nll: Any, valid: Any, amount: float, classes: int
) -> Tensor:
    return amount / classes * _by_class(surprise, weight).sum(1)


def _relabelled(label: int) -> Callable[..., Any]:
    """Return a change of ignored labels into a class, counted from the end if negative."""

    def apply(
        function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
    ) -> Tensor:
        chosen = label % input.shape[1]
        if options["ignore_index"] == chosen:  # then it is the mistake of not ignoring it
            return function(input, target, reduction=reduction, **options)
        target = torch.where(target == options["ignore_index"], chosen, target)
        return function(input, target, reduction=reduction, **{**options, "ignore_index": -12345})

    return apply


def _ignored_are_nan(
    function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
) -> Tensor:
    """As optax has it: no label is found, the normalizer stays, and the mean counts the row."""
    rows = function(input, target, reduction="none", **options)
    unfound = torch.logsumexp(input, 1) + float("nan")
    rows = torch.where(target == options["ignore_index"], unfound, rows)
    return _as_asked(rows, reduction)


def _not_ignored(
    function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
) -> Tensor:
    return function(input, target, reduction=reduction, **{**options, "ignore_index": -12345})


def _last_axis(
    function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
) -> Tensor:
    options = {name: value for name, value in options.items() if name != "label_smoothing"}
    return F.nll_loss(F.log_softmax(input, -1), target, reduction=reduction, **options)


def _softmax_before(
    function: Any, input: Tensor, target: Tensor, reduction: str, options: dict[str, Any]
) -> Tensor:
    return function(F.softmax(input, 1), target, reduction=reduction, **options)


def _as_asked(each: Tensor, reduction: str) -> Tensor:
    if reduction in ("mean", "batchmean"):
        return each.mean()
    return each.sum() if reduction == "sum" else each


# Regression and binary ------------------------------------------------------------------------------------


def _halved(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.mse_loss(input, target, *args, **kwargs) / 2


def _mask_in_numerator_only(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    if weight is None or reduction != "mean":
        return _f.mse_loss(input, target, reduction=reduction, weight=weight)
    return (F.mse_loss(input, target, reduction="none") * weight).mean()


def _huber(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    return F.huber_loss(input, target, reduction=reduction, delta=beta)


def _smooth_l1(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Tensor:
    return _f.huber_loss(input, target, reduction=reduction, delta=delta, weight=weight) / delta


def _binary(change: Callable[..., Tensor]) -> Callable[..., Any]:
    def instead(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> Tensor:
        return change(input, target, weight, reduction, pos_weight)

    return instead


def _no_pos_weight(x: Tensor, y: Tensor, weight: Any, reduction: str, pos_weight: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, y, weight, reduction=reduction)


def _pos_weight_on_both(x: Tensor, y: Tensor, weight: Any, reduction: str, pos_weight: Any) -> Tensor:
    factors = [each for each in (weight, pos_weight) if each is not None]
    product = None
    for each in factors:
        product = each if product is None else product * each
    if product is not None:
        product = product.expand(x.shape)
    return F.binary_cross_entropy_with_logits(x, y, product, reduction=reduction)


def _double_sigmoid(x: Tensor, y: Tensor, weight: Any, reduction: str, pos_weight: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(
        torch.sigmoid(x), y, weight, reduction=reduction, pos_weight=pos_weight
    )


# Divergence and CTC ---------------------------------------------------------------------------------------


def _divergence(change: Callable[..., Tensor]) -> Callable[..., Any]:
    def instead(
        input: Tensor,
        target: Tensor,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> Tensor:
        return change(input, target, reduction, log_target)

    return instead


def _other_mean(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> Tensor:
    other = {"mean": "batchmean", "batchmean": "mean"}.get(reduction, reduction)
    return F.kl_div(input, target, reduction=other, log_target=log_target)


def _mean_of_rows(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> Tensor:
    each = F.kl_div(input, target, reduction="none", log_target=log_target).sum(-1)
    return _as_asked(each, reduction)


def _swapped(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> Tensor:
    if log_target:
        return F.kl_div(target, input, reduction=reduction, log_target=True)
    return F.kl_div(target.log(), input.exp(), reduction=reduction)


def _ctc(change: Callable[..., Tensor]) -> Callable[..., Any]:
    def instead(
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Any,
        target_lengths: Any,
        blank: int = 0,
        reduction: str = "mean",
        zero_infinity: bool = False,
    ) -> Tensor:
        arguments = (log_probs, targets, input_lengths, target_lengths)
        return change(*arguments, blank, reduction, zero_infinity)

    return instead


def _per_sequence(p: Any, y: Any, t: Any, n: Any, blank: int, reduction: str, zero: bool) -> Tensor:
    if reduction != "mean":
        return F.ctc_loss(p, y, t, n, blank, reduction, zero)
    return F.ctc_loss(p, y, t, n, blank, "none", zero).mean()


def _blank_is(last: bool) -> Callable[..., Tensor]:
    def change(p: Any, y: Any, t: Any, n: Any, blank: int, reduction: str, zero: bool) -> Tensor:
        return F.ctc_loss(p, y, t, n, p.shape[-1] - 1 if last else 0, reduction, zero)

    return change


def _infinite(p: Any, y: Any, t: Any, n: Any, blank: int, reduction: str, zero: bool) -> Tensor:
    return F.ctc_loss(p, y, t, n, blank, reduction, zero_infinity=False)


def _finite(p: Any, y: Any, t: Any, n: Any, blank: int, reduction: str, zero: bool) -> Tensor:
    """Torch's loss where there is a path; where there is none, optax's: the logarithm of no probability is -1e5."""
    possible = torch.isfinite(F.ctc_loss(p.detach(), y, t, n, blank, "none"))
    each = F.ctc_loss(p, y, t, n, blank, "none", zero_infinity=True)
    each = torch.where(possible, each, _finite_each(p, y, t, n, blank))
    if reduction == "mean":
        return (each / n.clamp(min=1)).mean()
    return each.sum() if reduction == "sum" else each


def _finite_each(p: Tensor, y: Tensor, t: Tensor, n: Tensor, blank: int) -> Tensor:
    """Return `optax.ctc_loss`, operation by operation, so that sums around 1e5 are rounded alike."""
    none = torch.full(y.shape, -1e5, dtype=p.dtype)
    repeat = F.pad((y[:, :-1] == y[:, 1:]).to(p.dtype), (0, 1))
    emit, phi = none, torch.cat([torch.zeros_like(none[:, :1]), none], dim=1)
    for k, frame in enumerate(p):
        on_label, on_blank = frame.gather(1, y), frame[:, blank, None]
        entered = _joined(phi, emit + -1e5 * repeat)
        next_emit = _logaddexp(entered[:, :-1] + on_label, emit + on_label)
        next_phi = _joined(entered + on_blank, emit + on_blank + -1e5 * (1.0 - repeat))
        on = (k < t)[:, None]
        emit, phi = torch.where(on, next_emit, emit), torch.where(on, next_phi, phi)
    return -_joined(phi, emit).gather(1, n[:, None].long()).squeeze(1)


def _joined(phi: Tensor, emit: Tensor) -> Tensor:
    """Add the paths that end in a label to those that end in the blank after it."""
    return torch.cat([phi[:, :1], _logaddexp(phi[:, 1:], emit)], dim=1)


def _logaddexp(one: Tensor, other: Tensor) -> Tensor:
    """Torch's, with JAX's derivative `exp(x - result)`, which is less exact where both are some -1e5."""
    result = torch.logaddexp(one, other).detach()
    parts = (torch.exp(x.detach() - result) * (x - x.detach()) for x in (one, other))
    return sum(parts, start=result)


def _derivative(p: Any, y: Any, t: Any, n: Any, blank: int, reduction: str, zero: bool) -> Tensor:
    """Torch's value with the derivative as its gradient; torch's own is that of logits under a softmax."""
    each = F.ctc_loss(p, y, t, n, blank, "none", zero)
    frames = torch.arange(p.shape[0])[:, None] < t[None, :]
    finite = each.detach() < float("inf")
    surplus = (p.detach().exp() * (p - p.detach())).sum(-1)
    each = each - torch.where(frames & finite[None, :], surplus, 0.0).sum(0)
    if reduction == "mean":
        return (each / n.clamp(min=1)).mean()
    return each.sum() if reduction == "sum" else each


# Similarity -----------------------------------------------------------------------------------------------


def _unguarded_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    units = (x / x.square().sum(dim, keepdim=True).sqrt() for x in (x1, x2))
    return (next(units) * next(units)).sum(dim)


# Any mean -------------------------------------------------------------------------------------------------

_REDUCED = (F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss, F.binary_cross_entropy)
_CLASSES = "jaxrnn.losses.cross_entropy(logits, labels, ignore_index=...)"


def _both(id: str, name: str, fix: str, change: Callable[..., Any]) -> tuple[Substitution, ...]:
    """Return the same mistake in both losses over classes; in `nll_loss` its id ends in -nll."""
    return (
        _one(id, name, fix, change),
        Substitution(f"{id}-nll", name, fix, (F.nll_loss,), _cross_entropy(change, F.nll_loss)),
    )


def _one(id: str, name: str, fix: str, change: Callable[..., Any]) -> Substitution:
    return Substitution(id, name, fix, (F.cross_entropy,), _cross_entropy(change, F.cross_entropy))


def _of_binary(id: str, name: str, fix: str, change: Callable[..., Tensor]) -> Substitution:
    return Substitution(id, name, fix, (F.binary_cross_entropy_with_logits,), _binary(change))


def _of_kl(id: str, name: str, fix: str, change: Callable[..., Tensor]) -> Substitution:
    return Substitution(id, name, fix, (F.kl_div,), _divergence(change))


def _of_ctc(id: str, name: str, fix: str, change: Callable[..., Tensor]) -> Substitution:
    return Substitution(id, name, fix, (F.ctc_loss, torch.ctc_loss), _ctc(change))


FAULTS: tuple[Substitution, ...] = (
    *_both("C01", "the mean counts ignored labels", _CLASSES, _reduced(_over_all)),
    *_both(
        "C02",
        "the weighted mean is not divided by the weights of its labels",
        "divide by the sum of the weights of the labels that count",
        _reduced(_over_valid),
    ),
    _one(
        "C03",
        "label smoothing gives eps / (C - 1) to the other classes",
        "torch gives eps / C to all classes: optax.smooth_labels",
        _smoothed(_other_classes),
    ),
    _one(
        "C04",
        "label smoothing ignores the class weights in its uniform part",
        "jaxrnn.losses.cross_entropy(weight=, label_smoothing=)",
        _smoothed(_unweighted),
    ),
    _one(
        "C04-label",
        "label smoothing weights its uniform part by the label's class",
        "jaxrnn.losses.cross_entropy(weight=, label_smoothing=)",
        _smoothed(_weighted_by_label),
    ),
    _one("C05", "ignored labels make the loss NaN (optax)", _CLASSES, _ignored_are_nan),
    *_both("C05-last", "ignored labels are taken for the last class", _CLASSES, _relabelled(-1)),
    *_both("C05-first", "ignored labels are taken for the first class", _CLASSES, _relabelled(0)),
    *_both("C05-class", "ignore_index is not ignored but a class", _CLASSES, _not_ignored),
    _one(
        "C05-leak",
        "ignored labels leak the uniform part of label smoothing",
        _CLASSES,
        _smoothed(_leaking),
    ),
    _one("C06", "the softmax is over the last axis", "torch's classes are on axis 1", _last_axis),
    Substitution(
        "C07",
        "half of the squared error (optax.l2_loss)",
        "optax.squared_error, or jaxrnn.losses.mse_loss",
        (F.mse_loss,),
        _halved,
    ),
    Substitution(
        "C08",
        "Huber's loss in place of the smooth L1 loss: times beta",
        "divide by beta",
        (F.smooth_l1_loss,),
        _huber,
    ),
    Substitution(
        "C08-reverse",
        "the smooth L1 loss in place of Huber's: divided by delta",
        "multiply by delta",
        (F.huber_loss,),
        _smooth_l1,
    ),
    _of_binary("C09", "pos_weight ignored", "binary_cross_entropy_with_logits(pos_weight=)", _no_pos_weight),
    _of_binary(
        "C09-both",
        "pos_weight multiplies both terms",
        "pos_weight belongs to the answer yes alone",
        _pos_weight_on_both,
    ),
    _of_binary("C10", "the sigmoid is taken twice", "pass logits, not probabilities", _double_sigmoid),
    _one("C10-softmax", "the softmax is taken twice", "pass logits, not probabilities", _softmax_before),
    _of_kl(
        "C11",
        "mean and batchmean exchanged",
        "torch's mean divides by all elements, its batchmean by the rows",
        _other_mean,
    ),
    _of_kl(
        "C11-rows",
        "the mean is over the sums of rows (optax.kl_divergence)",
        "torch's mean divides by all elements",
        _mean_of_rows,
    ),
    _of_kl("C11-swap", "input and target exchanged", "kl_div(input=log q, target=p)", _swapped),
    _of_ctc(
        "C12",
        "the mean does not divide by the targets' lengths",
        "divide each loss by its target's length",
        _per_sequence,
    ),
    _of_ctc("C13", "the blank is the last class", "blank=0 is torch's default", _blank_is(last=True)),
    _of_ctc("C13-first", "the blank is class 0", "pass blank=", _blank_is(last=False)),
    _of_ctc("C14", "zero_infinity ignored", "ctc_loss(zero_infinity=True)", _infinite),
    _of_ctc(
        "C14-finite",
        "a sequence that no path can spell costs some 1e5 (optax)",
        "leave such sequences out, or use jaxrnn.losses.ctc_loss",
        _finite,
    ),
    _of_ctc(
        "C15",
        "the derivative with respect to log-probabilities, where torch returns that of logits",
        "compare at the logits, before log_softmax; the candidate is right",
        _derivative,
    ),
    Substitution(
        "C16",
        "the mask is in the sum but not in what it is divided by",
        "jaxrnn.losses.masked_mean",
        (F.mse_loss,),
        _mask_in_numerator_only,
    ),
    *_both(
        "C17", "the sum over time, the mean over the batch", "divide by all labels", _reduced(_over_batch)
    ),
    *_both("C17-sum", "the sum instead of the mean", 'reduction="mean"', _reduced(_summed)),
    Substitution(
        "C18",
        "the similarity to a zero vector is NaN: no eps (optax)",
        "divide by max(norm, 1e-8): optax.losses.cosine_similarity(epsilon=1e-16), the square of torch's eps",
        (F.cosine_similarity,),
        _unguarded_similarity,
    ),
)
