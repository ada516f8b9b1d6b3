"""flax.linen: cells, and `nn.RNN` over one. The carry of an LSTM is `(c, h)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen, traverse_util

from parity.gallery.flax_nnx import zero_padding
from parity.gallery.peer import Peer, Weights, gates

Own = dict[str, jax.Array]


def lstm_parameters(weights: Weights) -> Own:
    """Fill eight Denses; the biases are on the hidden side, each the sum of torch's two."""
    own = {}
    for gate, part in gates(weights, "ifgo").items():
        own[f"i{gate}.kernel"] = part["weight_ih"].T
        own[f"h{gate}.kernel"] = part["weight_hh"].T
        own[f"h{gate}.bias"] = part["bias_ih"] + part["bias_hh"]
    return own


def gru_parameters(weights: Weights) -> Own:
    """Fill six Denses; r and z have one bias each, n has torch's two."""
    own = {}
    for gate, part in gates(weights, "rzn").items():
        own[f"i{gate}.kernel"] = part["weight_ih"].T
        own[f"h{gate}.kernel"] = part["weight_hh"].T
        own[f"i{gate}.bias"] = part["bias_ih"] + (part["bias_hh"] if gate != "n" else 0)
    own["hn.bias"] = gates(weights, "rzn")["n"]["bias_hh"]
    return own


def simple_parameters(weights: Weights) -> Own:
    """Fill two Denses and one bias."""
    return {
        "i.kernel": weights["weight_ih"].T,
        "i.bias": weights["bias_ih"] + weights["bias_hh"],
        "h.kernel": weights["weight_hh"].T,
    }


def _carry(hx: Any) -> Any:
    return hx[::-1] if isinstance(hx, tuple | list) else hx  # (h, c) and (c, h)


def _cell(kind: Any) -> Callable[..., Any]:
    def call(own: Own, input: jax.Array, hx: Any) -> Any:
        cell = kind(jax.tree.leaves(hx)[0].shape[-1], param_dtype=input.dtype)
        params = traverse_util.unflatten_dict(own, sep=".")
        carry, _ = cell.apply({"params": params}, _carry(hx), input)
        return _carry(carry)

    return call


def _layer(kind: Any, *, zeroed: bool = False) -> Callable[..., Any]:
    """Call `nn.RNN` over a cell; `zeroed`: the user zeroes the outputs at the padding."""

    def call(own: Own, input: jax.Array, hx: Any, lengths: Any = None) -> Any:
        carry = jax.tree.map(lambda state: state[0], _carry(hx))  # torch's has an axis of layers
        cell = kind(jax.tree.leaves(carry)[0].shape[-1], param_dtype=input.dtype)
        layer = linen.RNN(cell, return_carry=True)
        params = {"cell": traverse_util.unflatten_dict(own, sep=".")}
        found: Any = layer.apply({"params": params}, input, initial_carry=carry, seq_lengths=lengths)
        carry, output = found
        output = zero_padding(output, lengths) if zeroed else output
        return output, _carry(jax.tree.map(lambda state: state[None], carry))

    return call


LSTM_CELL = Peer(lstm_parameters, _cell(linen.LSTMCell))
OPTIMIZED_LSTM_CELL = Peer(lstm_parameters, _cell(linen.OptimizedLSTMCell))
GRU_CELL = Peer(gru_parameters, _cell(linen.GRUCell))
SIMPLE_CELL = Peer(simple_parameters, _cell(linen.SimpleCell))
LSTM = Peer(lstm_parameters, _layer(linen.LSTMCell))
LSTM_ZEROED = Peer(lstm_parameters, _layer(linen.LSTMCell, zeroed=True))
