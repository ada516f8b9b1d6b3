"""What the tests of layers and unrolls share: NumPy draws, and every number of a forward and a backward pass."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrnn import cells
from jaxrnn.cells import Cell, carry_dtype

CELLS = {cell.name: cell for cell in (cells.TANH, cells.RELU, cells.LSTM, cells.GRU, cells.PEEPHOLE_LSTM)}


def mostly_slow(values: Any, *, fast: tuple[Any, ...]) -> list[Any]:
    """Return `values` for a parametrised test, of which the inner loop runs only the `fast` ones."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


def executed(code: str, name: str = "ported") -> dict[str, Any]:
    """Return what code binds, run as a module of this name."""
    found: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec"), found)
    return found


def draw(seed: int, *shape: int) -> np.ndarray:
    """Return standard normal numbers, the same that `tests.torch_ref.common.draw` gives."""
    return np.random.default_rng(seed).standard_normal(shape)


def fill(module: nnx.Module, dtype: Any = jnp.float64) -> Any:
    """Fill every parameter with normal draws, wide enough that gates leave their linear part."""
    params = nnx.state(module, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    drawn = [jnp.asarray(draw(n, *leaf.shape) * 0.5, dtype) for n, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(tree, drawn))
    return module


def trace(module: nnx.Module, x: Any, hx: Any = None, **options: Any) -> dict[str, np.ndarray]:
    """Return output, final states, and the gradients of x, initial states and parameters, by torch's names."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def run(params, x, hx):
        output, final = nnx.merge(graphdef, params, rest)(x, hx, **options)
        final = final if isinstance(final, tuple) else (final,)
        return {"output": output} | {f"{n}_n": s for n, s in zip("hc", final, strict=False)}

    hx = jax.tree.map(jnp.asarray, hx)
    numbers, pull = jax.vjp(run, params, jnp.asarray(x), hx)
    names = [name for name in ("output", "h_n", "c_n") if name in numbers]  # JAX sorts the keys
    cotangents = {
        n: jnp.asarray(draw(90 + k, *numbers[n].shape), numbers[n].dtype) for k, n in enumerate(names)
    }
    d_params, d_x, d_hx = pull(cotangents)
    states = d_hx if isinstance(d_hx, tuple) else () if d_hx is None else (d_hx,)
    numbers |= {"d x": d_x} | {f"d {n}0": s for n, s in zip("hc", states, strict=False)}
    numbers |= {f"d {'.'.join(map(str, path))}": g[...] for path, g in nnx.to_flat_state(d_params)}
    return {name: np.asarray(value) for name, value in numbers.items()}


def rms_error(actual: Any, expected: Any) -> float:
    """Return the root mean square of the difference, relative to that of `expected`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    difference, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    return float(difference / size if size > 0 else difference)


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    """Assert that two traces hold the same names, and the same numbers up to `tolerance`."""
    assert set(actual) == set(expected)
    errors = {name: rms_error(actual[name], expected[name]) for name in expected}
    worst = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worst, worst


def draw_cell(
    cell: Cell, rows: int, steps: int, features: int, hidden: int, *, projected: int = 0, bias: bool = True,
    dtype: Any = jnp.float64,
) -> tuple[dict[str, jax.Array], jax.Array, Any]:  # fmt: skip
    """Return parameters, input [B, T, I] and initial state for an unroll of `cell`."""
    shapes = cell.parameter_shapes(features, hidden, bias=bias, projected_features=projected)
    params = {
        name: jnp.asarray(draw(n, *shape) * 0.5, dtype) for n, (name, shape) in enumerate(shapes.items())
    }
    features_of_state = cell.state_features(hidden, projected)
    state = cell.state(*(jnp.asarray(draw(20 + n, rows, f), dtype) for n, f in enumerate(features_of_state)))
    return params, jnp.asarray(draw(30, rows, steps, features), dtype), state


def scalar(function: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Return `function` reduced to one number: the product of its results with fixed irregular weights."""

    def reduced(*args: Any) -> jax.Array:
        leaves = jax.tree.leaves(function(*args))
        return sum(_weighted(v.astype(carry_dtype(v.dtype))) for v in leaves)  # type: ignore

    return reduced


def _weighted(values: jax.Array) -> jax.Array:
    return jnp.sum(jnp.cos(jnp.arange(values.size, dtype=values.dtype)) * values.ravel())


def printed(module: str, *arguments: str) -> Any:
    """Run a module as a process of its own; return what is in the last line of JSON that it prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
