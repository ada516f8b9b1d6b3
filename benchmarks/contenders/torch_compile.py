"""torch.compile, where it compiles: torch 2.13 leaves RNN, GRU and LSTM to eager, but not their cells.

`torch._dynamo.config.allow_rnn` would let it unroll them: an LSTM of 48 steps compiles in 80 seconds then.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

import numpy as np

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no workers that compute beside what is timed
import torch
import torch._dynamo

from benchmarks.contenders import torch_nn
from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import Job


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield the compiled layer, in a stream the compiled cell; nothing if torch falls back to eager."""
    layer = torch_nn.build(job)
    torch._dynamo.utils.counters.clear()
    call = torch.compile(torch_nn.build_cell(job, layer) if job.stream else layer)
    name = "torch.compile, cell" if job.stream else "torch.compile"
    contender = torch_nn.contend(name, layer, call, job, x)
    started = time.perf_counter()
    contender.run()
    if not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
        raise UnsupportedError("compiles nothing: Dynamo leaves RNN, GRU and LSTM to eager")
    seconds = time.perf_counter() - started
    yield dataclasses.replace(contender, compile_seconds=seconds, note="compile time is the first call's")
