"""How each library lays out the weights of a recurrent cell: one table, from which every conversion follows.

A convention says in which order the gates stand, whether in rows or in columns, how many biases there are, and
what the library's equations do that torch's do not. Gates are named by torch's letters, whatever they are called
elsewhere: Keras' and ONNX's c of the LSTM is g, their h of the GRU is n.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Convention:
    """The layout of one kind of cell in one library.

    * `gates`: the blocks of H rows or columns, in their order.
    * `layout`: "rows" [G*H, I], as torch; "columns" [I, G*H], for ``x @ W``; "blocks" [I, G*H] of which each block
      [I, H] holds, one after the other in memory, the numbers of torch's [H, I], as cuDNN keeps them.
    * `biases`: "two", as torch, one with each product; "one" for their sum; "one and n" where only the n of a GRU
      has a second one, the b_hn that the reset gate multiplies.
    * `forget`: what the forward pass adds to the forget gate.
    * `reset_before`: the reset gate multiplies h before the product, as in Cho et al. (2014), not ``W_hn h +
      b_hn``.
    """

    gates: str
    layout: Literal["rows", "columns", "blocks"] = "rows"
    biases: Literal["two", "one", "one and n"] = "two"
    forget: float = 0.0
    reset_before: bool = False


CONVENTIONS = {
    ("torch", "RNN"): Convention("a"),
    ("torch", "LSTM"): Convention("ifgo"),
    ("torch", "GRU"): Convention("rzn"),
    ("onnx", "RNN"): Convention("a"),
    ("onnx", "LSTM"): Convention("iofg"),
    ("onnx", "GRU"): Convention("zrn"),
    ("onnx, linear_before_reset=0", "GRU"): Convention("zrn", reset_before=True),
    ("keras", "RNN"): Convention("a", "columns", "one"),
    ("keras", "LSTM"): Convention("ifgo", "columns", "one"),
    ("keras", "GRU"): Convention("zrn", "columns"),
    ("keras, reset_after=False", "GRU"): Convention("zrn", "columns", "one", reset_before=True),
    ("keras, cuDNN", "LSTM"): Convention("ifgo", "blocks"),
    ("keras, cuDNN", "GRU"): Convention("zrn", "blocks"),
    ("flax", "RNN"): Convention("a", "columns", "one"),
    ("flax", "LSTM"): Convention("ifgo", "columns", "one"),
    ("flax", "GRU"): Convention("rzn", "columns", "one and n"),
    ("haiku", "RNN"): Convention("a", "columns"),
    ("haiku", "LSTM"): Convention("igfo", "columns", "one", forget=1.0),
    ("equinox", "LSTM"): Convention("ifgo", "rows", "one"),
    ("equinox", "GRU"): Convention("rzn", "rows", "one and n"),
}

# Rows of the peepholes: of ONNX's input P, and of ``weight_ch`` here.
PEEPHOLES = {"onnx": "iof", "jaxrnn": "ifo"}

RESET_BEFORE = (
    "its reset gate multiplies h before the product with the recurrent weights, torch's (and cuDNN's) after it; "
    "the two agree only where the recurrent weights of n are diagonal. Train the network again with the reset "
    "after the product"
)


def to_torch(
    library: str, kind: str, weight_x: np.ndarray, weight_h: np.ndarray, *biases: np.ndarray
) -> dict[str, np.ndarray]:
    """Return a cell's arrays by torch's names, given those of a library; none is changed.

    `biases` are those that the convention says, or none. One bias b becomes ``bias_ih = b`` and ``bias_hh = 0``,
    plus what the library adds to the forget gate by itself, so that no bit of b is lost.

    Raises ValueError for shapes that do not fit together, NotImplementedError for a reset gate in the wrong place.
    """
    convention = CONVENTIONS[library, kind]
    check_arrays(convention, weight_x, weight_h, biases)
    cell = {
        "weight_ih": _sorted(convention, kind, weight_x),
        "weight_hh": _sorted(convention, kind, weight_h),
    }
    if biases:
        cell |= zip(("bias_ih", "bias_hh"), _two_biases(convention, kind, biases), strict=True)
    return _reset_after(cell) if convention.reset_before else cell


def to_library(library: str, kind: str, cell: Arrays) -> tuple[np.ndarray, ...]:
    """Return the arrays of a library as `to_torch` takes them, given those of a cell by torch's names.

    Two biases are added up where the library has one: in real arithmetic nothing changes, the sum is rounded once.
    """
    convention = CONVENTIONS[library, kind]
    weights = _unsorted(convention, kind, cell["weight_ih"]), _unsorted(convention, kind, cell["weight_hh"])
    if "bias_ih" not in cell:
        return weights
    bias_x, bias_h = cell["bias_ih"], cell["bias_hh"]
    if convention.biases == "two":
        return (*weights, _unsorted(convention, kind, bias_x), _unsorted(convention, kind, bias_h))
    if convention.biases == "one":
        one = bias_x + (bias_h - _added(convention, kind, bias_h))
        return (*weights, _unsorted(convention, kind, one))
    hidden = len(bias_x) // 3
    one = np.concatenate([bias_x[:-hidden] + bias_h[:-hidden], bias_x[-hidden:]])
    return (*weights, _unsorted(convention, kind, one), bias_h[-hidden:])


def peepholes(rows: np.ndarray, source: str, target: str) -> np.ndarray:
    """Return peephole weights [3, H] with their rows in the order of another library."""
    return np.stack([rows[PEEPHOLES[source].index(gate)] for gate in PEEPHOLES[target]])


def is_floating(array: np.ndarray) -> bool:
    """Return whether an array holds floating point numbers, bfloat16 included."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def check_arrays(
    convention: Convention, weight_x: np.ndarray, weight_h: np.ndarray, biases: Sequence[np.ndarray]
) -> None:
    """Raise ValueError where arrays cannot be those of one cell."""
    arrays = (weight_x, weight_h, *biases)
    if not all(is_floating(array) for array in arrays) or len({array.dtype for array in arrays}) > 1:
        raise ValueError(
            f"its arrays have dtypes {[array.dtype.name for array in arrays]}, not one of floating point"
        )
    gates, axis = len(convention.gates), 0 if convention.layout == "rows" else 1
    shapes = [array.shape for array in arrays]
    fits = weight_x.ndim == weight_h.ndim == 2
    if fits:
        hidden = weight_h.shape[1 - axis]
        sizes = {"two": [gates] * 2, "one": [gates], "one and n": [gates, 1]}[convention.biases]
        expected = [(size * hidden,) for size in sizes] if biases else []
        fits = hidden > 0 and weight_x.shape[1 - axis] > 0
        fits = fits and weight_x.shape[axis] == weight_h.shape[axis] == gates * hidden
        fits = fits and shapes[2:] == expected
    if not fits:
        raise ValueError(f"its arrays have shapes {shapes}, which are not those of {gates} gates of one cell")


