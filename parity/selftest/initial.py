"""Mutants of new layers: weights drawn from another distribution than torch's, found over many draws.

Two samples are of one distribution unless their cumulative shares are as far apart as Smirnov's test allows to a
billionth of honest pairs. Asked are the elements of a parameter and the norms of its rows: those of an orthogonal
matrix are all 1, whatever its elements look like.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

import jaxrnn
from parity.faults.initial import GATES, INITIAL, InitialFault
from parity.gates import Array
from parity.selftest.trial import Trial
from parity.verdict import (
    DIVERGENT,
    EQUIVALENT,
    EXPLAINS,
    CaseResult,
    Comparison,
    Diagnosis,
    Explanation,
    TensorResult,
)

FAMILY = "initial"
FEATURES, HIDDEN, DRAWS = 6, 16, 256
FALSE_ALARMS = 1e-9  # of one sample
SHAPES = {
    "weight_ih": (GATES * HIDDEN, FEATURES),
    "weight_hh": (GATES * HIDDEN, HIDDEN),
    "bias_ih": (GATES * HIDDEN,),
    "bias_hh": (GATES * HIDDEN,),
}
Weights = Mapping[str, Any]  # by the names of SHAPES
New = Callable[[jax.Array], Weights]  # the weights of a new layer, given a key


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant."""
    for fault in INITIAL:
        judge = functools.partial(judge_initial, MUTANTS[fault.id], fault.name)
        yield Trial(fault.id, fault.name, FAMILY, "LSTM", fault.gate, judge)


def judge_initial(new: New, name: str = "") -> CaseResult:
    """Judge how new weights are drawn by how torch draws them; where it is another distribution, say which."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = {part: np.asarray(values, np.float64) for part, values in jax.vmap(new)(keys).items()}
    tensors = tuple(_compared(part, found[part], expected) for part, expected in _of_torch().items())
    comparison = Comparison(f"{DRAWS} draws", tensors, len(SHAPES), oracle=f"{DRAWS} LSTMs of torch")
    result = CaseResult("LSTM", name, (comparison,))
    if result.verdict != DIVERGENT:
        return result
    scores = sorted((_explanation(fault, found) for fault in INITIAL), key=lambda each: each.misfit)
    explaining = tuple(each for each in scores if each.misfit <= EXPLAINS)
    diagnosis = Diagnosis(explaining, scores[len(explaining)], len(scores))
    return dataclasses.replace(result, diagnosis=diagnosis)


@functools.cache
def _of_torch() -> dict[str, Array]:
    torch = importlib.import_module("torch")
    drawn: dict[str, list[Array]] = {part: [] for part in SHAPES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(DRAWS):
            layer = torch.nn.LSTM(FEATURES, HIDDEN)
            for part, values in drawn.items():
                values.append(getattr(layer, f"{part}_l0").detach().numpy())
    return {part: np.stack(values).astype(np.float64) for part, values in drawn.items()}


def _compared(part: str, found: Array, expected: Array) -> TensorResult:
    distance = _distance(found, expected)
    verdict, gate, message = EQUIVALENT, None, ""
    if distance > 1.0:
        verdict, gate = DIVERGENT, "distribution"
        deviations = f"deviation {np.std(found):.3g} here, {np.std(expected):.3g} in torch"
        message = f"drawn from another distribution: {deviations}"
    shape = SHAPES[part]
    return TensorResult(part, part, "param", verdict, shape, "float32", True, gate, message)


def _explanation(fault: InitialFault, found: Mapping[str, Array]) -> Explanation:
    rng = np.random.default_rng(0)
    distances = []
    for part, draw in fault.draws.items():
        supposed = np.stack([draw(rng, SHAPES[part], HIDDEN) for _ in range(DRAWS)])
        distances.append(_distance(found[part], supposed))
    return Explanation(fault.id, fault.name, fault.fix, EXPLAINS * max(distances))


def _distance(one: Array, other: Array) -> float:
    """Return how far two samples of draws `[draws, ...]` are apart, in units of what is still honest."""
    distances = [_smirnov(one.ravel(), other.ravel())]
    if one.ndim == 3:
        distances.append(_smirnov(*(np.linalg.norm(each, axis=-1).ravel() for each in (one, other))))
    return max(distances)


def _smirnov(one: Array, other: Array) -> float:
    """Return the largest distance of two cumulative shares, over its limit."""
    # Norms that are equal but for a rounding are one value.
    one, other = (np.sort(np.round(each, 5)) for each in (one, other))
    places = np.concatenate([one, other])
    shares = (np.searchsorted(each, places, side="right") / len(each) for each in (one, other))
    limit = math.sqrt(-0.5 * math.log(FALSE_ALARMS / 2) * (1 / len(one) + 1 / len(other)))
    return float(np.max(np.abs(next(shares) - next(shares)))) / limit


# The mutants ---------------------------------------------------------------------------------------------------


def of_jaxrnn(key: jax.Array) -> Weights:
    """Return the weights of a new layer of jaxrnn."""
    layer = jaxrnn.LSTM(FEATURES, HIDDEN, rngs=nnx.Rngs(key))
    return {part: getattr(layer, f"{part}_l0")[...] for part in SHAPES}


def _of_flax(key: jax.Array) -> Weights:
    cell: Any = nnx.LSTMCell(FEATURES, HIDDEN, rngs=nnx.Rngs(key))
    inputs, states = ((cell.ii, cell.if_, cell.ig, cell.io), (cell.hi, cell.hf, cell.hg, cell.ho))
    biases = jnp.concatenate([linear.bias[...] for linear in states])
    return {
        "weight_ih": jnp.concatenate([linear.kernel[...].T for linear in inputs]),
        "weight_hh": jnp.concatenate([linear.kernel[...].T for linear in states]),
        "bias_ih": jnp.zeros_like(biases),
        "bias_hh": biases,
    }


def _of_keras(key: jax.Array) -> Weights:
    """As `keras.layers.LSTM` has it, by JAX's initializers of the same names."""
    kernels = {"weight_ih": initializers.glorot_uniform(), "weight_hh": initializers.orthogonal()}
    drawn = {
        part: make(jax.random.fold_in(key, n), SHAPES[part][::-1]).T
        for n, (part, make) in enumerate(kernels.items())
    }
    bias = jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), HIDDEN)
    return {**drawn, "bias_ih": bias, "bias_hh": jnp.zeros_like(bias)}


def _of_linears(key: jax.Array) -> Weights:
    scaled = (FEATURES / HIDDEN) ** -0.5
    return {part: scaled * each if part == "weight_ih" else each for part, each in of_jaxrnn(key).items()}


def _without_biases(key: jax.Array) -> Weights:
    return {part: 0.0 * each if "bias" in part else each for part, each in of_jaxrnn(key).items()}


MUTANTS: dict[str, New] = {
    "N13": _of_flax,
    "N13-keras": _of_keras,
    "N13-fan-in": _of_linears,
    "N13-bias": _without_biases,
}
