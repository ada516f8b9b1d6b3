"""What each layer of Keras becomes in torch's terms, or why it cannot."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrnn.formats.conventions import is_floating, to_torch
from jaxrnn.formats.weights import Description, describe, kind_of, stack


@dataclass(frozen=True)
class Node:
    """A layer of Keras as a file has it."""

    name: str
    kind: str  # Keras' class, "" where neither the file nor the shapes say it
    config: Mapping[str, Any] | None  # None: the file has weights only
    arrays: Sequence[np.ndarray] = ()  # in Keras' order
    parts: Sequence["Node"] = ()  # of a wrapper; of a model, its layers

    def count(self) -> int:
        """Return how many arrays the layer has, with those of its parts."""
        return len(self.arrays) + sum(part.count() for part in self.parts)


@dataclass
class Answers:
    """What a file says about its layers, what the caller said where it does not, and what nobody did."""

    assumed: Mapping[str, Any]
    used: set[str] = field(default_factory=set)
    open: dict[str, tuple[Any, list[str]]] = field(
        default_factory=dict
    )  # what torch has, and for which layers

    def ask(self, node: Node, key: str, torchs: Any) -> Any:
        """Return a setting of a layer. One that is not known counts as torch's until `open` is looked at."""
        if node.config is not None and key in node.config:
            said = node.config[key]
            if key in self.assumed and self.assumed[key] != said:
                raise ValueError(f"the file says {key}={said!r}, so {key}={self.assumed[key]!r} is wrong")
            self.used.add(key)
            return said
        if key in self.assumed:
            self.used.add(key)
            return self.assumed[key]
        self.open.setdefault(key, (torchs, []))[1].append(node.name)
        return torchs


@dataclass(frozen=True)
class Converted:
    """A layer by torch's names, and how to construct it."""

    arrays: dict[str, np.ndarray]
    description: Description


def convert(node: Node, answers: Answers) -> Converted | None:
    """Return a layer in torch's terms; None for one without weights.

    Raises NotImplementedError for a layer that torch's equations cannot say, ValueError for one that is damaged.
    """
    if node.kind in RECURRENT:
        return _recurrent(node, answers, [node])
    if node.kind == "Bidirectional":
        return _bidirectional(node, answers)
    if node.kind == "RNN":
        return _recurrent(node, answers, node.parts)
    if node.kind == "TimeDistributed" and len(node.parts) == 1:
        return convert(node.parts[0], answers)
    if node.kind in _PLAIN and node.arrays:
        return _PLAIN[node.kind](node, answers)
    if node.arrays:
        what = node.kind or f"a layer of unknown class with arrays {[array.shape for array in node.arrays]}"
        raise NotImplementedError(f"{what} is not converted")
    return None


# Recurrent layers: class, kind, whether cuDNN's layout
RECURRENT = {
    "SimpleRNN": ("RNN", False),
    "LSTM": ("LSTM", False),
    "GRU": ("GRU", False),
    "CuDNNLSTM": ("LSTM", True),
    "CuDNNGRU": ("GRU", True),
    "SimpleRNNCell": ("RNN", False),
    "LSTMCell": ("LSTM", False),
    "GRUCell": ("GRU", False),
}


def _recurrent(outer: Node, answers: Answers, cells: Sequence[Node]) -> Converted:
    """Return a recurrent layer of one level for each cell; `outer` says how the sequence is read."""
    if not cells or any(cell.kind not in RECURRENT for cell in cells):
        raise NotImplementedError(f"{[cell.kind for cell in cells]} are not cells of torch")
    if answers.ask(outer, "go_backwards", False):
        raise NotImplementedError(
            "go_backwards=True: torch has no layer that only reads backwards. Build it with go_backwards=False and "
            "the same weights, and give it the reversed input"
        )
    return _joined(answers, [(cell,) for cell in cells], outer)


def _joined(answers: Answers, levels: Sequence[Sequence[Node]], outer: Node) -> Converted:
    cells = [cell for level in levels for cell in level]
    kinds = {(RECURRENT[cell.kind][0], _nonlinearity(cell, answers), len(cell.arrays)) for cell in cells}
    _check_alike(kinds)
    arrays = stack([[_cell(cell, answers) for cell in level] for level in levels])
    _check_alike({array.shape[1] for name, array in arrays.items() if name.startswith("weight_hh")})
    ((kind, nonlinearity, _),) = kinds
    time_major = outer.config is not None and outer.config.get("time_major", False)
    description = describe(kind, arrays, nonlinearity=nonlinearity, batch_first=not time_major)
    return Converted(arrays, description)


