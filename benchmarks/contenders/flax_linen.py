"""flax.linen: `nn.RNN` over its cells, `nn.Bidirectional`, layers stacked by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.flax_cells import cells_of
from benchmarks.jobs import Job


def contenders(job: Job, x: np.ndarray) -> Iterator[Contender]:
    """Yield one contender for each cell."""
    for name, cell in cells_of(nn, job.kind).items():
        yield contend(_network(f"linen {name}", cell, job), job, x)


class Stack(nn.Module):
    """Layers one upon the other."""

    cell: Callable[..., Any]
    hidden_features: int
    depth: int
    directions: int

    @nn.compact
    def __call__(self, x: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        """Return the last layer's outputs and carry."""
        for _ in range(self.depth):
            ways = [nn.RNN(self.cell(self.hidden_features)) for _ in range(self.directions)]
            layer = ways[0] if len(ways) == 1 else nn.Bidirectional(ways[0], ways[1])
            last, x = layer(x, initial_carry=carry, return_carry=True)
        return x, last


def _network(name: str, cell: Callable[..., Any], job: Job) -> Network:
    size = job.size
    stack = Stack(cell, size.hidden_features, size.layers, size.directions)
    params = stack.init(jax.random.key(job.seed), jnp.zeros((1, 1, size.input_features)), None)
    zeros = jnp.zeros((size.batch, size.hidden_features))
    return Network(name, params, stack.apply, (zeros, zeros) if job.kind == "lstm" else zeros)
