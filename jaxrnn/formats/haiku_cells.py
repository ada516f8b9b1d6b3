"""Cells of Haiku as cells of this library. Haiku itself is not needed: its parameters are a mapping of arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.formats.conventions import RESET_BEFORE, to_torch
from jaxrnn.formats.modules import cell_module


def from_haiku(params: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """Return what computes the same as a core of Haiku, given all parameters and the name of the core's module::

        cell = jaxrnn.formats.from_haiku(params, "lstm")  # an hk.LSTM: params["lstm/linear"]

    An `hk.LSTM` becomes a `jaxrnn.LSTMCell`, an `hk.VanillaRNN` a `jaxrnn.RNNCell` with relu. Haiku adds 1 to the
    forget gate in its forward pass, which is in `bias_hh` here; its own bias is `bias_ih`.

    Raises NotImplementedError for an `hk.GRU`, whose reset gate is elsewhere than torch's.
    """
    linears = [_arrays(params, f"{name}/{part}") for part in ("linear", "linear_1")]
    if _arrays(params, name).keys() >= {"w_i", "w_h"}:
        raise NotImplementedError(f"{name} is a GRU of Haiku: {RESET_BEFORE}.")
    if linears[0].keys() != {"w", "b"}:
        raise ValueError(
            f"there are no w and b of {name + '/linear'!r}, of {list(params)}; name a core's module."
        )
    if linears[1]:
        return _vanilla(*linears)
    return _lstm(**linears[0])


def _arrays(params: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, np.ndarray]:
    return {key: np.asarray(array) for key, array in params.get(name, {}).items()}


def _lstm(w: np.ndarray, b: np.ndarray) -> Any:
    """Return the cell of one matrix for the input and the hidden state, [I + H, 4H]."""
    inputs = len(w) - w.shape[1] // 4
    if inputs <= 0:
        raise ValueError(f"a matrix of shape {w.shape} is not that of an LSTM, [I + H, 4 H].")
    return cell_module("LSTM", to_torch("haiku", "LSTM", w[:inputs], w[inputs:], b))


def _vanilla(on_input: Mapping[str, np.ndarray], on_hidden: Mapping[str, np.ndarray]) -> Any:
    biases = on_input["b"], on_hidden.get("b", np.zeros_like(on_input["b"]))  # double_bias=False has one
    arrays = to_torch("haiku", "RNN", on_input["w"], on_hidden["w"], *biases)
    return cell_module("RNN", arrays, nonlinearity="relu")
