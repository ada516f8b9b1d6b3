"""Networks of JAX libraries, compiled ahead of time for the work of a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders.contender import Contender
from benchmarks.jobs import Job


@dataclass(frozen=True)
class Network:
    """A network of a JAX library, written as its users write it."""

    name: str
    params: Any  # what a training step differentiates, beside x
    apply: Callable[
        ..., tuple[jax.Array, Any]
    ]  # (params, x, state, *more): every step's output and the last state
    zeros: Any = None  # the state that a stream begins with; elsewhere, `state` is None
    batch_major: bool = True  # x is [B, T, I] and the output [B, T, D*H]; otherwise T is first
    more: tuple[jax.Array, ...] = ()
    named: Callable[[Any], dict[str, Any]] | None = None  # gradients of params by torch's names
    flops: int | None = None


def contend(network: Network, job: Job, x: np.ndarray) -> Contender:
    """Compile the work of a job, and check the shape of the output."""
    if job.stream:
        return _stream(network, job, x)
    rows = jnp.asarray(np.ascontiguousarray(x.swapaxes(0, 1)) if network.batch_major else x)

    def forward(params: Any, rows: jax.Array, *more: jax.Array) -> jax.Array:
        return network.apply(params, rows, None, *more)[0]

    def loss(params: Any, rows: jax.Array, *more: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(forward(params, rows, *more)))

    arguments = (network.params, rows, *network.more)
    _check_shape(network, jax.eval_shape(forward, *arguments).shape, rows)
    work = jax.grad(loss, argnums=(0, 1)) if job.train else forward
    compiled, seconds = compile_ahead(work, *arguments)

    def results() -> dict[str, np.ndarray]:
        found = {"output": time_major(network, jax.jit(forward)(*arguments))}
        if job.train:
            of_params, of_x = compiled(*arguments)
            found["gradient of input"] = time_major(network, of_x)
            by_name = by_path if network.named is None else network.named
            found |= {f"gradient of {name}": np.asarray(each) for name, each in by_name(of_params).items()}
        return found

    return Contender(
        network.name,
        lambda: jax.block_until_ready(compiled(*arguments)),
        results,
        seconds,
        temp_bytes(compiled),
        network.flops,
    )


def _stream(network: Network, job: Job, x: np.ndarray) -> Contender:
    """Compile one call, which hands the state back to its caller."""
    each_call = x.reshape(job.size.calls, job.size.steps, *x.shape[1:])
    calls = [jnp.asarray(each.swapaxes(0, 1) if network.batch_major else each) for each in each_call]
    compiled, seconds = compile_ahead(network.apply, network.params, calls[0], network.zeros)

    def run() -> list[jax.Array]:
        state, outputs = network.zeros, []
        for each in calls:
            output, state = compiled(network.params, each, state)
            outputs.append(output.block_until_ready())  # the caller has it before there is a next input
        return outputs

    def results() -> dict[str, np.ndarray]:
        return {"output": np.concatenate([time_major(network, each) for each in run()])}

    return Contender(network.name, run, results, seconds, temp_bytes(compiled))


def compile_ahead(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return the compiled function, and the seconds for tracing, lowering and compiling it."""
    started = time.perf_counter()
    compiled = jax.jit(function).trace(*arguments).lower().compile()
    return compiled, time.perf_counter() - started


def temp_bytes(compiled: Any) -> int | None:
    """Return what a compiled program needs beside arguments and results; None where XLA does not say."""
    found = compiled.memory_analysis()
    return None if found is None else int(found.temp_size_in_bytes)


def time_major(network: Network, array: jax.Array) -> np.ndarray:
    """Return what a network returned as [T, B, features]."""
    return np.asarray(array).swapaxes(0, 1) if network.batch_major else np.asarray(array)


def by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by where they stand."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shape(network: Network, shape: tuple[int, ...], rows: jax.Array) -> None:
    if shape[:-1] != rows.shape[:-1]:
        raise ValueError(f"{network.name} returns {shape} for {rows.shape}, expected every step's output.")
