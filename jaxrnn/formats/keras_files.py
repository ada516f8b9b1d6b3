"""Keras' files: `.keras`, `.weights.h5` and the `.h5` of Keras 1 and 2, read by h5py. Nothing in them is run.

There are two ways in which Keras writes weights, that of `keras_3.py` and that of `keras_before_3.py`, each with or
without the configuration of the model beside them. What was found becomes torch's in `keras_layers.py`.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxrnn.formats import hdf5, keras_3, keras_before_3
from jaxrnn.formats.hdf5 import Group
from jaxrnn.formats.keras_config import MODELS
from jaxrnn.formats.keras_layers import Answers, Converted, Node, convert
from jaxrnn.formats.weights import LEAVE_OUT, Weights

ASSUMABLE = (
    "activation",
    "recurrent_activation",
    "go_backwards",
    "reset_after",
    "merge_mode",
    "axis",
    "scale",
    "center",
)


def read_h5(content: bytes, assume: Mapping[str, Any], chosen: Sequence[str]) -> Weights:
    """Return the layers in a file of Keras that is HDF5, `.h5` or `.hdf5`, in torch's terms."""
    return _converted(_layers_in_h5(hdf5.opened(content)), assume, chosen)


def _layers_in_h5(root: Group) -> list[Node]:
    config = root.attribute("model_config")
    if config is not None:
        weights = root.group("model_weights")
        if weights is None:
            raise ValueError("it has a model_config, but no model_weights")
        nodes = keras_before_3.configured(weights, json.loads(config))
        _check_total(keras_before_3.total(weights), nodes)
        return nodes
    if root.attribute("layer_names") is not None or root.attribute("layer_names0") is not None:
        return list(keras_before_3.unconfigured(root))
    return list(keras_3.unconfigured(root))


def read_keras(content: bytes, assume: Mapping[str, Any], chosen: Sequence[str]) -> Weights:
    """Return the layers in a `.keras` file, in torch's terms."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > 2 * len(content) + 2**20:
            raise ValueError("its records claim more bytes than a file of Keras has")
        names = archive.namelist()
        missing = {"config.json", "model.weights.h5"} - set(names)
        if missing:
            raise ValueError(
                f"this zip file is not one of Keras: it has no {' and no '.join(sorted(missing))}"
            )
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
    root = hdf5.opened(weights)
    nodes = keras_3.configured(config, root)
    layers = root.group("layers")
    _check_total(sum(1 for _ in keras_3.weights_within(layers)) if layers else 0, nodes)
    return _converted(nodes, assume, chosen)


def _check_total(total: int, nodes: Sequence[Node]) -> None:
    """Raise ValueError where arrays of a file would be passed over, or taken twice."""
    found = sum(node.count() for node in nodes)
    if found != total:
        raise ValueError(f"of its {total} arrays {found} are of layers that its configuration lists")


# What is found becomes torch's


def _converted(nodes: Sequence[Node], assume: Mapping[str, Any], chosen: Sequence[str]) -> Weights:
    unknown = sorted(set(assume) - set(ASSUMABLE))
    if unknown:
        raise ValueError(f"{unknown} cannot be assumed, only {list(ASSUMABLE)}")
    named = dict[str, Node]()
    for name, node in _flat(nodes, ""):
        if name in named:
            raise ValueError(f"two layers are called {name!r}")
        named[name] = node
    wanted = {name: node for name, node in named.items() if not chosen or _is_chosen(name, chosen)}
    for choice in chosen:
        if not any(_is_chosen(name, [choice]) for name in named):
            raise ValueError(f"there is no layer {choice!r}, of {list(named)}")
    answers, refused = Answers(assume), list[str]()
    layers = dict[str, Converted]()
    for name, node in wanted.items():
        try:
            layer = convert(node, answers)
        except NotImplementedError as error:
            refused.append(f"{name}: {error}")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        else:
            layers |= {name: layer} if layer else {}
    _raise_problems(refused, answers, bool(layers))
    arrays = {f"{name}.{key}": array for name, layer in layers.items() for key, array in layer.arrays.items()}
    return Weights(arrays, {name: layer.description for name, layer in layers.items()})


def _flat(nodes: Sequence[Node], prefix: str) -> Iterator[tuple[str, Node]]:
    for node in nodes:
        name = f"{prefix}{node.name}"
        if node.kind in MODELS:
            yield from _flat(node.parts, f"{name}.")
        else:
            yield name, node


def _is_chosen(name: str, chosen: Sequence[str]) -> bool:
    return any(name == choice or name.startswith(f"{choice}.") for choice in chosen)


def _raise_problems(refused: Sequence[str], answers: Answers, found: bool) -> None:
    if refused:
        raise NotImplementedError(". ".join([*refused, LEAVE_OUT]) + ".")
    if answers.open:
        asked = [
            f"{key} of {', '.join(dict.fromkeys(names))} (torch has {torchs!r})"
            for key, (torchs, names) in answers.open.items()
        ]
        options = " ".join(f"--assume {key}={_option(torchs)}" for key, (torchs, _) in answers.open.items())
        raise ValueError(
            f"the file does not say {'; '.join(asked)}. If you know that they are as in torch, say so: {options}, "
            "or assume={...} in Python. If not, take a file with the model's configuration, model.save('a.keras'). "
            "(Before Keras 2.3 recurrent_activation was hard_sigmoid unless it was given.)"
        )
    unused = sorted(set(answers.assumed) - answers.used)
    if unused:
        raise ValueError(f"nothing in the file depends on {unused}; leave the assumption out")
    if not found:
        raise ValueError("no layer of the file has weights that can be converted")


def _option(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
