"""Weights as Keras 3 writes them: a group for each layer, by its class and a number, with "vars/0", "vars/1"."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrnn.formats.hdf5 import Group
from jaxrnn.formats.keras_config import DEEPEST, described_layers, entry_of, is_model, wrapped
from jaxrnn.formats.keras_layers import GROUPS, RECURRENT, Node, plain_class, recurrent_class


def configured(config: Any, group: Group | None, depth: int = 0) -> list[Node]:
    """Return the layers of a model, each with its arrays."""
    if depth > DEEPEST:
        raise ValueError("models within models without an end")
    inside = group.group("layers") if group else None
    counts, nodes = Counter[str](), []
    for entry in described_layers(config):
        kind, name, settings = entry_of(entry)
        stem = _snake(str(entry["class_name"]))
        group_name = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
        own = inside.group(group_name) if inside else None
        if is_model(kind, settings):
            nodes.append(Node(name, kind, settings, parts=configured(entry, own, depth + 1)))
        else:
            nodes.append(_node(kind, name, settings, own))
    return nodes


def _snake(kind: str) -> str:
    """Return Keras' name for the group of a class: simple_rnn for SimpleRNN, lstm for LSTM."""
    plain = re.sub(r"\W+", "", kind)
    parted = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", plain)
    return re.sub("([a-z])([A-Z])", r"\1_\2", parted).lower()


def _node(kind: str, name: str, config: Mapping[str, Any], group: Group | None) -> Node:
    entries = wrapped(kind, config)
    if entries:
        parts = []
        for entry, inner in zip(entries, _inner_groups(kind, len(entries), group), strict=True):
            part_kind, part_name, part_config = entry_of(entry)
            parts.append(_node(part_kind, part_name, part_config, inner))
        return Node(name, kind, config, parts=parts)
    return Node(name, kind, config, _vars(kind, group))


def _inner_groups(kind: str, count: int, group: Group | None) -> list[Group | None]:
    """Return the groups of what a layer wraps, in the order of `_wrapped`."""
    if group is None:
        return [None] * count
    if kind == "Bidirectional":
        return [group.group("forward_layer"), group.group("backward_layer")]
    if kind == "TimeDistributed":
        return [group.group("layer")]
    cell = group.group("cell")
    cells = cell.group("cells") if cell else None
    if cells is None:
        return [cell]
    numbered = sorted(cells.names(), key=lambda name: int(re.sub(r"^.*?(?:_(\d+))?$", r"\1", name) or 0))
    return [cells.group(name) for name in numbered]


def _vars(kind: str, group: Group | None) -> list[np.ndarray]:
    if kind not in _KNOWN:
        return [] if group is None else [np.zeros(0) for _ in weights_within(group)]
    inner = group.group("cell") if group and kind in RECURRENT and group.group("cell") else group
    variables = inner.group("vars") if inner else None
    if variables is None:
        raise ValueError(
            f"no arrays of a {kind} in the file; if the layer is shared, convert it where it is first"
        )
    return variables.numbered()


def weights_within(group: Group) -> Iterator[str]:
    """Yield the paths of a layer's arrays, but for the states of random numbers."""
    return (path for path in group.arrays() if "seed_generator" not in path)


_KNOWN = {*RECURRENT, *GROUPS.values()}


def unconfigured(group: Group, depth: int = 0) -> Iterator[Node]:
    """Yield the layers of a file of Keras 3 that has weights only: what they are follows from groups and shapes."""
    if depth > DEEPEST:
        raise ValueError(f"{group.path[:100]}...: groups within groups without an end")
    for name in sorted(group.names()):
        inner = group.group(name)
        if inner is None or name in ("vars", "optimizer", "metrics", "seed_generator"):
            continue
        variables = inner.group("vars")
        shown = variables.attribute("name") if variables else None
        if depth == 0 and name == "layers":
            yield from unconfigured(inner, depth + 1)
        elif "layers" in inner.names():
            layers = inner.group("layers")
            parts = list(unconfigured(layers, depth + 1)) if layers else []
            yield Node(str(shown or name), "Sequential", None, parts=parts)
        else:
            yield _unconfigured_layer(str(shown or name), name, inner)


def _unconfigured_layer(name: str, group_name: str, group: Group) -> Node:
    """Return a layer of which every array is accounted for, or one of unknown class."""
    node, total = _recognised(name, group_name, group), sum(1 for _ in weights_within(group))
    return node if node.count() == total else Node(name, "", None, [np.zeros(0)] * total)


def _recognised(name: str, group_name: str, group: Group) -> Node:
    forward, backward = group.group("forward_layer"), group.group("backward_layer")
    if forward and backward:
        parts = [_recognised(name, "", direction) for direction in (forward, backward)]
        return Node(name, "Bidirectional", None, parts=parts)
    if layer := group.group("layer"):
        return _recognised(name, "", layer)
    if cell := group.group("cell"):
        if cells := cell.group("cells"):
            inner = _inner_groups("RNN", len(cells.names()), group)
            return Node(name, "RNN", None, parts=[_unconfigured_cell(name, part) for part in inner if part])
        return _unconfigured_cell(name, cell)
    variables = group.group("vars")
    arrays = variables.numbered() if variables else []
    return Node(name, GROUPS.get(re.sub(r"_\d+$", "", group_name)) or plain_class(arrays), None, arrays)


def _unconfigured_cell(name: str, group: Group) -> Node:
    variables = group.group("vars")
    arrays = variables.numbered() if variables else []
    return Node(name, recurrent_class(arrays), None, arrays)
