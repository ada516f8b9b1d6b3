"""Independent implementations to check ours against: long-hand NumPy and ONNX Runtime, arrays in and out.

Parameters come as {torch name: array}, e.g. `weight_ih_l0` (G*H, I), `weight_hh_l0_reverse`, `weight_ch_l0`
(3, H) with its rows in the order i, f, o. Shapes are PyTorch's: x [T, B, I], h and c [L*D, B, H].
"""

from collections.abc import Mapping, Sequence

import numpy as np

from parity.longhand.recurrent import Call, Network
from parity.oracle import onnx_runtime

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # output [T, B, D*H], h_n and c_n [L*D, B, H]


def numpy_peephole_lstm(
    params: Mapping[str, np.ndarray],
    x: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    lengths: Sequence[int] | np.ndarray | None = None,
) -> Arrays:
    """Return output, h_n and c_n of a peephole LSTM with as many layers and directions as `params` has.

    Every row is run alone over its own steps, as a list of vectors: no masks, no padding, no matrix products
    shared between rows. A model without `weight_ch` is a plain LSTM, one without biases has none.
    """
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("_reverse") for name in params)
    suffixes = ("", "_reverse") if "weight_ih_l0_reverse" in params else ("",)
    steps, rows, _ = x.shape
    hidden = params["weight_hh_l0"].shape[1]
    shape = (layers * len(suffixes), rows, hidden)
    h_n = np.zeros(shape) if h0 is None else h0.astype(np.float64)
    c_n = np.zeros(shape) if c0 is None else c0.astype(np.float64)
    for layer in range(layers):
        output = np.zeros((steps, rows, len(suffixes) * hidden))
        for direction, suffix in enumerate(suffixes):
            index = layer * len(suffixes) + direction
            block = slice(direction * hidden, (direction + 1) * hidden)
            for b in range(rows):
                times = list(range(steps if lengths is None else int(lengths[b])))
                h, c = h_n[index, b], c_n[index, b]
                for t in times[::-1] if suffix else times:
                    h, c = _peephole_step(params, f"_l{layer}{suffix}", x[t, b], h, c)
                    output[t, b, block] = h
                h_n[index, b], c_n[index, b] = h, c
        x = output
    return x, h_n, c_n


def _peephole_step(params, end, x, h, c):
    """Return the next (h, c) of one row, each [H]."""
    hidden = len(h)
    peepholes = params.get("weight_ch" + end, np.zeros((3, hidden)))
    z = params["weight_ih" + end] @ x + params["weight_hh" + end] @ h
    if "bias_ih" + end in params:
        z = z + params["bias_ih" + end] + params["bias_hh" + end]
    z_i, z_f, z_g, z_o = z[:hidden], z[hidden : 2 * hidden], z[2 * hidden : 3 * hidden], z[3 * hidden :]
    i = _sigmoid(z_i + peepholes[0] * c)
    f = _sigmoid(z_f + peepholes[1] * c)
    c = f * c + i * np.tanh(z_g)
    o = _sigmoid(z_o + peepholes[2] * c)
    return o * np.tanh(c), c


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def onnx_lstm(
    params: Mapping[str, np.ndarray],
    x: np.ndarray,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    lengths: Sequence[int] | np.ndarray | None = None,
) -> Arrays:
    """Return output, h_n and c_n of ONNX Runtime's `LSTM` operator, in float32, for one layer of `params`.

    Needs onnx and onnxruntime. A model without `weight_ch` is a plain LSTM.
    """
    ends = ("_l0", "_l0_reverse") if "weight_ih_l0_reverse" in params else ("_l0",)
    stack = {
        (0, n): {name.removesuffix(end): value for name, value in params.items() if name.endswith(end)}
        for n, end in enumerate(ends)
    }
    kind = "PEEPHOLE_LSTM" if "weight_ch_l0" in params else "LSTM"
    network = Network(kind, params["weight_hh_l0"].shape[1], directions=len(ends))
    start = tuple(part for part in (h0, c0) if part is not None)
    output, (h_n, c_n) = onnx_runtime.run(network, stack, Call(x, start, lengths))
    return output, h_n, c_n
