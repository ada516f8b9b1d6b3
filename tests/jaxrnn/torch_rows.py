"""Every module that `from_torch` knows, with its options, and what it is called with."""

import numpy as np

from jaxrnn.migration.activations import FUNCTIONS
from tests.jaxrnn.torch_modules import floats, integers

CAUSAL = np.triu(np.ones((5, 5), bool), 1)
PADDING = np.arange(5) >= np.array([[5], [3]])
SMALL = {"nhead": 2, "dim_feedforward": 7, "dropout": 0.0}

# What is built, with which arguments it is called, and by keyword.
ROWS = {
    "rnn": (lambda nn: nn.RNN(3, 4, 2, "relu", bidirectional=True), [floats(5, 2, 3)]),
    "rnn tanh": (lambda nn: nn.RNN(3, 4, bias=False), [floats(5, 3), floats(1, 4)]),
    "gru": (lambda nn: nn.GRU(3, 4, 2, batch_first=True), [floats(2, 5, 3), floats(2, 2, 4)]),
    "gru drops all": (lambda nn: nn.GRU(3, 4, 3, dropout=1.0), [floats(5, 2, 3)]),
    "lstm": (
        lambda nn: nn.LSTM(3, 4, 2, bidirectional=True),
        [floats(5, 2, 3), (floats(4, 2, 4), floats(4, 2, 4))],
    ),
    "lstm projected": (lambda nn: nn.LSTM(3, 4, proj_size=2, batch_first=True), [floats(2, 5, 3)]),
    "rnn cell": (lambda nn: nn.RNNCell(3, 4, nonlinearity="relu"), [floats(2, 3), floats(2, 4)]),
    "gru cell": (lambda nn: nn.GRUCell(3, 4, bias=False), [floats(2, 3), floats(2, 4)]),
    "lstm cell": (lambda nn: nn.LSTMCell(3, 4), [floats(2, 3), (floats(2, 4), floats(2, 4))]),
    "linear": (lambda nn: nn.Linear(3, 4), [floats(2, 5, 3)]),
    "linear without bias": (lambda nn: nn.Linear(3, 4, bias=False), [floats(2, 3)]),
    "embedding": (lambda nn: nn.Embedding(6, 4), [integers(6, 3, 5)]),
    "embedding padded": (lambda nn: nn.Embedding(6, 4, padding_idx=-4), [integers(6, 3, 5)]),
    "layer norm": (lambda nn: nn.LayerNorm(4, eps=0.1), [floats(2, 5, 4) + 30]),
    "layer norm plain": (lambda nn: nn.LayerNorm(4, elementwise_affine=False), [floats(2, 4)]),
    "layer norm without bias": (lambda nn: nn.LayerNorm(4, bias=False), [floats(2, 4)]),
    "layer norm over axes": (lambda nn: nn.LayerNorm((5, 4)), [floats(2, 5, 4)]),
    "layer norm over axes plain": (
        lambda nn: nn.LayerNorm((5, 4), elementwise_affine=False),
        [floats(2, 5, 4)],
    ),
    "layer norm over axes without bias": (lambda nn: nn.LayerNorm((5, 4), bias=False), [floats(2, 5, 4)]),
    "dropout of nothing": (lambda nn: nn.Dropout(0.0), [floats(2, 3)]),
    "dropout of all": (lambda nn: nn.Dropout(1.0), [floats(2, 3)]),
    "batch norm": (lambda nn: nn.BatchNorm1d(4, eps=0.1, momentum=0.3), [floats(6, 4)]),
    "batch norm in time": (lambda nn: nn.BatchNorm1d(4), [floats(3, 4, 5)]),
    "batch norm averaged": (lambda nn: nn.BatchNorm1d(4, momentum=None), [floats(6, 4)]),
    "batch norm plain": (lambda nn: nn.BatchNorm1d(4, affine=False), [floats(6, 4)]),
    "batch norm without bias": (lambda nn: nn.BatchNorm1d(4, bias=False), [floats(6, 4)]),
    "batch norm untracked": (lambda nn: nn.BatchNorm1d(4, track_running_stats=False), [floats(6, 4)]),
    "attention": (lambda nn: nn.MultiheadAttention(4, 2), [floats(5, 2, 4)] * 3),
    "attention of other sizes": (
        lambda nn: nn.MultiheadAttention(4, 2, bias=False, kdim=3, vdim=5, batch_first=True),
        [floats(2, 5, 4), floats(2, 6, 3), floats(2, 6, 5)],
    ),
    "encoder layer": (
        lambda nn: nn.TransformerEncoderLayer(4, **SMALL, activation="gelu", layer_norm_eps=0.1),
        [floats(5, 2, 4)],
    ),
    "encoder layer of modules": (
        lambda nn: nn.TransformerEncoderLayer(
            4, **SMALL, activation=nn.SiLU(), norm_first=True, bias=False, batch_first=True
        ),
        [floats(2, 5, 4)],
    ),
    "decoder layer": (
        lambda nn: nn.TransformerDecoderLayer(4, **SMALL, norm_first=True),
        [floats(5, 2, 4), floats(6, 2, 4)],
    ),
    "encoder": (
        lambda nn: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, **SMALL, batch_first=True),
            2,
            nn.LayerNorm(4),
            enable_nested_tensor=False,
        ),
        [floats(2, 5, 4)],
        {"src_key_padding_mask": PADDING},
    ),
    "decoder": (
        lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, **SMALL, batch_first=True), 2),
        [floats(2, 5, 4), floats(2, 6, 4)],
        {"tgt_mask": CAUSAL},
    ),
    "transformer": (
        lambda nn: nn.Transformer(4, num_encoder_layers=1, num_decoder_layers=2, batch_first=True, **SMALL),
        [floats(2, 6, 4), floats(2, 5, 4)],
        {"tgt_mask": CAUSAL},
    ),
    "flatten": (lambda nn: nn.Flatten(), [floats(2, 3, 4, 5)]),
    "flatten within": (lambda nn: nn.Flatten(-3, -2), [floats(2, 3, 4, 5)]),
    "sequential": (
        lambda nn: nn.Sequential(
            nn.Conv1d(3, 4, 2, bias=False), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(16, 2)
        ),
        [floats(3, 3, 5)],
    ),
    "bag of offsets": (
        lambda nn: nn.EmbeddingBag(6, 4),
        [integers(6, 9), np.array([0, 0, 4, 7, 9])],
    ),
    "bag with the last offset": (
        lambda nn: nn.EmbeddingBag(6, 4, mode="sum", include_last_offset=True),
        [integers(6, 9), np.array([0, 4, 4, 9])],
    ),
    "bag weighed": (
        lambda nn: nn.EmbeddingBag(6, 4, mode="sum", padding_idx=2),
        [integers(6, 3, 4)],
        {"per_sample_weights": floats(3, 4)},
    ),
}
for mode in ("sum", "mean", "max"):
    ROWS |= {
        f"bags, {mode}": (lambda nn, mode=mode: nn.EmbeddingBag(6, 4, mode=mode), [integers(6, 3, 5)]),
        f"padded bags, {mode}": (
            lambda nn, mode=mode: nn.EmbeddingBag(6, 4, mode=mode, padding_idx=2),
            [np.array([2, 2, 1, 5, 2, 1, 1]), np.array([0, 2, 2, 5])],
        ),
    }
