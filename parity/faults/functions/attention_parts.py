"""`F.scaled_dot_product_attention` and `F.multi_head_attention_forward` spelled out, part by part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from parity.faults.functions.called import Function

Tensor = torch.Tensor


# The parts of attention ------------------------------------------------------------------------------------


def factor(width: int) -> float:
    """Return what scores are multiplied with: ``1 / sqrt(d)``."""
    return 1.0 / math.sqrt(width)


def select(keep: Tensor | None) -> Tensor | None:
    """Return which keys take part."""
    return keep


def weigh(scores: Tensor, keep: Tensor | None) -> Tensor:
    """Return the weights of the keys; NaN where there is none to attend to."""
    return softmax(scores, keep, -math.inf)


def settle(weights: Tensor, keep: Tensor | None) -> Tensor:
    """Return the weights as `F.scaled_dot_product_attention` has them: zero where there is no key at all."""
    if keep is None:
        return weights
    empty = ~keep.any(-1, keepdim=True).expand_as(weights)
    return torch.where(empty, torch.zeros_like(weights), weights)


def split(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return q, k, v of each head `[B, heads, T, d]` from the projections `[B, T, 3 * heads * d]`."""
    return tuple(_by_head(part, heads) for part in packed.chunk(3, -1))


def merge(parts: Tensor) -> Tensor:
    """Return `[B, T, heads * d]` from `[B, heads, T, d]`."""
    return parts.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Parts:
    """How attention computes; `dataclasses.replace` exchanges one part."""

    factor: Callable[[int], float] = factor
    select: Callable[[Tensor | None], Tensor | None] = select
    weigh: Callable[[Tensor, Tensor | None], Tensor] = weigh
    settle: Callable[[Tensor, Tensor | None], Tensor] = settle
    split: Callable[[Tensor, int], tuple[Tensor, ...]] = split
    merge: Callable[[Tensor], Tensor] = merge


def softmax(scores: Tensor, keep: Tensor | None, fill: float, axis: int = -1) -> Tensor:
    """Return the softmax of scores, those of left out keys replaced."""
    return torch.softmax(scores if keep is None else scores.masked_fill(~keep, fill), axis)


def _by_head(part: Tensor, heads: int) -> Tensor:
    return part.unflatten(-1, (heads, -1)).transpose(1, 2)


# Attention spelled out -------------------------------------------------------------------------------------


def dot_attention(parts: Parts) -> Function:
    """Return `F.scaled_dot_product_attention` made of parts."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        require(dropout_p == 0.0 and not enable_gqa)
        scores = query @ key.mT * (parts.factor(query.shape[-1]) if scale is None else scale)
        keep = attn_mask
        if is_causal:
            keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if keep is not None and keep.dtype != torch.bool:
            scores, keep = _apart(scores, keep)
        keep = parts.select(None if keep is None else keep.expand(scores.shape))
        return parts.settle(parts.weigh(scores, keep), keep) @ value

    return attend


def multi_head(parts: Parts) -> Function:
    """Return `F.multi_head_attention_forward` made of parts, for queries, keys and values of one width."""

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        require(query.ndim == 3 and bias_k is None and not add_zero_attn and not use_separate_proj_weight)
        require(dropout_p == 0.0 or not training)
        inputs = [part.transpose(0, 1) for part in (query, key, value)]  # [B, T, E]
        packed = [F.linear(part, in_proj_weight, in_proj_bias) for part in inputs]
        q, k, v = (parts.split(part, num_heads)[n] for n, part in enumerate(packed))
        scores = q @ k.mT * parts.factor(q.shape[-1])
        keep = None
        for mask in (key_padding_mask[:, None, None, :] if key_padding_mask is not None else None, attn_mask):
            if mask is not None:
                allowed = ~mask if mask.dtype == torch.bool else None
                if allowed is None:
                    scores, allowed = _apart(scores, mask)
                keep = allowed if keep is None else keep & allowed
        keep = parts.select(None if keep is None else keep.expand(scores.shape))
        weights = parts.weigh(scores, keep)
        weights = weights if need_weights else parts.settle(weights, keep)
        output = F.linear(parts.merge(weights @ v), out_proj_weight, out_proj_bias).transpose(0, 1)
        if not need_weights:
            return output, None
        return output, weights.mean(1) if average_attn_weights else weights

    return attend


def _apart(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores with what a mask of numbers adds to them, and where it is not -inf."""
    keep = ~torch.isneginf(mask)
    return scores + torch.where(keep, mask, torch.zeros_like(mask)), keep


def require(served: bool) -> None:
    """Raise NotImplementedError for what is not spelled out here; a hypothesis is then none."""
    if not served:
        raise NotImplementedError(
            "attention is spelled out without dropout, without grouped queries, and packed."
        )
