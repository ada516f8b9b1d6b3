"""jax.experimental.rnn: `lstm_ref`, what its cuDNN LSTM, which needs a GPU, is tested by; two biases, as torch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from parity.gallery.peer import Peer, Weights

Own = dict[str, jax.Array]
_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _as_they_are(weights: Weights) -> Own:
    return dict(weights)


def _lstm_ref(own: Own, input: jax.Array, hx: Any, lengths: Any = None) -> Any:
    bidirectional = "weight_ih_reverse" in own
    suffixes = ("", "_reverse") if bidirectional else ("",)
    parts = [{number: own[name + suffix] for number, suffix in enumerate(suffixes)} for name in _NAMES]
    if lengths is None:
        lengths = jnp.full(input.shape[0], input.shape[1], jnp.int32)
    sizes = (input.shape[-1], hx[0].shape[-1], 1, 0.0, bidirectional)
    output, h_n, c_n = rnn.lstm_ref(input, *hx, *parts, lengths, *sizes)
    return output, (h_n, c_n)


LSTM_REF = Peer(_as_they_are, _lstm_ref)
