"""Attention in its equations: of a query over many keys, the mean of the values that belong to them."""

import math

import torch
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention of several heads::

        head_h = softmax(Q_h K_h^T / sqrt(E / heads) + mask) V_h
        output = W_o [head_1, ..., head_n] + b_o

    As `torch.nn.MultiheadAttention`, with its parameters and results, and with a dropout whose mask may be given.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        kdim, vdim = kdim or embed_dim, vdim or embed_dim
        self.packed = kdim == vdim == embed_dim
        if self.packed:
            self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        else:
            self.q_proj_weight = nn.Parameter(torch.empty(embed_dim, embed_dim))
            self.k_proj_weight = nn.Parameter(torch.empty(embed_dim, kdim))
            self.v_proj_weight = nn.Parameter(torch.empty(embed_dim, vdim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        for name, parameter in self.named_parameters():
            if "proj_weight" in name:
                nn.init.xavier_uniform_(parameter)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        *,
        dropout_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, shaped like `query`, and the weights [B, L, S] (or of every head), or None."""
        batched = query.dim() == 3

        def batch_major(a: Tensor) -> Tensor:
            return a[None] if not batched else a if self.batch_first else a.transpose(0, 1)

        projected = self._project(*map(batch_major, (query, key, value)))
        q, k, v = (a.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for a in projected)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if key_padding_mask is not None:
            padding = key_padding_mask if batched else key_padding_mask[None]
            scores = hide(scores, padding[:, None, None, :])
        if attn_mask is not None:
            every = attn_mask.dim() == 3
            scores = hide(scores, attn_mask.view(scores.shape) if every else attn_mask)
        weights = torch.softmax(scores, -1)
        if not need_weights:  # a query of which every key is hidden then counts as one that sees zeros
            weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
        if dropout_mask is not None:
            weights = weights * dropout_mask / (1 - self.dropout)
        else:
            weights = nn.functional.dropout(weights, self.dropout, self.training)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        output = output[0] if not batched else output if self.batch_first else output.transpose(0, 1)
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights if batched else weights[0]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        separate = [] if self.packed else [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        weights = self.in_proj_weight.chunk(3) if self.packed else separate
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        both = zip((query, key, value), weights, biases, strict=True)
        return [nn.functional.linear(array, weight, bias) for array, weight, bias in both]


def hide(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores of minus infinity where a mask is True; a floating mask is added."""
    return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask
