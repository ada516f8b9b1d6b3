"""Haiku: its cores, one step or unrolled over time with `hk.dynamic_unroll`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from parity.gallery.peer import Peer, Weights, gates

hk = importlib.import_module("haiku")

Own = dict[str, jax.Array]


def lstm_parameters(weights: Weights, forget: float = 1.0) -> Own:
    """Join input and state to one matrix, gates i g f o, one bias; `forget` is what the peer adds to that of f."""
    part = gates(weights, "ifgo")
    rows = [jnp.concatenate([part[gate]["weight_ih"], part[gate]["weight_hh"]], axis=1) for gate in "igfo"]
    biases = [part[gate]["bias_ih"] + part[gate]["bias_hh"] - forget * (gate == "f") for gate in "igfo"]
    return {"lstm/linear.w": jnp.concatenate(rows).T, "lstm/linear.b": jnp.concatenate(biases)}


def lstm_as_it_is(weights: Weights) -> Own:
    """Leave the forget gate as it is, although the peer adds 1 to it."""
    return lstm_parameters(weights, forget=0.0)


def gru_parameters(weights: Weights) -> Own:
    """Order the gates z r a, one bias; z has the opposite sign, since the peer's z is torch's 1 - z."""
    part = gates(weights, "rzn")
    signs = {"z": -1.0, "r": 1.0, "n": 1.0}

    def columns(name: str) -> jax.Array:
        return jnp.concatenate([signs[gate] * part[gate][name] for gate in "zrn"]).T

    return {
        "gru.w_i": columns("weight_ih"),
        "gru.w_h": columns("weight_hh"),
        "gru.b": columns("bias_ih") + columns("bias_hh"),
    }


def vanilla_parameters(weights: Weights) -> Own:
    """Fill two Linears, each with its bias: torch's."""
    return {
        "vanilla_rnn/linear.w": weights["weight_ih"].T,
        "vanilla_rnn/linear.b": weights["bias_ih"],
        "vanilla_rnn/linear_1.w": weights["weight_hh"].T,
        "vanilla_rnn/linear_1.b": weights["bias_hh"],
    }


def _nested(own: Own) -> dict[str, dict[str, jax.Array]]:
    found: dict[str, dict[str, jax.Array]] = {}
    for path, value in own.items():
        module, _, name = path.rpartition(".")
        found.setdefault(module, {})[name] = value
    return found


def _apply(own: Own, function: Callable[..., Any], *args: Any) -> Any:
    return hk.without_apply_rng(hk.transform(function)).apply(_nested(own), *args)


def _state(hx: Any) -> Any:
    return hk.LSTMState(*hx) if isinstance(hx, tuple | list) else hx


def _as_torch(state: Any) -> Any:
    return tuple(state) if isinstance(state, tuple) else state


def _cell(name: str) -> Callable[..., Any]:
    def call(own: Own, input: jax.Array, hx: Any) -> Any:
        hidden = jax.tree.leaves(hx)[0].shape[-1]
        _, state = _apply(own, lambda x, state: getattr(hk, name)(hidden)(x, state), input, _state(hx))
        return _as_torch(state)

    return call


def _layer(name: str) -> Callable[..., Any]:
    """Call `hk.dynamic_unroll` [T, B, I]; with marks, over `hk.ResetCore`."""

    def call(own: Own, input: jax.Array, hx: Any, resets: Any = None) -> Any:
        state = _state(jax.tree.map(lambda each: each[0], hx))
        hidden = jax.tree.leaves(state)[0].shape[-1]

        def unrolled(x: Any, state: Any) -> Any:
            core = getattr(hk, name)(hidden)
            return hk.dynamic_unroll(core if resets is None else hk.ResetCore(core), x, state)

        output, state = _apply(own, unrolled, input if resets is None else (input, resets), state)
        return output, _as_torch(jax.tree.map(lambda each: each[None], state))

    return call


LSTM_CELL = Peer(lstm_parameters, _cell("LSTM"))
LSTM_CELL_AS_IT_IS = Peer(lstm_as_it_is, _cell("LSTM"))
GRU_CELL = Peer(gru_parameters, _cell("GRU"))
VANILLA_CELL = Peer(vanilla_parameters, _cell("VanillaRNN"))
LSTM = Peer(lstm_parameters, _layer("LSTM"))
