"""Cells and layers of this library from arrays by torch's names, and the arrays of one cell out of them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn import layers
from jaxrnn.checkpoint import load_state_dict, state_dict
from jaxrnn.formats.conventions import Arrays
from jaxrnn.formats.weights import levels, stack


def cell_module(kind: str, arrays: Arrays, **options: Any) -> Any:
    """Return a `jaxrnn.RNNCell`, `GRUCell` or `LSTMCell` with these arrays."""
    return _filled(getattr(layers, f"{kind}Cell"), arrays, arrays, options)


def layer_module(kind: str, arrays: Arrays, **options: Any) -> Any:
    """Return a `jaxrnn.RNN`, `GRU` or `LSTM` of one level and direction with these arrays of its cell."""
    return _filled(getattr(layers, kind), arrays, stack([arrays]), options)


def _filled(make: Any, cell: Arrays, arrays: Arrays, options: dict[str, Any]) -> Any:
    weight = cell["weight_ih"]
    if jnp.asarray(0.0).dtype != jnp.float64 and weight.dtype == np.float64:
        raise ValueError(
            "the weights are float64, which JAX has only with 64 bits: call jax.config.update('jax_enable_x64', "
            "True), or convert them to float32 first."
        )
    sizes = weight.shape[1], cell["weight_hh"].shape[1]
    # What is drawn is replaced at once.
    module = make(*sizes, bias="bias_ih" in cell, rngs=nnx.Rngs(0), param_dtype=weight.dtype, **options)
    load_state_dict(module, arrays)
    return module


def only_cell(module: Any, kind: str, nonlinearity: str = "tanh") -> dict[str, np.ndarray]:
    """Return the arrays of a cell of this library, or of a layer of one level and direction.

    Raises TypeError for a module of another kind or nonlinearity, ValueError for more than one cell.
    """
    name = module.cell.name if hasattr(module, "cell") else type(module).__name__
    expected = f"RNN_{nonlinearity.upper()}" if kind == "RNN" else kind
    if name != expected:
        raise TypeError(f"expected a cell or layer of jaxrnn that is {expected}, got {name}.")
    arrays = state_dict(module)
    if "weight_ih" in arrays:
        return arrays
    if any(key.startswith("weight_hr") for key in arrays):
        raise NotImplementedError("the layer has a projection (proj_size), which no other library has.")
    cells = levels(arrays)
    if len(cells) > 1 or len(cells[0]) > 1:
        raise ValueError(
            f"the layer has {len(cells)} levels and {len(cells[0])} directions; convert one cell at a time."
        )
    return cells[0][0]
