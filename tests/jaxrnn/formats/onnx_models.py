"""ONNX models of one recurrent node, made by hand, and what onnxruntime makes of a model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jaxrnn.common import draw

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUTS = ("W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def node_arrays(
    kind: str, directions: int = 1, *, bias: bool = True, peepholes: bool = False, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """Random arrays of a node with 3 features and 5 units."""
    rows = GATES[kind] * 5
    shapes: dict[str, tuple[int, ...]] = {"W": (rows, 3), "R": (rows, 5)}
    if bias:
        shapes["B"] = (2 * rows,)
    if peepholes:
        shapes["P"] = (15,)
    return {
        name: (draw(n, directions, *shape) * 0.5).astype(dtype)
        for n, (name, shape) in enumerate(shapes.items())
    }


def node_model(
    kind: str, arrays: dict[str, np.ndarray], path: Path, *, name: str = "/rnn/node", **attributes: Any
) -> Path:
    """Write a model of one node; what it reads beside X are constants."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    names = ["X", *(each if each in arrays else "" for each in INPUTS)]
    while not names[-1]:
        names.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(kind, names, outputs, name, hidden_size=5, **attributes)
    dtype = helper.np_dtype_to_tensor_dtype(arrays["W"].dtype)
    described = [helper.make_tensor_value_info(each, dtype, None) for each in outputs]
    given = [helper.make_tensor_value_info("X", dtype, ["T", "B", 3])]
    constants = [onnx.numpy_helper.from_array(array, each) for each, array in arrays.items()]
    graph = helper.make_graph([node], "test", given, described, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes with a model."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, inputs)
