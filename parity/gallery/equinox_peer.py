"""Equinox: its two cells, for one row each, so that `jax.vmap` makes the batch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax

from parity.gallery.peer import Peer, Weights, gates

eqx = importlib.import_module("equinox")

Own = dict[str, jax.Array]


def lstm_parameters(weights: Weights) -> Own:
    """Sum the two biases; names and layout are torch's."""
    own = {name: weights[name] for name in ("weight_ih", "weight_hh")}
    if "bias_ih" in weights:
        own["bias"] = weights["bias_ih"] + weights["bias_hh"]
    return own


def gru_parameters(weights: Weights) -> Own:
    """Keep the bias inside the reset gate apart, and sum the others."""
    own = {name: weights[name] for name in ("weight_ih", "weight_hh")}
    if "bias_ih" in weights:
        inside = gates(weights, "rzn")["n"]["bias_hh"]
        outside = weights["bias_hh"].at[-len(inside) :].set(0.0)
        own |= {"bias": weights["bias_ih"] + outside, "bias_n": inside}
    return own


def _cell(name: str) -> Callable[..., Any]:
    def call(own: Own, input: jax.Array, hx: Any) -> Any:
        hidden = jax.tree.leaves(hx)[0].shape[-1]
        kind = getattr(eqx.nn, name)
        cell = kind(input.shape[-1], hidden, use_bias="bias" in own, dtype=input.dtype, key=jax.random.key(0))
        cell = eqx.tree_at(lambda tree: [getattr(tree, key) for key in own], cell, list(own.values()))
        return jax.vmap(cell)(input, hx)

    return call


LSTM_CELL = Peer(lstm_parameters, _cell("LSTMCell"))
GRU_CELL = Peer(gru_parameters, _cell("GRUCell"))
