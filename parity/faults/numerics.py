"""Lost precision: matrix products of rounded operands, a state kept in bfloat16, a variance that cancels.

In float64 a product of a device is exact, so a rounded operand shows in the precision under test alone. As a
hypothesis it is the reference in float64 with its operands rounded, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from parity.faults.functions import norms
from parity.faults.functions.attention_parts import Parts, dot_attention, multi_head
from parity.faults.functions.called import (
    BATCH_NORM,
    DOT_ATTENTION,
    GROUP_NORM,
    GRU_CELL,
    LAYER_NORM,
    LINEAR,
    LSTM_CELL,
    MATMUL,
    MULTI_HEAD,
    RNN_CELLS,
    each,
)
from parity.faults.substitution import Function, Substitution, exchanging
from parity.longhand import torch_modules
from parity.longhand.recurrent import FAITHFUL

Tensor = torch.Tensor
Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Numeric:
    """A loss of precision: a hypothesis about a candidate whose float64 run is right.

    pointwise: the candidate's very errors follow from it; else only their size does.
    """

    id: str
    name: str
    fix: str
    substitution: Substitution = field(repr=False)
    pointwise: bool = True

    def plant(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model that computes so; recurrent layers are spelled out first."""
        spelled_out = torch_modules.plant(model, lambda name, network: FAITHFUL)
        return self.substitution.plant(spelled_out)


def to_bits(bits: int) -> Rounding:
    """Return a rounding to a significand of so many bits, the implicit one included; ties go to even."""

    def rounded(values: Tensor) -> Tensor:
        fraction, exponent = torch.frexp(values)
        return torch.ldexp(torch.round(fraction * 2.0**bits) * 2.0**-bits, exponent)

    return rounded


class _Product(torch.autograd.Function):
    """A product of rounded matrices, whose gradients are again products of rounded matrices."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, rounded: Rounding) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.rounded = rounded
        return rounded(left) @ rounded(right)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right = map(ctx.rounded, ctx.saved_tensors)
        gradient = ctx.rounded(gradient)
        of_left, of_right = gradient @ right.mT, left.mT @ gradient
        return of_left.sum_to_size(left.shape), of_right.sum_to_size(right.shape), None


def _products(rounded: Rounding) -> Mapping[Function, Function]:
    """Return every function that multiplies matrices, with rounded operands."""

    def matmul(left: Tensor, right: Tensor) -> Tensor:
        rows = left if left.ndim > 1 else left[None]
        columns = right if right.ndim > 1 else right[:, None]
        product = _Product.apply(rows, columns, rounded)
        product = product if left.ndim > 1 else product.squeeze(-2)
        return product if right.ndim > 1 else product.squeeze(-1)

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = matmul(input.reshape(-1, input.shape[-1]), weight.T).unflatten(0, input.shape[:-1])
        return rows if bias is None else rows + bias

    def inside(whole: Function) -> Function:
        def attend(*args: Any, **kwargs: Any) -> Any:
            with exchanging(products):
                return whole(*args, **kwargs)

        return attend

    simple = each((LINEAR, linear), (MATMUL, matmul))
    products = Substitution("", "", "", tuple(simple), simple, within_layers=True)
    return {
        **simple,
        **each((DOT_ATTENTION, inside(dot_attention(Parts()))), (MULTI_HEAD, inside(multi_head(Parts())))),
    }


def _rounded_operands(id: str, name: str, fix: str, bits: int) -> Numeric:
    instead = _products(to_bits(bits))
    return Numeric(
        id, name, fix, Substitution(id, name, fix, tuple(instead), instead, "numeric", within_layers=True)
    )


def _in_bfloat16(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16).to(value.dtype)


def _rounded_state(cell: Function) -> Function:
    def step(*args: Any) -> Any:
        after = cell(*args)
        return tuple(map(_in_bfloat16, after)) if isinstance(after, tuple) else _in_bfloat16(after)

    return step


_STEPS = {cell: _rounded_state(cell) for cell in (*GRU_CELL, *LSTM_CELL, *RNN_CELLS)}
_FAST = each(
    (LAYER_NORM, norms.layer_norm(norms.fast)),
    (BATCH_NORM, norms.batch_norm(norms.fast)),
    (GROUP_NORM, norms.group_norm(norms.fast)),
)
_PRECISION = "jax.default_matmul_precision('highest'), or precision= of the layer"
_CARRY = "carry the state in float32, also where inputs and weights are bfloat16"

FAULTS: tuple[Substitution, ...] = (
    Substitution("N11", "state rounded to bfloat16 at every step", _CARRY, tuple(_STEPS), _STEPS),
)
NUMERIC: tuple[Numeric, ...] = (
    _rounded_operands("N09", "operands of matrix products rounded to TF32", _PRECISION, 11),
    _rounded_operands("N10", "operands of matrix products rounded to bfloat16", _PRECISION, 8),
    Numeric(
        "N04",
        "variance as E[x²] - E[x]² (Flax's use_fast_variance)",
        "nnx.LayerNorm(..., use_fast_variance=False)",
        Substitution("N04", "", "", tuple(_FAST), _FAST, "numeric"),
        pointwise=False,
    ),
)
