"""The functions of torch under all names that a model may call them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

Function = Callable[..., Any]
Functions = tuple[Function, ...]

SOFTMAX: Functions = (F.softmax, torch.softmax, torch.Tensor.softmax)
MASKED_FILL: Functions = (torch.masked_fill, torch.Tensor.masked_fill, torch.Tensor.masked_fill_)
WHERE: Functions = (torch.where, torch.Tensor.where)
DIVIDE: Functions = (
    torch.div,
    torch.Tensor.div,
    torch.Tensor.div_,
    torch.true_divide,
    torch.Tensor.true_divide,
)
MULTIPLY: Functions = (torch.mul, torch.Tensor.mul, torch.Tensor.mul_)
DOT_ATTENTION: Functions = (F.scaled_dot_product_attention,)
MULTI_HEAD: Functions = (F.multi_head_attention_forward,)
LAYER_NORM: Functions = (F.layer_norm, torch.layer_norm)
BATCH_NORM: Functions = (F.batch_norm,)
GROUP_NORM: Functions = (F.group_norm,)
RMS_NORM: Functions = (F.rms_norm, torch.rms_norm)
GELU: Functions = (F.gelu,)
SOFTPLUS: Functions = (F.softplus,)
LEAKY_RELU: Functions = (F.leaky_relu, torch.nn.functional.leaky_relu_)
ELU: Functions = (F.elu,)
SIGMOID: Functions = (torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid)
TANH: Functions = (torch.tanh, torch.Tensor.tanh, F.tanh)
STD: Functions = (torch.std, torch.Tensor.std)
VAR: Functions = (torch.var, torch.Tensor.var)
MEDIAN: Functions = (torch.median, torch.Tensor.median)
EMBEDDING: Functions = (F.embedding,)
CONCATENATE: Functions = (torch.cat, torch.concat, torch.concatenate)
INDEX: Functions = (torch.Tensor.__getitem__,)
LINEAR: Functions = (F.linear,)
MATMUL: Functions = (
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.Tensor.bmm,
    torch.mm,
    torch.Tensor.mm,
)
POWER: Functions = (torch.pow, torch.Tensor.pow, torch.Tensor.__pow__)
CLAMP: Functions = (torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip)
GRU_CELL: Functions = (torch.gru_cell,)
LSTM_CELL: Functions = (torch.lstm_cell,)
RNN_CELLS: Functions = (torch.rnn_tanh_cell, torch.rnn_relu_cell)


def each(*pairs: tuple[Functions, Function]) -> Mapping[Function, Function]:
    """Return what is called instead, by function, given what is called instead of each group of them."""
    return {function: instead for functions, instead in pairs for function in functions}
