"""flax.nnx: `nnx.RNN` over its cells, `nnx.Bidirectional`, layers stacked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.flax_cells import cells_of
from benchmarks.jobs import Job


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield one contender for each cell."""
    for name, cell in cells_of(nnx, job.kind).items():
        yield contend(_network(f"nnx {name}", cell, job), job, x)


class Stack(nnx.Module):
    """Layers one upon the other."""

    def __init__(self, cell: Callable[..., Any], job: Job) -> None:
        rngs, size, features = nnx.Rngs(job.seed), job.size, job.size.input_features
        layers = []
        for _ in range(size.layers):
            ways = [nnx.RNN(cell(features, size.hidden_features, rngs=rngs)) for _ in range(size.directions)]
            layers.append(ways[0] if len(ways) == 1 else nnx.Bidirectional(ways[0], ways[1]))
            features = size.output_features
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        """Return the last layer's outputs and carry."""
        for layer in self.layers:
            last, x = layer(x, initial_carry=carry, return_carry=True)
        return x, last


def _network(name: str, cell: Callable[..., Any], job: Job) -> Network:
    structure, params, *rest = nnx.split(Stack(cell, job), nnx.Param, ...)

    def apply(params: nnx.State, x: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        # Copied, because a call counts on the streams of random numbers, which are made outside of its trace.
        return nnx.merge(structure, params, *rest, copy=True)(x, carry)

    zeros = jnp.zeros((job.size.batch, job.size.hidden_features))
    return Network(name, params, apply, (zeros, zeros) if job.kind == "lstm" else zeros)
