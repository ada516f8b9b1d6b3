"""The recurrent nodes of an ONNX model by torch's names. The model is parsed, never run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrnn.formats.conventions import peepholes, to_torch
from jaxrnn.formats.requirements import needed
from jaxrnn.formats.weights import LEAVE_OUT, Description, Weights, describe, stack

KINDS = ("RNN", "GRU", "LSTM")
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_ACTIVATIONS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}


def read_onnx(content: bytes, assume: Mapping[str, Any], chosen: Sequence[str]) -> Weights:
    """Return the RNN, GRU and LSTM nodes of a model, each under its own name, in torch's terms.

    A node has one level; `jaxrnn.formats.stack` joins several. Of a node that only reads backwards the arrays are
    those of the second direction, ``weight_ih_l0_reverse``. Weights of other nodes are left out.

    Raises NotImplementedError for what torch's equations cannot say.
    """
    if assume:
        raise ValueError(
            f"a model of ONNX says all about its layers; leave out the assumptions {sorted(assume)}"
        )
    model = needed("onnx").ModelProto.FromString(content)
    constants = _Constants(model.graph)
    nodes = dict(_named_nodes(model.graph))
    missing = [name for name in chosen if name not in nodes]
    if missing:
        raise ValueError(f"there is no recurrent node {missing[0]!r}, of {list(nodes)}")
    arrays: dict[str, np.ndarray] = {}
    layers: dict[str, Description] = {}
    refused = [] if chosen else [f"{node.name or node.op_type}: {_INNER}" for node in _inner(model)]
    for name in chosen or nodes:
        try:
            own, layers[name] = _node(nodes[name], constants)
        except NotImplementedError as error:
            refused.append(f"{name}: {error}")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        else:
            arrays |= {f"{name}.{key}": array for key, array in own.items()}
    if refused:
        raise NotImplementedError(". ".join([*refused, LEAVE_OUT]) + ".")
    if not layers:
        raise ValueError("the model has no RNN, GRU or LSTM node; a file of another kind may look like one")
    return Weights(arrays, layers, constants.unused())


_INNER = "it stands in a function of the model, or in the body of a loop or a branch"


def _named_nodes(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield the recurrent nodes under names that torch could give: /encoder/LSTM is encoder.LSTM."""
    names: set[str] = set()
    for number, node in enumerate(each for each in graph.node if _is_recurrent(each)):
        name = node.name.strip("/").replace("/", ".") or f"{node.op_type.lower()}_{number}"
        if name in names:
            raise ValueError(f"two nodes are called {name!r}; give each a name of its own")
        names.add(name)
        yield name, node


def _is_recurrent(node: Any) -> bool:
    return node.op_type in KINDS and node.domain in ("", "ai.onnx")


def _inner(model: Any) -> list[Any]:
    """Return recurrent nodes in functions and in the bodies of loops and branches."""
    waiting = [node for function in model.functions for node in function.node]
    waiting += [node for outer in model.graph.node for node in _bodies(outer)]
    found = []
    while waiting:
        node = waiting.pop()
        waiting += _bodies(node)
        found += [node] if _is_recurrent(node) else []
    return found


def _bodies(node: Any) -> list[Any]:
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return [inner for graph in graphs for inner in graph.node]


class _Constants:
    """The tensors that stand in a model, by name."""

    def __init__(self, graph: Any):
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._weights = set(self._tensors)
        for node in graph.node:
            if node.op_type == "Constant":
                values = [each.t for each in node.attribute if each.name == "value"]
                self._tensors |= dict(zip(node.output, values, strict=False))
        self._same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
        self._used: set[str] = set()

    def get(self, name: str) -> np.ndarray | None:
        """Return a tensor, or None for one that is computed when the model runs."""
        for _ in range(len(self._same)):  # Identity of Identity, but never in a circle
            name = self._same.get(name, name)
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        onnx = needed("onnx")
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ValueError(
                f"{name!r} is in another file, which is not read; save the model in one, "
                "onnx.save(onnx.load(path), 'whole.onnx')"
            )
        self._used.add(name)
        shape = tuple(tensor.dims)
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ValueError(f"{name!r} has not the size {shape} that it claims ({error})") from error
        if array.shape != shape:  # as a negative one, which NumPy takes for any
            raise ValueError(f"{name!r} has not the size {shape} that it claims")
        return array

    def unused(self) -> list[str]:
        """Return the names of weights, arrays of floating point, that nothing here asked for."""
        float_types = {needed("onnx").TensorProto.DataType.Value(name) for name in _FLOATS}
        names = sorted(self._weights - self._used)
        return [name for name in names if self._tensors[name].data_type in float_types]


_FLOATS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")


