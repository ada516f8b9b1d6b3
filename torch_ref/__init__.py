"""The recurrent networks of `jaxrnn` in plain PyTorch: the same names and files, equations for kernels."""

from torch_ref.attention import MultiheadAttention
from torch_ref.cells import GRUCell, LSTMCell, PeepholeLSTMCell, RNNCell
from torch_ref.layers import GRU, LSTM, RNN, MinGRU, MinLSTM, PeepholeLSTM
from torch_ref.models import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from torch_ref.single_head_attention import AdditiveAttention, BilinearAttention, DotAttention

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "BilinearAttention",
    "DotAttention",
    "GRUCell",
    "LSTMCell",
    "MinGRU",
    "MinLSTM",
    "MultiheadAttention",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "RNNCell",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
