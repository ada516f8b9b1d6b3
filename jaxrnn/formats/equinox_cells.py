"""Cells of Equinox as cells of this library, and back."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn.formats.conventions import to_library, to_torch
from jaxrnn.formats.modules import cell_module, only_cell
from jaxrnn.formats.requirements import needed
from jaxrnn.migration.refusals import name_of

_KINDS = {"equinox.nn._rnn.LSTMCell": "LSTM", "equinox.nn._rnn.GRUCell": "GRU"}
_ARRAYS = {"LSTM": ("weight_ih", "weight_hh", "bias"), "GRU": ("weight_ih", "weight_hh", "bias", "bias_n")}


def from_equinox(cell: Any) -> Any:
    """Return what computes the same as an LSTMCell or GRUCell of Equinox, a cell of this library with its weights.

    A bias of Equinox becomes `bias_ih`; `bias_hh` is 0, but for the `bias_n` of a GRU.
    """
    kind = _known(cell)
    arrays = [np.asarray(getattr(cell, name)) for name in _ARRAYS[kind] if getattr(cell, name) is not None]
    return cell_module(kind, to_torch("equinox", kind, *arrays))


def to_equinox(module: Any, like: Any) -> Any:
    """Return a cell of Equinox like `like` with the weights of a cell of this library, two biases added up to one.

    `module` is a cell, or a layer of one level and direction; `like` has its sizes, and a bias where it has one.
    """
    kind = _known(like)
    arrays = to_library("equinox", kind, only_cell(module, kind))
    places = _ARRAYS[kind][: len(arrays)]
    shapes = [
        None if each is None else each.shape for each in (getattr(like, name) for name in _ARRAYS[kind])
    ]
    ours = [array.shape for array in arrays] + [None] * (len(_ARRAYS[kind]) - len(arrays))
    if shapes != ours:
        raise ValueError(f"the cell of Equinox has arrays of shapes {shapes}, but these are {ours}.")
    return needed("equinox").tree_at(
        lambda cell: [getattr(cell, name) for name in places], like, [jnp.asarray(array) for array in arrays]
    )


def _known(cell: Any) -> str:
    kind = _KINDS.get(name_of(type(cell)))
    if kind is None:
        raise TypeError(f"expected one of {list(_KINDS)}, got {name_of(type(cell))}.")
    return kind
