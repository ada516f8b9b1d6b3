"""Equinox: `lax.scan` of its cells, `jax.vmap` over the rows of a batch; one direction, layers stacked by hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job

eqx = importlib.import_module("equinox")

_CELLS = {"gru": "GRUCell", "lstm": "LSTMCell"}


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield the scanned cell."""
    if job.kind not in _CELLS:
        raise UnsupportedError(f"equinox has no {job.kind} cell")
    if job.size.directions == 2:
        raise UnsupportedError("equinox has no bidirectional layer")
    size, features, layers = job.size, job.size.input_features, []
    for key in jax.random.split(jax.random.key(job.seed), size.layers):
        layers.append(getattr(eqx.nn, _CELLS[job.kind])(features, size.hidden_features, key=key))
        features = size.hidden_features
    params, rest = eqx.partition(layers, eqx.is_array)
    zeros = jnp.zeros((size.batch, size.hidden_features))

    def one_row(layers: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        for cell in layers:

            def step(state: Any, x_t: jax.Array, cell: Any = cell) -> tuple[Any, jax.Array]:
                state = cell(x_t, state)
                return state, state[0] if job.kind == "lstm" else state

            last, x = lax.scan(step, state, x)
        return x, last

    def apply(params: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        state = begin if state is None else state
        return jax.vmap(one_row, (None, 0, 0))(eqx.combine(params, rest), x, state)

    begin = (zeros, zeros) if job.kind == "lstm" else zeros
    yield contend(Network(f"equinox {_CELLS[job.kind]}", params, apply, begin), job, x)
