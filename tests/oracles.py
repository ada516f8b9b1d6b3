"""Independent implementations to check ours against: long-hand NumPy and ONNX Runtime, arrays in and out.

Parameters come as {torch name: array}, e.g. `weight_ih_l0` (G*H, I), `weight_hh_l0_reverse`, `weight_ch_l0`
(3, H) with its rows in the order i, f, o. Shapes are PyTorch's: x [T, B, I], h and c [L*D, B, H].
"""

from collections.abc import Mapping, Sequence

import numpy as np

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
    direction: str = "forward",
) -> Arrays:
    """Return output, h_n and c_n of ONNX Runtime's `LSTM` operator, in float32, for one layer.

    `direction` is "forward", "reverse" (the parameters that end in `_reverse`) or "bidirectional". Needs onnx
    and onnxruntime. A model without `weight_ch` is a plain LSTM.
    """
    import onnxruntime

    suffixes = {"forward": ("",), "reverse": ("_reverse",), "bidirectional": ("", "_reverse")}[direction]
    feeds = {
        "X": x,
        "W": _onnx_blocks(params, "weight_ih", suffixes),
        "R": _onnx_blocks(params, "weight_hh", suffixes),
    }
    if "bias_ih_l0" + suffixes[0] in params:
        biases = [_onnx_blocks(params, name, suffixes) for name in ("bias_ih", "bias_hh")]
        feeds["B"] = np.concatenate(biases, axis=1)  # [D, 8H]
    if h0 is not None:
        feeds["initial_h"] = h0
    if c0 is not None:
        feeds["initial_c"] = c0
    if "weight_ch_l0" + suffixes[0] in params:
        feeds["P"] = np.stack([params["weight_ch_l0" + s][[0, 2, 1]].ravel() for s in suffixes])  # i, o, f
    feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in feeds.items()}
    if lengths is not None:
        feeds["sequence_lens"] = np.asarray(lengths, np.int32)
    model = _onnx_model(feeds, direction, hidden=params["weight_hh_l0" + suffixes[0]].shape[1])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    y, h_n, c_n = session.run(None, feeds)
    steps, directions, rows, hidden = y.shape
    return y.transpose(0, 2, 1, 3).reshape(steps, rows, directions * hidden), h_n, c_n


def _onnx_blocks(params, name, suffixes):
    """Return one parameter [D, 4H, ...] with the blocks i, f, g, o in ONNX's order i, o, f, g."""
    stacked = np.stack([params[f"{name}_l0{suffix}"] for suffix in suffixes])
    i, f, g, o = np.split(stacked, 4, axis=1)
    return np.concatenate([i, o, f, g], axis=1)


def _onnx_model(feeds, direction, hidden):
    """Return the bytes of a model with a single LSTM node."""
    from onnx import TensorProto, helper

    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    kinds = {name: TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT for name in feeds}
    node = helper.make_node(
        "LSTM", [name if name in feeds else "" for name in order], ["Y", "Y_h", "Y_c"],
        hidden_size=hidden, direction=direction,
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, kinds[name], feeds[name].shape) for name in feeds]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_h", "Y_c")]
    graph = helper.make_graph([node], "lstm", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return model.SerializeToString()
