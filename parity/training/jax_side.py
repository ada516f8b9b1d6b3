"""Training in JAX as one compiled program, a scan over the steps: freely, or a step at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn import checkpoint
from parity.gates import Array
from parity.optimizers.jax_side import is_transformation
from parity.running import jax_side

Loss = Callable[[nnx.Module, Any], jax.Array]  # (model, batch) -> scalar


def train(
    module: nnx.Module,
    weights: Mapping[str, Array],
    loss: Loss,
    optimizer: Any,
    batches: Sequence[Any],
    steps: int,
    dtype: str = "float32",
) -> tuple[Array, Array]:
    """Train from given weights (by torch's names); return the losses and the norms of the gradients, `[steps]`."""
    with _computing(dtype):
        graphdef, params, rest = _loaded(module, weights, dtype)
        data = _stacked(batches, dtype)
        transformation = _transformation(optimizer)

        def step(carry: Any, number: jax.Array) -> tuple[Any, Any]:
            params, state = carry
            value, gradients = _value_and_grad(graphdef, rest, loss)(params, _batch(data, number))
            updates, state = transformation.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), (value, optax.tree.norm(gradients))

        @jax.jit
        def program(params: Any) -> Any:
            return jax.lax.scan(step, (params, transformation.init(params)), jnp.arange(steps))[1]

        losses, norms = program(params)
        return np.asarray(losses, np.float64), np.asarray(norms, np.float64)


def forced(
    module: nnx.Module,
    loss: Loss,
    optimizer: Any,
    batches: Sequence[Any],
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
    checked: Sequence[int],
    dtype: str,
) -> dict[str, Array]:
    """Take a single step from each of a recorded run's parameters; the optimizer remembers that run's gradients.

    Whatever an optimizer remembers, in whatever form, it has from gradients: given the recorded ones it comes
    to the state that the recorded run's optimizer is in, and none of it has to be translated. Returns what
    `parity.training.torch_side.forced` does.
    """
    with _computing(dtype):
        steps = max(checked) + 1
        first = {name: values[0] for name, values in parameters.items()}
        graphdef, start, rest = _loaded(module, first, dtype)
        data = _stacked(batches, dtype)
        transformation = _transformation(optimizer)
        places = _states(module, parameters, steps, dtype)
        replayed = _states(module, gradients, steps, dtype)

        def step(state: Any, given: Any) -> tuple[Any, Any]:
            number, params, recorded = given
            value, own = _value_and_grad(graphdef, rest, loss)(params, _batch(data, number))
            updates, _ = transformation.update(own, state, params)
            _, state = transformation.update(recorded, state, params)
            return state, (value, own, optax.apply_updates(params, updates))

        @jax.jit
        def program(start: Any, places: Any, replayed: Any) -> Any:
            numbers = jnp.arange(steps)
            return jax.lax.scan(step, transformation.init(start), (numbers, places, replayed))[1]

        values, own, stepped = program(start, places, replayed)
        found: dict[str, Array] = {}
        for number in checked:
            found[f"loss{number + 1}"] = np.asarray(values[number])
            for kind, tree in (("grad", own), ("step", stepped)):
                picked = jax.tree.map(lambda leaf, number=number: leaf[number], tree)
                for name, value in jax_side.parameters(nnx.merge(graphdef, picked, rest)).items():
                    found[f"{kind}{number + 1}({name})"] = value
        return found


def _transformation(optimizer: Any) -> Any:
    made = optimizer if is_transformation(optimizer) else optimizer(lambda step: 1.0)
    return optax.with_extra_args_support(made)


def _value_and_grad(graphdef: Any, rest: Any, loss: Loss) -> Callable[..., Any]:
    def objective(params: Any, batch: Any) -> jax.Array:
        return loss(nnx.merge(graphdef, params, rest, copy=True), batch)

    return jax.value_and_grad(objective)


def _loaded(module: nnx.Module, weights: Mapping[str, Array], dtype: str) -> tuple[Any, Any, Any]:
    module = nnx.clone(module)
    checkpoint.load_parameters(module, weights)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    return graphdef, _cast(params, dtype), _cast(rest, dtype)


def _states(module: nnx.Module, arrays: Mapping[str, Array], steps: int, dtype: str) -> Any:
    """Put arrays by torch's names, `[steps, ...]`, into the shape of the parameters' state, all steps at once.

    Where each number of the state comes from is found by loading numbers that say where they are.
    """
    flat = np.concatenate([values[:steps].reshape(steps, -1) for values in arrays.values()], axis=1)
    if flat.shape[1] >= 2**24:
        raise ValueError(f"{flat.shape[1]} parameters: single steps are taken of models below 16 million.")
    ends = np.cumsum([values[0].size for values in arrays.values()])[:-1]
    places = np.split(np.arange(flat.shape[1], dtype=np.float32), ends)
    marks = {
        name: place.reshape(values[0].shape)
        for (name, values), place in zip(arrays.items(), places, strict=True)
    }
    _, marked, _ = _loaded(module, marks, "float32")
    return jax.tree.map(lambda leaf: jnp.asarray(flat[:, np.asarray(leaf).astype(int)], dtype), marked)


def _cast(tree: Any, dtype: str) -> Any:
    def cast(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _stacked(batches: Sequence[Any], dtype: str) -> Any:
    def stacked(*leaves: Any) -> jax.Array:
        values = np.stack([np.asarray(leaf) for leaf in leaves])
        if values.dtype.kind in "iub":
            return jnp.asarray(values)
        return jnp.asarray(values.astype(np.float32), dtype)

    return jax.tree.map(stacked, *batches)


def _batch(data: Any, number: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[number % len(leaf)], data)


@contextlib.contextmanager
def _computing(dtype: str) -> Any:
    x64 = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
    with x64, jax.default_matmul_precision("highest"):
        yield
