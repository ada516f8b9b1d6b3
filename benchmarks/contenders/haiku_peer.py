"""Haiku: `hk.dynamic_unroll` of its cores, which has one direction, layers stacked by hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job

hk = importlib.import_module("haiku")

_CORES = {"relu": "VanillaRNN", "gru": "GRU", "lstm": "LSTM"}  # VanillaRNN has a rectifier


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield the unrolled core, time-major as `hk.dynamic_unroll` is."""
    if job.kind not in _CORES:
        raise UnsupportedError(f"haiku has no {job.kind} core")
    if job.size.directions == 2:
        raise UnsupportedError("haiku has no bidirectional unroll")
    size, name = job.size, _CORES[job.kind]

    def unrolled(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        for _ in range(size.layers):
            core = getattr(hk, name)(size.hidden_features)
            begin = core.initial_state(x.shape[1]) if state is None else state
            x, last = hk.dynamic_unroll(core, x, begin)
        return x, last

    network = hk.without_apply_rng(hk.transform(unrolled))
    params = network.init(jax.random.key(job.seed), jnp.zeros((1, 1, size.input_features)), None)
    zeros = jnp.zeros((size.batch, size.hidden_features))
    state = hk.LSTMState(zeros, zeros) if job.kind == "lstm" else zeros
    yield contend(Network(f"haiku {name}", params, network.apply, state, batch_major=False), job, x)
