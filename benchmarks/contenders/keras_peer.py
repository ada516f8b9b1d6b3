"""Keras 3 on JAX: its layers called without state of their own, `keras.layers.Bidirectional`, stacked by hand."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = importlib.import_module("keras")
if keras.backend.backend() != "jax":
    raise UnsupportedError(f"runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")

_LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "rnn": ("SimpleRNN", {}),
    "relu": ("SimpleRNN", {"activation": "relu"}),
    "gru": ("GRU", {}),
    "lstm": ("LSTM", {}),
}


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield the stacked layers."""
    if job.kind not in _LAYERS:
        raise UnsupportedError(f"keras has no {job.kind} layer")
    size, (name, options) = job.size, _LAYERS[job.kind]
    layers, features = [], size.input_features
    for _ in range(size.layers):
        layer = getattr(keras.layers, name)(
            size.hidden_features, return_sequences=True, return_state=True, **options
        )
        layers.append(layer if size.directions == 1 else keras.layers.Bidirectional(layer))
        layers[-1].build((None, None, features))
        features = size.output_features
    params = [[variable.value for variable in layer.trainable_variables] for layer in layers]
    fixed = [[variable.value for variable in layer.non_trainable_variables] for layer in layers]

    def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        for layer, own, others in zip(layers, params, fixed, strict=True):
            (x, *last), _ = layer.stateless_call(own, others, x, initial_state=state)
        return x, last

    zeros = jnp.zeros((size.batch, size.hidden_features))
    begin = [zeros] * (2 if job.kind == "lstm" else 1)
    yield contend(Network(f"keras {name}", params, apply, begin), job, x)
