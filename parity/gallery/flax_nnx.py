"""flax.nnx: cells, and `nnx.RNN` and `nnx.Bidirectional` over them. The carry of an LSTM is `(c, h)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from parity.gallery.peer import Peer, Weights, gates

Own = dict[str, jax.Array]


def lstm_parameters(weights: Weights, suffix: str = "") -> Own:
    """Fill eight Linears; the biases are on the hidden side, each the sum of torch's two."""
    own = {}
    for gate, part in gates(weights, "ifgo", suffix).items():
        own[f"i{gate}{'_' if gate == 'f' else ''}.kernel"] = part["weight_ih"].T
        own[f"h{gate}.kernel"] = part["weight_hh"].T
        own[f"h{gate}.bias"] = part["bias_ih"] + part["bias_hh"]
    return own


def optimized_lstm_parameters(weights: Weights) -> Own:
    """Fill two Linears of all gates, in torch's order; one bias."""
    return {
        "dense_i.kernel": weights["weight_ih"].T,
        "dense_h.kernel": weights["weight_hh"].T,
        "dense_h.bias": weights["bias_ih"] + weights["bias_hh"],
    }


def gru_parameters(weights: Weights, suffix: str = "") -> Own:
    """Fill two Linears of all gates, in torch's order; one bias, on the input's side."""
    return {
        "dense_i.kernel": weights["weight_ih" + suffix].T,
        "dense_i.bias": weights["bias_ih" + suffix] + weights["bias_hh" + suffix],
        "dense_h.kernel": weights["weight_hh" + suffix].T,
    }


def without_bias(hold: Callable[[Weights], Own]) -> Callable[[Weights], Own]:
    """Hold a network without biases: the peer's stay zero."""

    def held(weights: Weights) -> Own:
        zeros = {
            name.replace("weight", "bias"): jnp.zeros(value.shape[0], value.dtype)
            for name, value in weights.items()
        }
        return hold({**weights, **zeros})

    return held


def _filled(kind: type, own: Own, features: int, hidden: int) -> Any:
    """Return a cell of the peer that holds these parameters and computes in their dtype."""
    dtype = next(iter(own.values())).dtype
    cell = kind(features, hidden, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    for name, value in own.items():
        linear, _, parameter = name.partition(".")
        getattr(getattr(cell, linear), parameter).set_value(value)
    return cell


def _carry(hx: Any) -> Any:
    return hx[::-1] if isinstance(hx, tuple | list) else hx  # (h, c) and (c, h)


def _cell(kind: type) -> Callable[..., Any]:
    def call(own: Own, input: jax.Array, hx: Any) -> Any:
        carry, _ = _filled(kind, own, input.shape[-1], jax.tree.leaves(hx)[0].shape[-1])(_carry(hx), input)
        return _carry(carry)

    return call


def _layer(kind: type, *, zeroed: bool = False) -> Callable[..., Any]:
    """Call `nnx.RNN` over a cell; `zeroed`: the user zeroes the outputs at the padding."""

    def call(own: Own, input: jax.Array, hx: Any, lengths: Any = None) -> Any:
        carry = jax.tree.map(lambda state: state[0], _carry(hx))  # torch's has an axis of layers
        layer = nnx.RNN(_filled(kind, own, input.shape[-1], jax.tree.leaves(carry)[0].shape[-1]))
        carry, output = layer(input, initial_carry=carry, seq_lengths=lengths, return_carry=True)
        output = zero_padding(output, lengths) if zeroed else output
        return output, _carry(jax.tree.map(lambda state: state[None], carry))

    return call


def _both_ways(kind: type, *, zeroed: bool = False) -> Callable[..., Any]:
    """Call `nnx.Bidirectional` over two `nnx.RNN`."""

    def call(own: Own, input: jax.Array, hx: Any, lengths: Any = None) -> Any:
        carries, layers = [], []
        for number, prefix in enumerate(("forward.", "backward.")):
            carry = jax.tree.map(lambda state, at=number: state[at], _carry(hx))
            part = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
            hidden = jax.tree.leaves(carry)[0].shape[-1]
            layers.append(nnx.RNN(_filled(kind, part, input.shape[-1], hidden)))
            carries.append(carry)
        both = nnx.Bidirectional(*layers)
        ends, output = both(
            input, initial_carry=(carries[0], carries[1]), seq_lengths=lengths, return_carry=True
        )
        output = zero_padding(output, lengths) if zeroed else output
        return output, _carry(jax.tree.map(lambda *states: jnp.stack(states), *ends))

    return call


def _directions(hold: Callable[..., Own]) -> Callable[[Weights], Own]:
    def held(weights: Weights) -> Own:
        sides = {"forward.": hold(weights), "backward.": hold(weights, "_reverse")}
        return {prefix + name: value for prefix, own in sides.items() for name, value in own.items()}

    return held


def zero_padding(output: jax.Array, lengths: Any) -> jax.Array:
    """Zero the outputs [B, T, H] at and beyond a row's length, as a careful user does."""
    valid = jnp.arange(output.shape[1])[None, :] < lengths[:, None]
    return jnp.where(valid[..., None], output, 0)


LSTM_CELL = Peer(lstm_parameters, _cell(nnx.LSTMCell))
OPTIMIZED_LSTM_CELL = Peer(optimized_lstm_parameters, _cell(nnx.OptimizedLSTMCell))
GRU_CELL = Peer(gru_parameters, _cell(nnx.GRUCell))
GRU_CELL_WITHOUT_BIAS = Peer(without_bias(gru_parameters), _cell(nnx.GRUCell))
SIMPLE_CELL = Peer(gru_parameters, _cell(nnx.SimpleCell))
LSTM = Peer(lstm_parameters, _layer(nnx.LSTMCell))
LSTM_ZEROED = Peer(lstm_parameters, _layer(nnx.LSTMCell, zeroed=True))
GRU_WITHOUT_BIAS = Peer(without_bias(gru_parameters), _layer(nnx.GRUCell))
GRU_WITHOUT_BIAS_ZEROED = Peer(without_bias(gru_parameters), _layer(nnx.GRUCell, zeroed=True))
BIDIRECTIONAL_LSTM = Peer(_directions(lstm_parameters), _both_ways(nnx.LSTMCell))
BIDIRECTIONAL_LSTM_ZEROED = Peer(_directions(lstm_parameters), _both_ways(nnx.LSTMCell, zeroed=True))
