"""ONNX Runtime's recurrent operators as a witness: float32, outputs and states, one operator per layer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.gates import Array
from parity.longhand.recurrent import Call, Network, Params

# ONNX's order of the blocks of rows, in torch's gates, and the activations of one direction.
_OPERATORS = {
    "LSTM": ("LSTM", "iofg", ()),
    "PEEPHOLE_LSTM": ("LSTM", "iofg", ()),
    "GRU": ("GRU", "zrn", ()),
    "RNN_TANH": ("RNN", "a", ("Tanh",)),
    "RNN_RELU": ("RNN", "a", ("Relu",)),
}
_PEEPHOLES = [0, 2, 1]  # rows i, o, f of torch_ref's i, f, o


def is_installed() -> bool:
    """Tell whether onnx and onnxruntime are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def knows(network: Network, call: Call) -> bool:
    """Tell whether the operators can compute this call.

    They have no projection, no resets and no injected masks; of an empty row they return zeros, not its state.
    """
    empty_rows = call.lengths is not None and bool(np.any(np.asarray(call.lengths) == 0))
    return not (network.projected or empty_rows or call.resets is not None or call.masks)


def run(
    network: Network, stack: Mapping[tuple[int, int], Params], call: Call
) -> tuple[Array, tuple[Array, ...]]:
    """Return the output [T, B, D*H] and the final states, each [L*D, B, H], as `longhand.recurrent.run` does."""
    x, ends = np.asarray(call.x), []
    for layer in range(network.layers):
        params = [stack[layer, direction] for direction in range(network.directions)]
        places = slice(layer * network.directions, (layer + 1) * network.directions)
        start = [part[places] for part in call.start]
        x, states = _run_layer(network, params, x, start, call.lengths)
        ends.append(states)
    return x, tuple(np.concatenate(parts) for parts in zip(*ends, strict=True))


def _run_layer(
    network: Network, params: list[Params], x: Array, start: list[Array], lengths: Any
) -> tuple[Array, list[Array]]:
    import onnxruntime

    feeds = {"X": x, "W": _blocks(network, params, "weight_ih"), "R": _blocks(network, params, "weight_hh")}
    if "bias_ih" in params[0]:
        feeds["B"] = np.concatenate(
            [_blocks(network, params, name) for name in ("bias_ih", "bias_hh")], axis=1
        )
    feeds |= dict(zip(("initial_h", "initial_c"), start, strict=False))
    if "weight_ch" in params[0]:
        feeds["P"] = np.stack([np.asarray(each["weight_ch"])[_PEEPHOLES].ravel() for each in params])
    feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in feeds.items()}
    if lengths is not None:
        feeds["sequence_lens"] = np.asarray(lengths, np.int32)
    session = onnxruntime.InferenceSession(_model(network, feeds), providers=["CPUExecutionProvider"])
    output, *states = session.run(None, feeds)
    steps, directions, rows, hidden = output.shape
    return output.transpose(0, 2, 1, 3).reshape(steps, rows, directions * hidden), states


def _blocks(network: Network, params: list[Params], name: str) -> Array:
    """Return one parameter of all directions [D, G*H, ...] with its blocks in ONNX's order."""
    order = _OPERATORS[network.kind][1]
    stacked = np.stack([np.asarray(each[name]) for each in params])
    blocks = dict(zip(network.gates, np.split(stacked, len(network.gates), axis=1), strict=True))
    return np.concatenate([blocks[gate] for gate in order], axis=1)


def _model(network: Network, feeds: Mapping[str, Array]) -> bytes:
    """Return a model with a single operator."""
    from onnx import TensorProto, helper

    operator, _, activations = _OPERATORS[network.kind]
    order = (
        "X",
        "W",
        "R",
        "B",
        "sequence_lens",
        "initial_h",
        *(("initial_c", "P") if operator == "LSTM" else ()),
    )
    outputs = ("Y", "Y_h", "Y_c")[: 1 + len(network.states)]
    options: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
    if activations:
        options["activations"] = list(activations) * network.directions
    node = helper.make_node(
        operator,
        [name if name in feeds else "" for name in order],
        list(outputs),
        hidden_size=network.hidden,
        direction="bidirectional" if network.directions == 2 else "forward",
        **options,
    )
    kinds = {name: TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT for name in feeds}
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(name, kinds[name], feeds[name].shape) for name in feeds],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return model.SerializeToString()
