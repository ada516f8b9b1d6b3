"""The same networks computed by others: in NumPy's float64 from the equations, and by ONNX Runtime's operators."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Gate = Callable[[Array], Array]


def sigmoid(a: Array) -> Array:
    """Return ``1 / (1 + exp(-a))``."""
    return 1 / (1 + np.exp(-a))


def hard_sigmoid(a: Array) -> Array:
    """Return ``min(max(0.2 a + 0.5, 0), 1)``, what Keras 1 and 2 call so."""
    return np.clip(0.2 * a + 0.5, 0, 1)


def hard_sigmoid_of_today(a: Array) -> Array:
    """Return ``min(max(a / 6 + 0.5, 0), 1)``, what Keras 3 and torch call so."""
    return np.clip(a / 6 + 0.5, 0, 1)


def lstm(x: Array, kernel: Array, recurrent: Array, bias: Array, gate: Gate = sigmoid) -> Array:
    """Return all outputs [B, T, H] of an LSTM as Keras writes it, in float64, from zeros::

    a_i, a_f, a_g, a_o = x W + h U + b          W [I, 4H], U [H, 4H]
    c' = gate(a_f) ⊙ c + gate(a_i) ⊙ tanh(a_g)
    h' = gate(a_o) ⊙ tanh(c')
    """
    kernel, recurrent, bias = (np.asarray(each, np.float64) for each in (kernel, recurrent, bias))
    h = c = np.zeros((len(x), len(recurrent)))
    outputs = []
    for x_t in np.asarray(x, np.float64).swapaxes(0, 1):
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = gate(f) * c + gate(i) * np.tanh(g)
        h = gate(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def gru_step(x: Array, h: Array, w: Mapping[str, Array], part: str) -> Array:
    """Return the next state of a GRU as torch and cuDNN have it, the reset gate on ``U_n h + b_hn``::

    r, z = σ(x_r + h_r), σ(x_z + h_z)
    n = tanh(x_n + r ⊙ h_n)
    h' = (1 - z) ⊙ n + z ⊙ h
    """
    x_r, x_z, x_n = np.split(w[f"{part}_w_ih"] @ x + w[f"{part}_b_ih"], 3)
    h_r, h_z, h_n = np.split(w[f"{part}_w_hh"] @ h + w[f"{part}_b_hh"], 3)
    z = sigmoid(x_z + h_z)
    return (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h


def onnx_lstm(x: Array, layers: Sequence[Mapping[str, Array]], **attributes: Any) -> Array:
    """Return all outputs [B, T, H] of a stack of LSTMs by ONNX Runtime, in float32.

    layers: of each the weights in torch's layout. attributes: of the operator, as ``activations=[...]``.
    """
    import onnxruntime

    for weights in layers:
        feeds = {"X": x.swapaxes(0, 1)} | {name: _iofg(weights, name) for name in ("weight_ih", "weight_hh")}
        feeds["biases"] = np.concatenate([_iofg(weights, name) for name in ("bias_ih", "bias_hh")], axis=1)
        feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in feeds.items()}
        hidden = weights["weight_hh"].shape[1]
        model = _operator(feeds, hidden_size=hidden, **attributes)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, feeds)  # [T, 1, B, H]
        x = output[:, 0].swapaxes(0, 1)
    return x


def _iofg(weights: Mapping[str, Array], name: str) -> Array:
    """Return a parameter [1, 4H, ...] with its blocks in ONNX's order i, o, f, g."""
    i, f, g, o = np.split(weights[name], 4)
    return np.concatenate([i, o, f, g])[None]


def _operator(feeds: Mapping[str, Array], **attributes: Any) -> bytes:
    from onnx import TensorProto, helper

    names = list(feeds)
    node = helper.make_node("LSTM", names, ["Y"], **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, feeds[name].shape) for name in names]
    graph = helper.make_graph(
        [node], "layer", inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)]
    )
    opset = [helper.make_opsetid("", 22)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
