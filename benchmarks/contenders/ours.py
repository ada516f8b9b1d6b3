"""jaxrnn: the layer, the same as a user of NNX calls it, the bare `ops.unroll`, the scan, and the plain scan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.contenders.compiling import Network, contend
from benchmarks.contenders.contender import Contender
from benchmarks.jobs import OURS, Job
from jaxrnn import ops
from jaxrnn.ops.native import library

SCAN = f"{OURS}, scan"  # in JAX's operations, where there are compiled kernels to compare it with
PLAIN = "plain scan"  # the meaning: `lax.scan` of the step, differentiated by JAX

LAYERS: Mapping[str, Callable[..., Any]] = {
    "rnn": jaxrnn.RNN,
    "relu": partial(jaxrnn.RNN, nonlinearity="relu"),
    "gru": jaxrnn.GRU,
    "lstm": jaxrnn.LSTM,
    "peephole": jaxrnn.PeepholeLSTM,
}

Weights = Mapping[str, np.ndarray]


def contenders(job: Job, x: np.ndarray, weights: Weights | None) -> Iterator[Contender]:
    """Yield jaxrnn's ways to do the job, all with the same weights: torch's, where there are any."""
    layer = build(job, weights)
    yield contend(as_network(OURS, layer), job, x)
    yield _as_users_do(job, build(job, weights), x)
    if job.stream:
        yield _streamed(job, build(job, weights), x)
    if job.size.layers == 1:
        yield contend(_bare(job, layer), job, x)
    if not job.stream and library.why_missing() is None:
        yield contend(as_network(SCAN, build(job, weights, implementation="scan")), job, x)
    yield contend(as_network(PLAIN, build(job, weights, implementation="reference")), job, x)


def build(job: Job, weights: Weights | None, **options: Any) -> Any:
    """Return the layer of a job, time-major as torch's is."""
    size = job.size
    layer = LAYERS[job.kind](
        size.input_features,
        size.hidden_features,
        size.layers,
        bidirectional=size.directions == 2,
        rngs=nnx.Rngs(job.seed),
        **options,
    )
    if weights is not None:
        jaxrnn.load_state_dict(layer, weights)
    return layer


def as_network(
    name: str, layer: Any, inputs: Mapping[str, jax.Array] | None = None, *, flops: int | None = None
) -> Network:
    """Return a layer split into its structure and its parameters; `inputs` are further arguments of each call."""
    structure, params = nnx.split(layer)
    more = inputs or {}

    def apply(params: nnx.State, x: jax.Array, hx: Any, *values: jax.Array) -> tuple[jax.Array, Any]:
        return nnx.merge(structure, params)(x, hx, **dict(zip(more, values, strict=True)))

    return Network(
        name,
        params,
        apply,
        _zeros(layer),
        batch_major=False,
        more=tuple(more.values()),
        named=_named,
        flops=flops,
    )


def _named(gradients: Any) -> dict[str, Any]:
    return dict(nnx.to_pure_dict(gradients))


def _zeros(layer: Any) -> Any:
    rows = (layer.num_layers * (2 if layer.bidirectional else 1), 1, layer.hidden_size)
    state = tuple(jnp.zeros(rows) for _ in layer.cell.state._fields)
    return state if len(state) > 1 else state[0]


# As users do ----------------------------------------------------------------------------------------------


@nnx.jit
def _train(layer: Any, x: jax.Array) -> Any:
    def loss(layer: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(layer(x)[0]))

    return nnx.value_and_grad(loss, argnums=(0, 1))(layer, x)


@nnx.jit
def _call(layer: Any, *inputs: Any) -> Any:
    return layer(*inputs)


def _as_users_do(job: Job, layer: Any, x: np.ndarray) -> Contender:
    """Call the layer under `nnx.jit`, which takes the object apart and puts it together at every call."""
    name = f"{OURS}, nnx.jit"
    if job.stream:
        calls = [jnp.asarray(each) for each in x.reshape(job.size.calls, job.size.steps, *x.shape[1:])]
        return _called_in_turn(name, partial(_call, layer), calls, _zeros(layer))
    rows = jnp.asarray(x)

    def run() -> Any:
        return jax.block_until_ready(_train(layer, rows) if job.train else _call(layer, rows))

    def results() -> dict[str, np.ndarray]:
        found = {"output": np.asarray(_call(layer, rows)[0])}
        if job.train:
            _, (of_params, of_x) = run()
            found["gradient of input"] = np.asarray(of_x)
            found |= {f"gradient of {name}": np.asarray(each) for name, each in _named(of_params).items()}
        return found

    return _compiled_by_calling(name, run, results)


def _streamed(job: Job, layer: Any, x: np.ndarray) -> Contender:
    """Call what `jaxrnn.stream` makes of the layer."""
    calls = [jnp.asarray(each) for each in x]
    return _called_in_turn(f"{OURS}, stream", jaxrnn.stream(layer), calls, _zeros(layer))


def _called_in_turn(name: str, step: Callable[..., Any], calls: list[jax.Array], state: Any) -> Contender:
    """Call ``y, state = step(x, state)`` for one x after the other, and wait for each result."""

    def run() -> list[jax.Array]:
        hx, outputs = state, []
        for each in calls:
            output, hx = step(each, hx)
            outputs.append(output.block_until_ready())
        return outputs

    def results() -> dict[str, np.ndarray]:
        rows = [np.asarray(each).reshape(-1, *each.shape[-2:]) for each in run()]
        return {"output": np.concatenate(rows)}

    return _compiled_by_calling(name, run, results)


def _compiled_by_calling(
    name: str, run: Callable[[], Any], results: Callable[[], dict[str, np.ndarray]]
) -> Contender:
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return Contender(name, run, results, seconds, note="compile time is the first call's")


# The bare function ----------------------------------------------------------------------------------------


def _bare(job: Job, layer: Any) -> Network:
    """Call `ops.unroll` for each direction, with nothing of Flax around it."""
    cell, suffixes = layer.cell, ("", "_reverse")[: job.size.directions]
    params = {name: jnp.asarray(value) for name, value in jaxrnn.state_dict(layer).items()}
    features = cell.state_features(job.size.hidden_features)

    def apply(params: dict[str, jax.Array], x: jax.Array, states: Any) -> tuple[jax.Array, Any]:
        rows, found = jnp.swapaxes(x, 0, 1), []
        zeros = cell.state(*(jnp.zeros((rows.shape[0], count)) for count in features))
        for index, suffix in enumerate(suffixes):
            own = {name: params[f"{name}_l0{suffix}"] for name in cell.parameter_shapes(1, 1)}
            state = zeros if states is None else states[index]
            found.append(ops.unroll(cell, own, rows, state, reverse=index == 1))
        outputs, finals = zip(*found, strict=True)
        return jnp.swapaxes(jnp.concatenate(outputs, axis=-1), 0, 1), finals

    states = tuple(cell.state(*(jnp.zeros((1, count)) for count in features)) for _ in suffixes)
    return Network(f"{OURS}.ops", params, apply, states, batch_major=False, named=dict)
