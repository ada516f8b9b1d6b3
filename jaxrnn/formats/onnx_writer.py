"""Recurrent layers as ONNX models: one node for each level, between nodes that give torch's shapes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn import cells as known
from jaxrnn.checkpoint import state_dict
from jaxrnn.formats.conventions import CONVENTIONS, check_arrays, peepholes, to_library
from jaxrnn.formats.requirements import needed
from jaxrnn.formats.weights import kind_of, levels
from jaxrnn.whole_files import write_whole

_OPSET = 14  # the first whose runtimes all know RNN, GRU and LSTM as they are in ONNX now
_IR_VERSION = 7  # what came with it
_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Layer:
    """A recurrent layer by torch's names, and what its arrays do not say."""

    arrays: Mapping[str, np.ndarray]
    nonlinearity: str = "tanh"
    batch_first: bool = False


def to_onnx(
    layer: Any, path: str | os.PathLike[str], *, lengths: bool = False, initial_state: bool = False
) -> None:
    """Write an RNN, GRU, LSTM or PeepholeLSTM as an ONNX model that computes what the layer does in evaluation::

        jaxrnn.formats.to_onnx(lstm, "lstm.onnx", lengths=True)
        output, h_n, c_n = InferenceSession("lstm.onnx").run(None, {"input": x, "lengths": lengths})

    Inputs and outputs are the layer's own: `input` and `output` [T, B, features], or [B, T, features] of a layer
    with `batch_first`; `h_n`, and `c_n` of an LSTM, [levels * directions, B, H]. T and B are free. The model is of
    opset 14.

    * `lengths`: the model has an input `lengths`, int32 [B]. Beyond them the output is zero. Of a row of length 0
      the layer returns the initial state, onnxruntime zeros.
    * `initial_state`: the model has inputs `h_0`, and `c_0` of an LSTM. Without, it starts from zeros.

    The file appears under its name only once all of it is on disk. Raises NotImplementedError for a layer that
    ONNX's operators cannot say, one with a projection among them.
    """
    modes = {cell.name for cell in (known.TANH, known.RELU, known.LSTM, known.GRU, known.PEEPHOLE_LSTM)}
    if getattr(layer, "mode", None) not in modes or not hasattr(layer, "num_layers"):
        raise TypeError(f"to_onnx writes RNN, GRU, LSTM and PeepholeLSTM layers, got {type(layer).__name__}.")
    if layer.dtype is not None and np.dtype(layer.dtype) != np.dtype(layer.weight_ih_l0.dtype):
        raise NotImplementedError(
            f"the layer computes in {np.dtype(layer.dtype)} with parameters of another dtype, which a node of ONNX "
            "cannot. Construct it without dtype, load the state dict, and write that."
        )
    whole = Layer(state_dict(layer), getattr(layer, "nonlinearity", "tanh"), layer.batch_first)
    write(whole, path, lengths=lengths, initial_state=initial_state)


def write(
    layer: Layer, path: str | os.PathLike[str], *, lengths: bool = False, initial_state: bool = False
) -> None:
    """Write the ONNX model of a layer that is known by its arrays, as `to_onnx`."""
    content = model_of(layer, lengths=lengths, initial_state=initial_state).SerializeToString()
    write_whole(path, lambda file: file.write(content))


def model_of(layer: Layer, *, lengths: bool = False, initial_state: bool = False) -> Any:
    """Return the `onnx.ModelProto` of a layer."""
    needed("onnx")
    if any(name.startswith("weight_hr") for name in layer.arrays):
        raise NotImplementedError(
            "ONNX's LSTM has no projection (proj_size). Write a layer without, and its weight_hr as a MatMul of "
            "your own."
        )
    cells = levels(layer.arrays)
    dtype = cells[0][0]["weight_hh"].dtype
    if dtype.name not in _DTYPES:
        raise NotImplementedError(
            f"ONNX's recurrent operators have no {dtype.name}; convert it to float32 first."
        )
    _check(cells)
    return _Graph(layer, cells, lengths, initial_state).model()


def _check(cells: list[list[dict[str, np.ndarray]]]) -> None:
    """Raise ValueError where arrays, which may be of any file, are not those of one layer."""
    first = cells[0][0]
    kind = kind_of(first["weight_hh"])
    if kind is None:
        raise ValueError(f"weight_hh {first['weight_hh'].shape} is not of an RNN, a GRU or an LSTM.")
    hidden = first["weight_hh"].shape[1]
    for number, level in enumerate(cells):
        for cell in level:
            biases = [cell[name] for name in ("bias_ih", "bias_hh") if name in cell]
            check_arrays(CONVENTIONS["torch", kind], cell["weight_ih"], cell["weight_hh"], biases)
            inputs = len(cells[0]) * hidden if number else first["weight_ih"].shape[1]
            if cell["weight_ih"].shape[1] != inputs or cell["weight_hh"].shape[1] != hidden:
                raise ValueError(f"level {number} is not as wide as the others.")
            peephole = cell.get("weight_ch")
            if peephole is not None and (kind, peephole.shape) != ("LSTM", (3, hidden)):
                raise ValueError(f"weight_ch {peephole.shape} does not belong to a {kind} of {hidden} units.")


