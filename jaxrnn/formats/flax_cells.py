"""Cells of Flax, linen and NNX, as cells of this library, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.formats.conventions import CONVENTIONS, to_library, to_torch
from jaxrnn.formats.modules import cell_module, layer_module, only_cell
from jaxrnn.migration.refusals import name_of


class _Row(NamedTuple):
    """How Flax keeps the parameters of a cell."""

    kind: str
    fused: bool  # dense_i and dense_h; if not, a Dense for each gate
    bias: str  # which side has the bias of every gate, "i" or "h"


_LINEN, _NNX = "flax.linen.recurrent", "flax.nnx.nn.recurrent"
_CELLS = {
    f"{_LINEN}.SimpleCell": _Row("RNN", False, "i"),
    f"{_LINEN}.LSTMCell": _Row("LSTM", False, "h"),
    f"{_LINEN}.OptimizedLSTMCell": _Row("LSTM", False, "h"),
    f"{_LINEN}.GRUCell": _Row("GRU", False, "i"),
    f"{_NNX}.SimpleCell": _Row("RNN", True, "i"),
    f"{_NNX}.LSTMCell": _Row("LSTM", False, "h"),
    f"{_NNX}.OptimizedLSTMCell": _Row("LSTM", True, "h"),
    f"{_NNX}.GRUCell": _Row("GRU", True, "i"),
}
_SEQUENCES = {f"{_LINEN}.RNN", f"{_NNX}.RNN"}


def from_flax(module: Any, params: Mapping[str, Any] | None = None) -> Any:
    """Return what computes the same as a cell of Flax, with its weights: a `jaxrnn.LSTMCell` of its LSTMCell::

        cell = jaxrnn.formats.from_flax(flax.nnx.LSTMCell(3, 5, rngs=rngs))
        cell = jaxrnn.formats.from_flax(flax.linen.GRUCell(5), variables["params"])

    Known are SimpleCell, LSTMCell, OptimizedLSTMCell and GRUCell of linen, which has its `params` apart, and of
    NNX. An RNN around one becomes a layer, with `batch_first` unless it is `time_major`. The carry of an LSTM is
    (c, h) in Flax and (h, c) here. A bias of Flax becomes `bias_ih`, and `bias_hh` is 0.

    Raises NotImplementedError for activations and options that torch's equations have not.
    """
    name = name_of(type(module))
    if name in _SEQUENCES:
        if module.reverse:
            raise NotImplementedError(
                "the RNN has reverse=True; convert its cell, and reverse the sequence yourself."
            )
        inner = params["cell"] if params is not None else None
        return _converted(module.cell, inner, layer_module, batch_first=not module.time_major)
    return _converted(module, params, cell_module)


def to_flax(module: Any, like: Any) -> Any:
    """Return the weights of a cell of this library for Flax: the params of a linen cell, or a cell like `like`::

        params = jaxrnn.formats.to_flax(cell, flax.linen.GRUCell(5))
        theirs = jaxrnn.formats.to_flax(cell, flax.nnx.LSTMCell(3, 5, rngs=rngs))

    `module` is a cell, or a layer of one level and direction. Where Flax has one bias it gets the sum of two,
    rounded once. NNX's GRUCell lacks the bias that its reset gate multiplies, so that a `bias_hh` whose last third
    is not 0 is refused.
    """
    row, nonlinearity = _known(like)
    cell = only_cell(module, row.kind, nonlinearity)
    if "bias_ih" not in cell:
        zeros = np.zeros_like(cell["weight_ih"][:, 0])
        cell |= {"bias_ih": zeros, "bias_hh": zeros}
    tree = _tree(row, *to_library("flax", row.kind, cell))
    if not isinstance(like, nnx.Module):
        hidden = cell["weight_hh"].shape[1]
        if like.features != hidden:
            raise ValueError(f"the cell of Flax has {like.features} features, but this one has {hidden}.")
        return tree
    if row.kind == "GRU" and np.any(tree["dense_h"].pop("bias") != 0):
        raise NotImplementedError(
            "flax.nnx.GRUCell has no bias b_hn within the reset product, but this cell has one that is not 0. Use "
            "flax.linen.GRUCell, which has it."
        )
    theirs = nnx.clone(like)
    for part, arrays in tree.items():
        for name, array in arrays.items():
            variable = getattr(getattr(theirs, "if_" if part == "if" else part), name)
            if variable.shape != array.shape:
                raise ValueError(
                    f"{part}.{name}: shape {array.shape}, but the cell of Flax has {variable.shape}."
                )
            variable.set_value(jnp.asarray(array))
    return theirs


def _converted(cell: Any, params: Mapping[str, Any] | None, make: Any, **options: Any) -> Any:
    row, nonlinearity = _known(cell)
    if row.kind == "RNN":
        options["nonlinearity"] = nonlinearity
    tree = _plain(cell, params)
    try:
        arrays = to_torch("flax", row.kind, *_fused(row, tree))
    except KeyError as error:
        raise ValueError(
            f"the parameters have no {error}, of {list(tree)}; pass those of this cell alone."
        ) from None
    return make(row.kind, arrays, **options)


def _known(cell: Any) -> tuple[_Row, str]:
    """Return the row of a cell and its nonlinearity, once all its options are as torch has it."""
    row = _CELLS.get(name_of(type(cell)))
    if row is None:
        raise TypeError(f"expected one of {list(_CELLS)} or an RNN around it, got {name_of(type(cell))}.")
    if getattr(cell, "residual", False):
        raise NotImplementedError("residual=True is not in torch's equations.")
    if row.kind != "RNN" and cell.gate_fn is not jax.nn.sigmoid:
        raise NotImplementedError(f"gate_fn={cell.gate_fn}: torch's gates are jax.nn.sigmoid.")
    if row.kind == "RNN" and cell.activation_fn is jax.nn.relu:
        return row, "relu"
    if cell.activation_fn is not jnp.tanh:
        raise NotImplementedError(f"activation_fn={cell.activation_fn}: torch has jnp.tanh.")
    return row, "tanh"


def _plain(cell: Any, params: Mapping[str, Any] | None) -> dict[str, dict[str, np.ndarray]]:
    """Return the parameters as a tree of NumPy arrays, NNX's under linen's names."""
    if isinstance(cell, nnx.Module):
        if params is not None:
            raise TypeError("a cell of NNX has its parameters within; leave out params.")
        tree: Mapping[str, Any] = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    elif params is None:
        raise TypeError("a cell of linen has its parameters apart; pass params=variables['params'].")
    else:
        tree = params
    return {
        part.removesuffix("_"): {name: np.asarray(array) for name, array in arrays.items()}
        for part, arrays in tree.items()
    }


def _parts(row: _Row) -> tuple[list[str], list[str]]:
    """Return the names of the Denses on the input and on the hidden side, in the convention's order."""
    if row.fused:
        return ["dense_i"], ["dense_h"]
    gates = CONVENTIONS["flax", row.kind].gates
    return tuple([side + ("" if gate == "a" else gate) for gate in gates] for side in "ih")  # type: ignore[return-value]


