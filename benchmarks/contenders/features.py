"""What the layer's features cost: jaxrnn plain, and with lengths, with resets, with both, with a projection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import ours
from benchmarks.contenders.compiling import contend
from benchmarks.contenders.contender import Contender
from benchmarks.jobs import OURS, Job


class _Feature(NamedTuple):
    name: str
    inputs: dict[str, jax.Array]  # of each call, beside x
    options: dict[str, Any]  # of the constructor
    flops: int | None = None


def contenders(job: Job, x: np.ndarray) -> Iterator[tuple[Contender, Contender]]:
    """Yield the layer as it is and with each feature, and beside it what it must compute: the plain scan."""
    for feature in _features(job):
        layer, plain = (
            ours.build(job, None, **feature.options, implementation=implementation)
            for implementation in (None, "reference")
        )
        yield (
            contend(ours.as_network(feature.name, layer, feature.inputs, flops=feature.flops), job, x),
            contend(ours.as_network(feature.name, plain, feature.inputs), job, x),
        )


def _features(job: Job) -> Iterator[_Feature]:
    """Yield no feature, rows of every length, a new sequence at one step in 20, both, and a projection to H/2."""
    rng, size = np.random.default_rng(job.seed), job.size
    lengths = rng.integers(1, size.steps, size.batch, endpoint=True)
    lengths[0] = size.steps
    resets = rng.random((size.steps, size.batch)) < 0.05
    ragged, marked = {"lengths": jnp.asarray(lengths)}, {"resets": jnp.asarray(resets)}
    yield _Feature(OURS, {}, {})
    yield _Feature("+ lengths", ragged, {})
    yield _Feature("+ resets", marked, {})
    yield _Feature("+ lengths, resets", ragged | marked, {})
    if job.kind == "lstm" and size.hidden_features > 1:
        features = size.hidden_features // 2
        yield _Feature("+ projection", {}, {"proj_size": features}, job.flops(features))
