"""Weights as Keras 1 and 2 wrote them: a group for each layer, by its name, which lists the names of its arrays."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxrnn.formats.hdf5 import Group
from jaxrnn.formats.keras_config import DEEPEST, described_layers, entry_of, is_model, wrapped
from jaxrnn.formats.keras_layers import Node, plain_class, recurrent_class

_Named = list[tuple[str, np.ndarray]]  # the arrays of a layer by the paths that Keras gave them


def listed(group: Group, name: str) -> list[str]:
    """Return a list of names that Keras keeps as an attribute, or as several where it is long."""
    whole = group.attribute(name)
    if whole is not None:
        return [str(each) for each in whole]
    names, number = list[str](), 0
    while (part := group.attribute(f"{name}{number}")) is not None:
        names += [str(each) for each in part]
        number += 1
    return names


def _arrays(group: Group, name: str) -> _Named:
    layer = group.group(name)
    if layer is None:
        return []
    return [(path, layer.array(path)) for path in listed(layer, "weight_names")]


def total(weights: Group) -> int:
    """Return how many arrays a file has."""
    layers = [weights.group(name) for name in listed(weights, "layer_names")]
    return sum(len(listed(layer, "weight_names")) for layer in layers if layer)


def configured(weights: Group, config: Any) -> list[Node]:
    """Return the layers of a model, each with its arrays."""
    nodes = []
    for entry in described_layers(config):
        name = entry_of(entry)[1]
        nodes.append(_node(entry, _arrays(weights, name)))
    return nodes


def _node(entry: Any, arrays: _Named, depth: int = 0) -> Node:
    kind, name, config = entry_of(entry)
    if depth > DEEPEST:
        raise ValueError("models within models without an end")
    if is_model(kind, config):
        parts = []
        for inner in config["layers"]:
            inner_name = entry_of(inner)[1]
            own = [(path, array) for path, array in arrays if inner_name in path.split("/")[:-1]]
            parts.append(_node(inner, own, depth + 1))
        return Node(name, kind, config, parts=parts)
    entries = wrapped(kind, config)
    if not entries:
        return Node(name, kind, config, [array for _, array in arrays])
    if not arrays and kind == "TimeDistributed":
        return Node(name, kind, config)
    if not arrays or len(arrays) % len(entries):
        raise ValueError(f"{name}: {len(arrays)} arrays in the file are not those of {len(entries)} parts")
    count = len(arrays) // len(entries)
    parts = [
        _node(inner, arrays[count * number : count * (number + 1)], depth + 1)
        for number, inner in enumerate(entries)
    ]
    return Node(name, kind, config, parts=parts)


def unconfigured(root: Group) -> Iterator[Node]:
    """Yield the layers of an older file that has weights only: what they are follows from the names and shapes."""
    for name in listed(root, "layer_names"):
        yield _unconfigured_layer(name, _arrays(root, name))


def _unconfigured_layer(name: str, named: _Named) -> Node:
    arrays = [array for _, array in named]
    half = len(arrays) // 2
    ways = [way for path, _ in named for way in ("forward", "backward") if f"/{way}_" in f"/{path}"]
    if half and ways == ["forward"] * half + ["backward"] * half:
        parts = [Node(name, recurrent_class(part), None, part) for part in (arrays[:half], arrays[half:])]
        return Node(name, "Bidirectional", None, parts=parts)
    leaves = [path.rpartition("/")[2].partition(":")[0] for path, _ in named]
    classes: dict[str, Callable[[], str]] = {
        "kernel recurrent_kernel": lambda: recurrent_class(arrays),
        "kernel recurrent_kernel bias": lambda: recurrent_class(arrays),
        "kernel": lambda: "Dense" if arrays[0].ndim == 2 else "",
        "kernel bias": lambda: plain_class(arrays),
        "embeddings": lambda: "Embedding",
    }
    return Node(name, classes.get(" ".join(leaves), str)(), None, arrays)