def _fused(row: _Row, tree: Mapping[str, Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """Return kernels and biases as `to_torch` takes them."""
    inputs, hidden = _parts(row)
    kernels = [np.concatenate([tree[part]["kernel"] for part in side], axis=1) for side in (inputs, hidden)]
    biased = inputs if row.bias == "i" else hidden
    biases = [np.concatenate([tree[part]["bias"] for part in biased])]
    if row.kind == "GRU":
        features = len(kernels[1])
        biases.append(tree[hidden[-1]].get("bias", np.zeros(features, kernels[1].dtype)))
    return kernels + biases


def _tree(
    row: _Row, kernel: np.ndarray, recurrent: np.ndarray, *biases: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return Flax's tree; the inverse of `_fused`."""
    inputs, hidden = _parts(row)
    tree: dict[str, dict[str, np.ndarray]] = {}
    for side, whole in ((inputs, kernel), (hidden, recurrent)):
        tree |= {
            part: {"kernel": block}
            for part, block in zip(side, np.split(whole, len(side), axis=1), strict=True)
        }
    biased = inputs if row.bias == "i" else hidden
    for part, block in zip(biased, np.split(biases[0], len(biased)), strict=True):
        tree[part]["bias"] = block
    if row.kind == "GRU":
        tree[hidden[-1]]["bias"] = biases[1]
    return tree