class _Graph:
    """Collects the nodes and the constants of one model."""

    def __init__(
        self, layer: Layer, cells: list[list[dict[str, np.ndarray]]], lengths: bool, initial_state: bool
    ):
        self.layer, self.cells, self.lengths, self.initial_state = layer, cells, lengths, initial_state
        first = cells[0][0]
        self.kind = kind_of(first["weight_hh"]) or ""
        self.hidden, self.features = first["weight_hh"].shape[1], first["weight_ih"].shape[1]
        self.directions = len(cells[0])
        self.states = ("h", "c") if self.kind == "LSTM" else ("h",)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> Any:
        """Return the whole model."""
        x = "input"
        if self.layer.batch_first:
            x = self._add("Transpose", [x], "input.time_major", perm=[1, 0, 2])
        starts = {state: self._starts(state) for state in self.states}
        width = self._constant("shape", np.array([0, 0, self.directions * self.hidden]))
        for number in range(len(self.cells)):
            y = self._level(number, x, {state: names[number] for state, names in starts.items()})
            y = self._add("Transpose", [y], f"l{number}.directions_last", perm=[0, 2, 1, 3])
            last = number == len(self.cells) - 1 and not self.layer.batch_first
            x = self._add("Reshape", [y, width], "output" if last else f"l{number}.output")
        if self.layer.batch_first:
            self._add("Transpose", [x], "output", perm=[1, 0, 2])
        for state in self.states:
            self._add(
                "Concat", [f"l{number}.{state}_n" for number in range(len(self.cells))], f"{state}_n", axis=0
            )
        return self._finished()

    def _level(self, number: int, x: str, starts: Mapping[str, str]) -> str:
        """Add the node of a level and return the name of its Y [T, directions, B, H]."""
        arrays = [to_library("onnx", self.kind, cell) for cell in self.cells[number]]
        weights = [
            self._stacked(f"l{number}.{name}", part)
            for name, part in zip("WR", zip(*arrays, strict=True), strict=False)
        ]
        bias = ""
        if len(arrays[0]) == 4:
            bias = self._stacked(f"l{number}.B", [np.concatenate(part[2:]) for part in arrays])
        inputs = [
            x,
            *weights,
            bias,
            "lengths" if self.lengths else "",
            *(starts[state] for state in self.states),
        ]
        if "weight_ch" in self.cells[number][0]:
            rows = [peepholes(cell["weight_ch"], "jaxrnn", "onnx").ravel() for cell in self.cells[number]]
            inputs.append(self._stacked(f"l{number}.P", rows))
        outputs = [f"l{number}.Y", *(f"l{number}.{state}_n" for state in self.states)]
        self._node(self.kind, inputs, outputs, f"l{number}", **self._attributes())
        return outputs[0]

    def _attributes(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if self.directions == 2:
            attributes["direction"] = "bidirectional"
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1
        if self.kind == "RNN":
            attributes["activations"] = [self.layer.nonlinearity.capitalize()] * self.directions
        return attributes

    def _starts(self, state: str) -> list[str]:
        """Return the names of what the levels start from."""
        if not self.initial_state:
            return [""] * len(self.cells)
        names = [f"l{number}.{state}_0" for number in range(len(self.cells))]
        sizes = self._constant(f"{state}.sizes", np.full(len(names), self.directions))
        self._node("Split", [f"{state}_0", sizes], names, f"{state}_0 by level", axis=0)
        return names

    def _finished(self) -> Any:
        helper = needed("onnx").helper
        order = ["batch", "time"] if self.layer.batch_first else ["time", "batch"]
        count = len(self.cells) * self.directions
        inputs = {"input": [*order, self.features]}
        if self.initial_state:
            inputs |= {f"{state}_0": [count, "batch", self.hidden] for state in self.states}
        outputs = {"output": [*order, self.directions * self.hidden]}
        outputs |= {f"{state}_n": [count, "batch", self.hidden] for state in self.states}
        dtype = helper.np_dtype_to_tensor_dtype(self.cells[0][0]["weight_hh"].dtype)
        described = [
            [helper.make_tensor_value_info(name, dtype, shape) for name, shape in tensors.items()]
            for tensors in (inputs, outputs)
        ]
        if self.lengths:
            int32 = helper.np_dtype_to_tensor_dtype(np.dtype(np.int32))
            described[0].append(helper.make_tensor_value_info("lengths", int32, ["batch"]))
        graph = helper.make_graph(self.nodes, "jaxrnn", *described, self.constants)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="jaxrnn")
        needed("onnx").checker.check_model(model, full_check=True)
        return model

    def _stacked(self, name: str, parts: Any) -> str:
        return self._constant(name, np.stack(parts))

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(needed("onnx").numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        self._node(kind, inputs, [output], f"{kind} to {output}", **attributes)
        return output

    def _node(self, kind: str, inputs: list[str], outputs: list[str], name: str, **attributes: Any) -> None:
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(needed("onnx").helper.make_node(kind, inputs, outputs, name, **attributes))