def _sorted(convention: Convention, kind: str, array: np.ndarray) -> np.ndarray:
    """Return an array with torch's rows in torch's order."""
    gates = len(convention.gates)
    if array.ndim == 1 or convention.layout == "rows":
        blocks = np.split(array, gates)
    elif convention.layout == "columns":
        blocks = [block.T for block in np.split(array, gates, axis=1)]
    else:
        blocks = [block.reshape(block.shape[::-1]) for block in np.split(array, gates, axis=1)]
    order = CONVENTIONS["torch", kind].gates
    return np.concatenate([blocks[convention.gates.index(gate)] for gate in order])


def _unsorted(convention: Convention, kind: str, array: np.ndarray) -> np.ndarray:
    """Return an array in a library's layout, given torch's; the inverse of `_sorted`."""
    blocks = dict(zip(CONVENTIONS["torch", kind].gates, np.split(array, len(convention.gates)), strict=True))
    ordered = [blocks[gate] for gate in convention.gates]
    if array.ndim == 1 or convention.layout == "rows":
        return np.concatenate(ordered)
    if convention.layout == "columns":
        return np.concatenate([block.T for block in ordered], axis=1)
    return np.concatenate([block.reshape(block.shape[::-1]) for block in ordered], axis=1)


def _two_biases(
    convention: Convention, kind: str, biases: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    if convention.biases == "two":
        return _sorted(convention, kind, biases[0]), _sorted(convention, kind, biases[1])
    bias_x = _sorted(convention, kind, biases[0])
    bias_h = _added(convention, kind, bias_x)
    if convention.biases == "one and n":
        bias_h[-len(biases[1]) :] = biases[1]
    return bias_x, bias_h


def _added(convention: Convention, kind: str, bias: np.ndarray) -> np.ndarray:
    """Return what a library adds to the pre-activations by itself, in torch's order."""
    added = np.zeros_like(bias)
    if convention.forget:
        block = CONVENTIONS["torch", kind].gates.index("f")
        np.split(added, len(convention.gates))[block][:] = convention.forget
    return added


def _reset_after(cell: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the GRU with the reset after the product that computes what one with the reset before it does."""
    hidden = cell["weight_hh"].shape[1]
    n = cell["weight_hh"][-hidden:]
    if np.any(n[~np.eye(hidden, dtype=bool)] != 0):
        raise NotImplementedError(RESET_BEFORE)
    if "bias_ih" not in cell:
        return cell
    bias_x, bias_h = cell["bias_ih"].copy(), cell["bias_hh"].copy()
    bias_x[-hidden:] += bias_h[-hidden:]  # which no gate multiplies
    bias_h[-hidden:] = 0
    return cell | {"bias_ih": bias_x, "bias_hh": bias_h}