CONVOLUTIONS = [
    {},
    {"padding": 2, "stride": 3, "bias": False},
    {"padding": "same", "dilation": 3},
    {"padding": "same", "kernel_size": 4},
    {"padding": "valid", "dilation": 2},
    {"groups": 2, "stride": 2, "padding": 1},
]
for number, options in enumerate(CONVOLUTIONS):
    given = {"kernel_size": 3} | options
    ROWS[f"convolution {number}"] = (lambda nn, given=given: nn.Conv1d(4, 6, **given), [floats(2, 4, 9)])
ROWS["convolution without a batch"] = (lambda nn: nn.Conv1d(4, 6, 3), [floats(4, 9)])
ACTIVATIONS = {
    name: (lambda nn, name=name: getattr(nn, name)())
    for name in FUNCTIONS
    if name not in ("Flatten", "Softmax", "LogSoftmax")
} | {
    "GELU tanh": lambda nn: nn.GELU("tanh"),
    "LeakyReLU steep": lambda nn: nn.LeakyReLU(0.3, inplace=True),
    "ELU low": lambda nn: nn.ELU(0.3),
    "ReLU6": lambda nn: nn.ReLU6(),
    "Hardtanh wide": lambda nn: nn.Hardtanh(-3.0, 0.5),
    "Softplus sharp": lambda nn: nn.Softplus(2.0, 1.0),
    "Softmax": lambda nn: nn.Softmax(0),
    "LogSoftmax": lambda nn: nn.LogSoftmax(-1),
}
