"""PyTorch's recurrent networks in JAX and Flax NNX."""

from jaxrnn import (
    bucketing,
    cells,
    data,
    formats,
    init,
    losses,
    models,
    ops,
    optim,
    pipeline,
    sequence,
    sharding,
    train,
)
from jaxrnn.allocator import keep_memory
from jaxrnn.attention import MultiheadAttention
from jaxrnn.bptt import TruncationBias, scan_loss, truncated_bptt, truncation_bias
from jaxrnn.checkpoint import load_state_dict, save, state_dict
from jaxrnn.compiling import compiled_once
from jaxrnn.exporting import ExportedModel, export, load_exported
from jaxrnn.layers import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    PeepholeLSTMCell,
    RNNCell,
)
from jaxrnn.migration import from_torch, optimizer_from_torch, optimizer_to_torch
from jaxrnn.models import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from jaxrnn.plan import plan
from jaxrnn.sequence import PackedSequence
from jaxrnn.single_head_attention import AdditiveAttention, BilinearAttention, DotAttention
from jaxrnn.streaming import stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "BilinearAttention",
    "DotAttention",
    "ExportedModel",
    "GRUCell",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "MultiheadAttention",
    "PackedSequence",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "RNNCell",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TruncationBias",
    "bucketing",
    "cells",
    "compiled_once",
    "data",
    "export",
    "formats",
    "from_torch",
    "init",
    "keep_memory",
    "load_exported",
    "load_state_dict",
    "losses",
    "models",
    "ops",
    "optim",
    "optimizer_from_torch",
    "optimizer_to_torch",
    "pipeline",
    "plan",
    "save",
    "scan_loss",
    "sequence",
    "sharding",
    "state_dict",
    "stream",
    "train",
    "truncated_bptt",
    "truncation_bias",
]
