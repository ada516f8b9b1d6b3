"""Recurrent layers with the constructors, parameters, shapes and return values of `torch.nn`.

They own parameters and torch's calling conventions; `jaxrnn.ops.unroll` does the work. Common to all:

* Input ``[T, B, I]``, ``[B, T, I]`` with `batch_first`, or ``[T, I]`` without a batch. Output alike, with
  ``D * R`` features: forward, then backward direction. R is `proj_size` if the layer projects, else H.
* States ``[L * D, B, R]`` (an LSTM's c: ``[L * D, B, H]``), index ``layer * D + direction``, with
  `batch_first` too. Omitted, they are zeros and need no random numbers.
* Options torch lacks are keywords: `rngs` draws the parameters, U(-1/sqrt(H), 1/sqrt(H)) as in torch;
  `param_dtype` is the dtype they are stored in; `dtype` the one to compute in, whatever comes in (None: that of
  the parameters, and another input dtype is an error as in torch); `precision` that of the matrix products (on
  NVIDIA's GPUs, float32 is TensorFloat32 unless it is "highest"); `implementation` is explained at
  `jaxrnn.ops.unroll`; `memory` says what the backward pass keeps, from "gates" (the fastest) by "carry", "h" and
  segments of so many steps to a budget like "2 GiB", see `jaxrnn.ops.memory.resolve`.
  `MinGRU` and `MinLSTM` take neither of the last two.
* The layer drops between its layers unless `eval()` was called on it or on a module around it, with masks from
  the "dropout" stream of `rngs`. Final states are not dropped.
* Every error of torch is raised with torch's text, followed by the remedy.
"""

from jaxrnn.layers.minimal import MinGRU, MinLSTM
from jaxrnn.layers.rnn import GRU, LSTM, RNN, PeepholeLSTM
from jaxrnn.layers.single_step import GRUCell, LSTMCell, PeepholeLSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "RNNCell",
]
