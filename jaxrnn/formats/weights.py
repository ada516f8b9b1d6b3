"""Cells' arrays joined to layers by torch's names, and taken apart again."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrnn.formats.conventions import CONVENTIONS, Arrays
from jaxrnn.torch_names import recurrent_position

LEAVE_OUT = "To leave out what cannot be converted, name the layers to convert: layers=[...] or --layer"


class Description(NamedTuple):
    """How to construct a layer for its arrays, in torch and, if it is a recurrent one, here."""

    kind: str  # "LSTM", of torch.nn
    sizes: tuple[int, ...]
    options: dict[str, Any]  # those that are not torch's defaults
    remark: str = ""  # what else to mind

    def __str__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        call = f"{self.kind}({', '.join([*map(str, self.sizes), *options])})"
        return f"{call}, {self.remark}" if self.remark else call


class Weights(NamedTuple):
    """What a file of another library holds, in torch's terms."""

    arrays: dict[str, np.ndarray]  # by torch's names, each with the name of its layer before it
    layers: dict[str, Description]  # by the same names of layers
    left_out: Sequence[str] = ()  # weights in the file that are of no layer that is converted


def stack(layers: Sequence[Sequence[Arrays] | Arrays]) -> dict[str, np.ndarray]:
    """Return the arrays of a whole layer, ``weight_ih_l0``, ..., given those of its cells, ``weight_ih``, ...::

        load_state_dict(jaxrnn.LSTM(3, 5, num_layers=2, rngs=rngs), stack([first, second]))
        load_state_dict(jaxrnn.LSTM(3, 5, bidirectional=True, rngs=rngs), stack([(forward, backward)]))

    What has the names of a layer of one level, ``weight_ih_l0``, is taken as well.
    """
    named: dict[str, np.ndarray] = {}
    for level, given in enumerate(layers):
        for cell, suffix in zip(_directions(given), ("", "_reverse"), strict=False):
            named |= {f"{name}_l{level}{suffix}": array for name, array in cell.items()}
    return named


def _directions(given: Sequence[Arrays] | Arrays) -> Sequence[Arrays]:
    if not isinstance(given, Mapping):
        return given
    return [cell for level in levels(given) for cell in level] if "weight_ih_l0" in given else [given]


def levels(arrays: Arrays) -> list[list[dict[str, np.ndarray]]]:
    """Return the cells of a layer, given its arrays by torch's names: for each level, for each direction.

    Raises ValueError for arrays that are not those of a whole recurrent layer.
    """
    cells: dict[tuple[int, bool], dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        position = recurrent_position(name)
        if position is None or "_l" not in name:
            raise ValueError(f"{name!r} is no array of a recurrent layer")
        cells.setdefault(position[:2], {})[name.partition("_l")[0]] = array
    directions = 2 if (0, True) in cells else 1
    places = [
        (level, direction == 1)
        for level in range(len(cells) // directions)
        for direction in range(directions)
    ]
    names = {tuple(sorted(cell)) for cell in cells.values()}
    complete = len(names) == 1 and {"weight_ih", "weight_hh"} <= set(min(names))
    if sorted(cells) != places or not complete:
        raise ValueError("some arrays of a recurrent layer are missing, or levels are not alike")
    ordered = [cells[place] for place in places]
    return [ordered[start : start + directions] for start in range(0, len(ordered), directions)]


def kind_of(weight_hh: np.ndarray, axis: int = 0) -> str | None:
    """Return "RNN", "GRU" or "LSTM" by the number of gates along an axis of recurrent weights, or None."""
    counts = {len(CONVENTIONS["torch", kind].gates): kind for kind in ("RNN", "GRU", "LSTM")}
    if weight_hh.ndim != 2 or 0 in weight_hh.shape:
        return None
    gates, rest = divmod(weight_hh.shape[axis], weight_hh.shape[1 - axis])
    return None if rest else counts.get(gates)


def describe(kind: str, arrays: Arrays, remark: str = "", **options: Any) -> Description:
    """Return how to construct a recurrent layer for its arrays; `options` are what these do not say."""
    cells = levels(arrays)
    first = cells[0][0]
    found = {
        "num_layers": len(cells),
        "bias": "bias_ih" in first,
        "bidirectional": len(cells[0]) == 2,
        **options,
    }
    sizes = first["weight_ih"].shape[1], first["weight_hh"].shape[1]
    return Description(kind, sizes, {n: value for n, value in found.items() if value != _DEFAULTS[n]}, remark)


_DEFAULTS = {
    "num_layers": 1,
    "bias": True,
    "bidirectional": False,
    "nonlinearity": "tanh",
    "batch_first": False,
}
