"""Mistakes in attention: by hand with softmax, `F.scaled_dot_product_attention`, `nn.MultiheadAttention`.

The two functions are spelled out (`attention_parts`), because a mistake inside them is one in a part of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from parity.faults.functions.attention_parts import Parts, dot_attention, multi_head, require, softmax, split
from parity.faults.functions.called import (
    DIVIDE,
    DOT_ATTENTION,
    MASKED_FILL,
    MULTI_HEAD,
    MULTIPLY,
    SOFTMAX,
    WHERE,
    Function,
    each,
)
from parity.faults.substitution import Substitution

Tensor = torch.Tensor


# The same mistakes where attention is written by hand -------------------------------------------------------


def _is_root(number: Any) -> bool:
    """Tell a number that is the root of a width."""
    if isinstance(number, Tensor):
        number = number.item() if number.ndim == 0 and not number.requires_grad else 0.0
    square = float(number) ** 2
    return square >= 1.99 and abs(square - round(square)) < 1e-6 * square


def _is_fill(number: Any) -> bool:
    """Tell a number that takes a score out of a softmax."""
    if isinstance(number, Tensor):
        number = number.item() if number.ndim == 0 else 0.0
    return float(number) < -20.0


def _divided(scale: Callable[[Tensor, Any], Tensor]) -> Function:
    def divide(input: Any, other: Any, **options: Any) -> Any:
        wanted = not isinstance(other, Tensor) or other.ndim == 0
        return scale(input, other) if wanted and _is_root(other) else torch.div(input, other, **options)

    return divide


def _multiplied(scale: Callable[[Tensor, Any], Tensor]) -> Function:
    def multiply(input: Any, other: Any, **options: Any) -> Any:
        wanted = not isinstance(other, Tensor) and 0.0 < abs(other) < 1.0
        return scale(input, 1.0 / other) if wanted and _is_root(1.0 / other) else torch.mul(input, other)

    return multiply


def _filled(fill: Callable[[Tensor, Tensor, Any], Tensor]) -> Function:
    def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
        # nn.MultiheadAttention makes a mask of zeros and -inf so; the mistake is made where that is used.
        wanted = _is_fill(value) and bool(input.any())
        return fill(input, mask, value) if wanted else input.masked_fill(mask, value)

    return masked_fill


def _chosen(fill: Callable[[Tensor, Tensor, Any], Tensor]) -> Function:
    def where(condition: Tensor, input: Any, other: Any) -> Tensor:
        if not isinstance(condition, Tensor) or condition.dtype != torch.bool:  # self.where(condition, other)
            condition, input = input, condition
        if not isinstance(other, Tensor) and _is_fill(other):
            return fill(input, ~condition, other)
        if not isinstance(input, Tensor) and _is_fill(input):
            return fill(other, condition, input)
        return torch.where(condition, input, other)

    return where


def _softmax_over(axis: int) -> Function:
    def softmax(input: Tensor, dim: int | None = None, **options: Any) -> Tensor:
        return torch.softmax(input, _second(input) if axis == 1 else axis)

    return softmax


def _second(scores: Tensor) -> int:
    """Return the second axis, where it is none of the last two."""
    require(scores.ndim > 3)
    return 1


def _remember(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    scores = input.clone()
    scores.left_out = mask  # type: ignore[attr-defined]  # for the softmax that follows
    return scores


def _softmax_then_mask(input: Tensor, dim: int | None = None, **options: Any) -> Tensor:
    weights = torch.softmax(input, -1 if dim is None else dim)
    mask = getattr(input, "left_out", None)
    return weights if mask is None else weights.masked_fill(mask, 0.0)


def _scaling(
    of_dot: Callable[[int], float], by_hand: Callable[[Tensor, Any], Tensor]
) -> dict[Function, Function]:
    parts = Parts(factor=of_dot)
    return {
        **each((DIVIDE, _divided(by_hand)), (MULTIPLY, _multiplied(by_hand))),
        **each((DOT_ATTENTION, dot_attention(parts)), (MULTI_HEAD, multi_head(parts))),
    }


def _masking(parts: Parts, by_hand: Callable[[Tensor, Tensor, Any], Tensor]) -> dict[Function, Function]:
    return {
        **each((MASKED_FILL, _filled(by_hand)), (WHERE, _chosen(by_hand))),
        **each((DOT_ATTENTION, dot_attention(parts)), (MULTI_HEAD, multi_head(parts))),
    }


def _attending(parts: Parts) -> dict[Function, Function]:
    return dict(each((DOT_ATTENTION, dot_attention(parts)), (MULTI_HEAD, multi_head(parts))))


def filling(value: float) -> dict[Function, Function]:
    """Return attention in which masked scores are replaced by a number; it does not settle empty rows."""
    parts = Parts(
        weigh=lambda scores, keep: softmax(scores, keep, value), settle=lambda weights, keep: weights
    )
    return _masking(parts, lambda scores, mask, fill: scores.masked_fill(mask, value))


def scaling(value: float) -> dict[Function, Function]:
    """Return attention whose scores are multiplied with a number."""
    return _scaling(lambda width: value, lambda scores, root: scores * value)


def _reordered(order: str) -> Callable[[Tensor, int], tuple[Tensor, ...]]:
    def read(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
        parts = split(packed, heads)
        return tuple(parts[order.index(part)] for part in "qkv")

    return read


def _head_by_head(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
    return packed.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)


def _interleaved(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
    return tuple(part.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2) for part in packed.chunk(3, -1))


def _merge_interleaved(parts: Tensor) -> Tensor:
    return parts.permute(0, 2, 3, 1).flatten(2)


def _fault(id: str, name: str, fix: str, instead: dict[Function, Function], **options: Any) -> Substitution:
    return Substitution(id, name, fix, tuple(instead), instead, **options)


_SCALE = "divide the scores by sqrt(d), d the width of one head"
_AXIS = "softmax over the keys: axis=-1"
_POLARITY = (
    "key_padding_mask is True where a key is left out, a mask of SDPA and of flax True where it takes part"
)
_FILL = "jnp.where(keep, scores, -jnp.inf); a row without any key is NaN in nn.MultiheadAttention, 0 in SDPA"
_CHUNKS = "in_proj_weight holds all of q, then k, then v; head n has the rows n * d to (n + 1) * d of each"
_FILLS = {"-30": -30.0, "-1e4": -1e4, "-1e9": -1e9, "-min": torch.finfo(torch.float32).min}

FAULTS: tuple[Substitution, ...] = (
    _fault("A01", "scores not divided by sqrt(d)", _SCALE, _scaling(lambda width: 1.0, lambda x, root: x)),
    _fault(
        "A02",
        "scores divided by d, not by sqrt(d)",
        _SCALE,
        _scaling(lambda width: 1.0 / width, lambda x, root: x / root**2),
    ),
    _fault(
        "A03",
        "softmax over the queries",
        _AXIS,
        {
            **each((SOFTMAX, _softmax_over(-2))),
            **_attending(Parts(weigh=lambda scores, keep: softmax(scores, keep, -math.inf, -2))),
        },
    ),
    _fault(
        "A03-first",
        "softmax over the first axis",
        _AXIS,
        {
            **each((SOFTMAX, _softmax_over(0))),
            **_attending(Parts(weigh=lambda scores, keep: softmax(scores, keep, -math.inf, 0))),
        },
    ),
    _fault(
        "A03-second",
        "softmax over the second axis (F.softmax of four axes without dim)",
        _AXIS,
        {
            **each((SOFTMAX, _softmax_over(1))),
            **_attending(Parts(weigh=lambda scores, keep: softmax(scores, keep, -math.inf, _second(scores)))),
        },
        variant=True,
    ),
    _fault(
        "A04",
        "mask means the opposite",
        _POLARITY,
        _masking(
            Parts(select=lambda keep: None if keep is None else ~keep),
            lambda scores, mask, fill: scores.masked_fill(~mask, fill),
        ),
    ),
    _fault(
        "A05",
        "mask ignored",
        "pass the mask",
        _masking(Parts(select=lambda keep: None), lambda scores, mask, fill: scores),
    ),
    _fault(
        "A06",
        "mask applied after the softmax, weights not normalised again",
        "mask the scores, then take the softmax",
        {
            **each(
                (SOFTMAX, _softmax_then_mask), (MASKED_FILL, _filled(_remember)), (WHERE, _chosen(_remember))
            ),
            **_attending(Parts(weigh=lambda s, keep: torch.softmax(s, -1) * (1.0 if keep is None else keep))),
        },
    ),
    *(
        _fault(f"A07{name}", f"masked scores are {value:g} instead of -inf", _FILL, filling(value))
        for name, value in _FILLS.items()
    ),
    Substitution(
        "A07-inf",
        "masked scores are -inf instead of a finite number",
        _FILL,
        (*MASKED_FILL, *WHERE),
        each(
            (MASKED_FILL, _filled(lambda s, mask, fill: s.masked_fill(mask, -math.inf))),
            (WHERE, _chosen(lambda s, mask, fill: s.masked_fill(mask, -math.inf))),
        ),
        gate="non-finite",
    ),
    _fault(
        "A07-nan",
        "a row without any key is NaN",
        _FILL,
        _attending(Parts(settle=lambda weights, keep: weights)),
        gate="non-finite",
    ),
    *(
        Substitution(
            f"A13-{order}" if order != "kqv" else "A13",
            f"in_proj read as {', '.join(order)}",
            _CHUNKS,
            MULTI_HEAD,
            multi_head(Parts(split=_reordered(order))),
            variant=order != "kqv",
        )
        for order in map("".join, itertools.permutations("qkv"))
        if order != "qkv"
    ),
    Substitution(
        "A13-heads",
        "in_proj read head by head, each with its q, k, v",
        _CHUNKS,
        MULTI_HEAD,
        multi_head(Parts(split=_head_by_head)),
    ),
    Substitution(
        "A13-interleaved",
        "features dealt to the heads in turn (reshape to d, heads)",
        _CHUNKS,
        MULTI_HEAD,
        multi_head(Parts(split=_interleaved)),
    ),
    Substitution(
        "A13-merge",
        "heads joined feature by feature (reshape from d, heads)",
        _CHUNKS,
        MULTI_HEAD,
        multi_head(Parts(merge=_merge_interleaved)),
    ),
    Substitution(
        "A13-dealt",
        "features dealt to the heads in turn, and joined so",
        _CHUNKS,
        MULTI_HEAD,
        multi_head(Parts(split=_interleaved, merge=_merge_interleaved)),
        variant=True,
    ),
)