def _check_alike(found: Collection[object]) -> None:
    if len(found) > 1:
        raise NotImplementedError(
            "its cells differ in class, units, activation or bias, but a layer of torch has cells of one kind. "
            "Build a layer of Keras for each"
        )


def _nonlinearity(cell: Node, answers: Answers) -> str:
    """Return "tanh" or "relu", once everything about a cell's activations is as torch has it."""
    kind, cudnn = RECURRENT[cell.kind]
    if cudnn:
        return "tanh"
    activation = answers.ask(cell, "activation", "tanh")
    if activation not in (("tanh", "relu") if kind == "RNN" else ("tanh",)):
        raise NotImplementedError(f"activation={_shown(activation)}: torch's {kind} has tanh")
    if kind != "RNN":
        gate = answers.ask(cell, "recurrent_activation", "sigmoid")
        if gate != "sigmoid":
            raise NotImplementedError(
                f"recurrent_activation={_shown(gate)}: torch's gates are sigmoid, which computes something else. "
                "Train it again, or go on training from these weights, with recurrent_activation='sigmoid'"
            )
    return str(activation)


def _shown(value: Any) -> str:
    """Return a setting for a message; one that Keras serialised as an object by its class."""
    return repr(value.get("class_name", value) if isinstance(value, dict) else value)[:100]


def _cell(cell: Node, answers: Answers) -> dict[str, np.ndarray]:
    kind, cudnn = RECURRENT[cell.kind]
    _check_count(cell, answers, required=2)
    kernel, recurrent, *biases = cell.arrays
    library = "keras, cuDNN" if cudnn else "keras"
    if cudnn:
        biases = [half for bias in biases for half in _halves(bias)]
    elif kind == "GRU":
        if _reset_after(cell, answers, biases):
            biases = [row for bias in biases for row in _rows(bias)]
        else:
            library = "keras, reset_after=False"
    return to_torch(library, kind, kernel, recurrent, *biases)


def _reset_after(cell: Node, answers: Answers, biases: Sequence[np.ndarray]) -> bool:
    """Return where a GRU has its reset gate, which its bias shows: two rows if after the product."""
    if not biases:
        return bool(answers.ask(cell, "reset_after", True))
    shown = biases[0].ndim == 2
    said = (cell.config or {}).get("reset_after", shown)
    if said != shown:
        raise ValueError(f"reset_after={said} does not fit a bias of shape {biases[0].shape}")
    return shown


def _rows(bias: np.ndarray) -> Sequence[np.ndarray]:
    if bias.ndim != 2 or len(bias) != 2:
        raise ValueError(f"a bias of shape {bias.shape} has not the two rows of reset_after=True")
    return bias[0], bias[1]


def _halves(bias: np.ndarray) -> Sequence[np.ndarray]:
    if bias.ndim != 1 or len(bias) % 2:
        raise ValueError(f"a bias of shape {bias.shape} does not hold two, as cuDNN's does")
    return np.split(bias, 2)


def _bidirectional(node: Node, answers: Answers) -> Converted:
    merge = answers.ask(node, "merge_mode", "concat")
    if merge != "concat":
        raise NotImplementedError(f"merge_mode={merge!r}: torch concatenates the two directions")
    forward, backward = node.parts
    if answers.ask(forward, "go_backwards", False):
        raise NotImplementedError("go_backwards=True: torch's first direction reads forwards")
    return _joined(answers, [(_only_cell(forward), _only_cell(backward))], forward)


def _only_cell(part: Node) -> Node:
    """Return the cell of one direction."""
    cell = part.parts[0] if part.kind == "RNN" and len(part.parts) == 1 else part
    if cell.kind not in RECURRENT:
        raise NotImplementedError(f"a direction of class {part.kind} is not one of {list(RECURRENT)}")
    return cell


# Other layers


def _check_count(node: Node, answers: Answers, required: int) -> None:
    """Raise where a layer has not the arrays `required`, or a bias that its configuration has not."""
    count = len(node.arrays)
    if count not in (required, required + 1):
        raise ValueError(f"it has {count} arrays, not {required} and a bias")
    use_bias = (node.config or {}).get("use_bias")
    if use_bias is not None and bool(use_bias) != (count > required):
        raise ValueError(f"use_bias={use_bias}, but it has {count} arrays")
    if not all(map(is_floating, node.arrays)):
        raise NotImplementedError(
            f"arrays of {[array.dtype.name for array in node.arrays]}: a quantized layer is not converted"
        )