def _node(node: Any, constants: _Constants) -> tuple[dict[str, np.ndarray], Description]:
    """Return a node's arrays by torch's names, and how to construct its layer."""
    attributes = {each.name: needed("onnx").helper.get_attribute_value(each) for each in node.attribute}
    inputs = dict(zip(_INPUTS, node.input, strict=False))
    direction = attributes.get("direction", b"forward").decode()
    directions = {"forward": [""], "reverse": ["_reverse"], "bidirectional": ["", "_reverse"]}.get(direction)
    if directions is None:
        raise ValueError(f"direction={direction!r} is none of ONNX")
    nonlinearity = _nonlinearity(node.op_type, attributes, len(directions))
    cells = _cells(node, attributes, inputs, constants, len(directions))
    arrays = stack([cells])
    kind = "PeepholeLSTM" if "weight_ch" in cells[0] else node.op_type
    options = {"nonlinearity": nonlinearity, "batch_first": attributes.get("layout", 0) == 1}
    remarks = []
    if direction == "reverse":
        remarks.append("only backwards: jaxrnn.ops.unroll(..., reverse=True), or a layer's second direction")
    states = [
        name for name in ("initial_h", "initial_c") if inputs.get(name) and _starts(constants, inputs[name])
    ]
    if states:
        remarks.append(f"starts from the model's {' and '.join(states)}: pass them")
    description = describe(kind, arrays, "; ".join(remarks), **options)
    if direction == "reverse":
        arrays = {f"{name}_reverse": array for name, array in arrays.items()}
    return arrays, description


def _starts(constants: _Constants, name: str) -> bool:
    """Return whether a state that a node starts from is, or may be, another one than zero."""
    state = constants.get(name)
    return state is None or bool(np.any(state != 0))


def _nonlinearity(kind: str, attributes: Mapping[str, Any], directions: int) -> str:
    """Return "tanh" or "relu" once every attribute that changes the equations is as torch has it."""
    if attributes.get("clip"):
        raise NotImplementedError(
            f"clip={attributes['clip']} bounds what enters the gates, which torch does not"
        )
    if attributes.get("input_forget"):
        raise NotImplementedError("input_forget=1 couples the gates i and f, which torch does not")
    # `activation_alpha` and `activation_beta` are parameters of other functions than these three.
    named = [name.decode().lower() for name in attributes.get("activations", [])]
    named = named or _ACTIVATIONS[kind] * directions
    if kind == "RNN" and named == ["relu"] * directions:
        return "relu"
    if named != _ACTIVATIONS[kind] * directions:
        expected = (
            "Tanh or Relu, the same in both directions" if kind == "RNN" else ", ".join(_ACTIVATIONS[kind])
        )
        raise NotImplementedError(f"activations={named}: torch's {kind} has {expected}")
    return "tanh"


def _cells(
    node: Any,
    attributes: Mapping[str, Any],
    inputs: Mapping[str, str],
    constants: _Constants,
    directions: int,
) -> list[dict[str, np.ndarray]]:
    """Return the arrays of a cell for each direction."""
    given = {
        name: _constant(name, inputs.get(name, ""), constants, directions) for name in ("W", "R", "B", "P")
    }
    if given["W"] is None or given["R"] is None:
        raise ValueError("it has no W or no R")
    library = "onnx"
    if node.op_type == "GRU" and attributes.get("linear_before_reset", 0) == 0:
        library = "onnx, linear_before_reset=0"
    cells = []
    for direction in range(directions):
        biases = () if given["B"] is None else np.split(_even(given["B"][direction]), 2)
        cell = to_torch(library, node.op_type, given["W"][direction], given["R"][direction], *biases)
        if given["P"] is not None:
            cell["weight_ch"] = _peepholes(node.op_type, given["P"][direction], cell)
        cells.append(cell)
    hidden = attributes.get("hidden_size", cells[0]["weight_hh"].shape[1])
    if hidden != cells[0]["weight_hh"].shape[1]:
        raise ValueError(f"hidden_size={hidden} does not fit R of shape {given['R'].shape}")
    return cells


def _constant(name: str, source: str, constants: _Constants, directions: int) -> np.ndarray | None:
    if not source:
        return None
    array = constants.get(source)
    if array is None:
        raise NotImplementedError(
            f"its {name} is computed when the model runs; write the model with its constants folded "
            "(torch.onnx.export does, and onnxruntime's optimized_model_filepath)"
        )
    if array.ndim == 0 or len(array) != directions:
        raise ValueError(f"its {name} has shape {array.shape}, but it reads in {directions} directions")
    return array


def _even(bias: np.ndarray) -> np.ndarray:
    if bias.ndim != 1 or len(bias) % 2:
        raise ValueError(f"its B holds {bias.shape} numbers in a direction, not two biases")
    return bias


def _peepholes(kind: str, rows: np.ndarray, cell: Mapping[str, np.ndarray]) -> np.ndarray:
    hidden, dtype = cell["weight_hh"].shape[1], cell["weight_hh"].dtype
    if kind != "LSTM" or rows.shape != (3 * hidden,) or rows.dtype != dtype:
        raise ValueError(
            f"its P has shape {rows.shape} and dtype {rows.dtype}, not {(3 * hidden,)} and {dtype}"
        )
    return peepholes(rows.reshape(3, hidden), "onnx", "jaxrnn")
