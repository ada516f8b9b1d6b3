"""Keras 3 with JAX: its layers, called without state of their own (`stateless_call`)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from parity.gallery.peer import Peer, Weights, gates

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = importlib.import_module("keras")
if keras.backend.backend() != "jax":
    raise ImportError(
        f"Keras runs on {keras.backend.backend()!r}, expected 'jax': set KERAS_BACKEND=jax before it is imported."
    )
_promotion = importlib.import_module("keras.src.backend.common.dtypes")

Own = dict[str, jax.Array]


def _matrices(weights: Weights, order: str, theirs: str) -> dict[str, jax.Array]:
    part = gates(weights, order)
    return {
        "kernel": jnp.concatenate([part[gate]["weight_ih"] for gate in theirs]).T,
        "recurrent_kernel": jnp.concatenate([part[gate]["weight_hh"] for gate in theirs]).T,
    }


def _bias(weights: Weights, order: str, theirs: str, name: str) -> jax.Array:
    part = gates(weights, order)
    return jnp.concatenate([part[gate][name] for gate in theirs])


def lstm_parameters(weights: Weights) -> Own:
    """Order the gates i f c o, one bias."""
    bias = _bias(weights, "ifgo", "ifgo", "bias_ih") + _bias(weights, "ifgo", "ifgo", "bias_hh")
    return {**_matrices(weights, "ifgo", "ifgo"), "bias": bias}


def gru_parameters(weights: Weights) -> Own:
    """Order the gates z r h, a bias with a row for the input and one for the state (`reset_after=True`)."""
    rows = [_bias(weights, "rzn", "zrn", name) for name in ("bias_ih", "bias_hh")]
    return {**_matrices(weights, "rzn", "zrn"), "bias": jnp.stack(rows)}


def gru_before_parameters(weights: Weights) -> Own:
    """Order the gates z r h, one bias (`reset_after=False`)."""
    bias = _bias(weights, "rzn", "zrn", "bias_ih") + _bias(weights, "rzn", "zrn", "bias_hh")
    return {**_matrices(weights, "rzn", "zrn"), "bias": bias}


def simple_parameters(weights: Weights) -> Own:
    """Sum the two biases of the one gate."""
    return {
        "kernel": weights["weight_ih"].T,
        "recurrent_kernel": weights["weight_hh"].T,
        "bias": weights["bias_ih"] + weights["bias_hh"],
    }


@functools.lru_cache(maxsize=32)
def _built(name: str, options: tuple[tuple[str, Any], ...], hidden: int, features: int, dtype: str) -> Any:
    """Return a layer whose variables exist; built outside of any trace, because it keeps them."""
    with jax.ensure_compile_time_eval():
        layer = getattr(keras.layers, name)(
            hidden, return_sequences=True, return_state=True, dtype=dtype, **dict(options)
        )
        layer.build((None, None, features))
    return layer


@contextlib.contextmanager
def _float64_stays_float64() -> Iterator[None]:
    """Set aside Keras's rule that two float64 make a float32 (on every backend but TensorFlow)."""
    table = _promotion.BIT64_TO_BIT32_DTYPE
    before = table["float64"]
    table["float64"] = "float64"
    try:
        yield
    finally:
        table["float64"] = before


def _layer(name: str, *, own_promotion: bool = False, **options: Any) -> Callable[..., Any]:
    """Call a layer over [B, T, I]; lengths become its mask. `own_promotion`: float64 as Keras treats it."""

    def call(own: Own, input: jax.Array, hx: Any, lengths: Any = None) -> Any:
        states = [state[0] for state in (hx if isinstance(hx, tuple | list) else (hx,))]
        sizes = (states[0].shape[-1], input.shape[-1], str(input.dtype))
        layer = _built(name, tuple(sorted(options.items())), *sizes)
        values = [own[variable.name] for variable in layer.trainable_variables]
        fixed = [variable.value for variable in layer.non_trainable_variables]
        mask = None if lengths is None else jnp.arange(input.shape[1])[None, :] < lengths[:, None]
        with contextlib.nullcontext() if own_promotion else _float64_stays_float64():
            (output, *ends), _ = layer.stateless_call(values, fixed, input, initial_state=states, mask=mask)
        ends = [end[None] for end in ends]
        return output, tuple(ends) if len(ends) > 1 else ends[0]

    return call


LSTM = Peer(lstm_parameters, _layer("LSTM"))
LSTM_ZEROED = Peer(lstm_parameters, _layer("LSTM", zero_output_for_mask=True))
LSTM_FLOAT64 = Peer(lstm_parameters, _layer("LSTM", own_promotion=True))
GRU = Peer(gru_parameters, _layer("GRU"))
GRU_BEFORE = Peer(gru_before_parameters, _layer("GRU", reset_after=False))
SIMPLE_RNN = Peer(simple_parameters, _layer("SimpleRNN"))