def _dense(node: Node, answers: Answers) -> Converted:
    _check_count(node, answers, required=1)
    kernel, *bias = node.arrays
    if kernel.ndim != 2 or any(each.shape != kernel.shape[1:] for each in bias):
        raise ValueError(
            f"arrays of shapes {[array.shape for array in node.arrays]} are not those of a Dense"
        )
    activation = (node.config or {}).get("activation", "linear")
    if node.config is None:
        then = "then its activation, which the file does not say"
    else:
        then = "" if activation in (None, "linear") else f"then {_shown(activation)}"
    arrays = {"weight": np.ascontiguousarray(kernel.T)} | ({"bias": bias[0]} if bias else {})
    return Converted(arrays, Description("Linear", kernel.shape, {} if bias else {"bias": False}, then))


def _embedding(node: Node, answers: Answers) -> Converted:
    table = node.arrays[0] if len(node.arrays) == 1 else np.zeros(0)
    if table.ndim != 2 or not is_floating(table):
        raise ValueError(f"arrays of shapes {[array.shape for array in node.arrays]} are not an Embedding's")
    masked = "0 is padding (mask_zero): pass lengths" if (node.config or {}).get("mask_zero") else ""
    return Converted({"weight": table}, Description("Embedding", table.shape, {}, masked))


def _layer_normalization(node: Node, answers: Answers) -> Converted:
    config = node.config or {}
    if config.get("rms_scaling"):
        raise NotImplementedError("rms_scaling=True is not torch's LayerNorm")
    _check_last_axis(node, answers)
    both = node.config is None and len(node.arrays) == 2
    scaled, centered = (both or bool(answers.ask(node, key, True)) for key in ("scale", "center"))
    names = [name for name, there in (("weight", scaled), ("bias", centered)) if there]
    shapes = {array.shape for array in node.arrays}
    if len(node.arrays) != len(names) or len(shapes) != 1 or len(min(shapes)) != 1:
        raise ValueError(
            f"arrays of shapes {[array.shape for array in node.arrays]} are not {names} of one axis"
        )
    if names == ["bias"]:
        raise NotImplementedError("scale=False: torch's LayerNorm has no bias without a weight")
    known = {"eps": config["epsilon"]} if "epsilon" in config else {}
    remark = "" if known else "with the eps that was given to Keras as epsilon, which the file does not say"
    options = known | ({} if centered else {"bias": False})
    arrays = dict(zip(names, node.arrays, strict=True))
    return Converted(arrays, Description("LayerNorm", min(shapes), options, remark))


def _check_last_axis(node: Node, answers: Answers) -> None:
    """Raise where a normalisation is of another axis than the last; Keras may say it as a positive number."""
    config = node.config or {}
    axis = config.get("axis")
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    rank = config.get("rank")
    if axis == -1 or (rank is not None and axis == rank - 1):
        return
    if axis is None or (rank is None and isinstance(axis, int) and axis > 0):
        unsaid = Node(node.name, node.kind, None)
        axis = answers.ask(unsaid, "axis", -1)
    if axis != -1:
        raise NotImplementedError(f"axis={axis}: torch's LayerNorm is of the last axes")


_PLAIN = {"Dense": _dense, "Embedding": _embedding, "LayerNormalization": _layer_normalization}

# For files that have weights only: Keras' name for the group of a class, and what shapes show.
GROUPS = {
    "lstm": "LSTM",
    "gru": "GRU",
    "simple_rnn": "SimpleRNN",
    "dense": "Dense",
    "embedding": "Embedding",
    "layer_normalization": "LayerNormalization",
}


def recurrent_class(arrays: Sequence[np.ndarray]) -> str:
    """Return the class of a recurrent layer by its arrays, which show the gates and cuDNN's two biases, or ""."""
    kind = kind_of(arrays[1], axis=1) if len(arrays) in (2, 3) else None
    if kind is None:
        return ""
    both = 2 * arrays[1].shape[1]
    if kind != "RNN" and len(arrays) == 3 and arrays[2].shape == (both,):
        return f"CuDNN{kind}"
    return "SimpleRNN" if kind == "RNN" else kind


def plain_class(arrays: Sequence[np.ndarray]) -> str:
    """Return "Dense" for a matrix and a bias that fit, "" for anything else."""
    is_dense = len(arrays) == 2 and arrays[0].ndim == 2 and arrays[1].shape == arrays[0].shape[1:]
    return "Dense" if is_dense else ""
