"""The state of a training run in memory: modules, optimizers and carries as arrays by dotted name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

PyTree = Any

NOT_RANDOM = nnx.Not(nnx.RngState)


def pure(node: Any, wanted: Any = ...) -> PyTree:
    """Arrays of a module or optimizer; later training does not change them."""
    return nnx.to_pure_dict(nnx.state(node, wanted))


def replace(node: Any, arrays: PyTree, wanted: Any = ...) -> None:
    """Put ``pure(node, wanted)`` back."""
    state = nnx.state(node, wanted)
    nnx.replace_by_pure_dict(state, arrays)
    nnx.update(node, state)


def named(tree: PyTree) -> dict[str, Any]:
    """Leaves by dotted path; what is no array is refused."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    for name, leaf in found.items():
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(
                f"{name}: expected an array, got {type(leaf).__name__}; make it one with jnp.asarray, or put what "
                "JSON can hold into `facts`."
            )
    return found


def describe(tree: PyTree) -> dict[str, str]:
    """Say of which dtype and shape each leaf is, by dotted path."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named(tree).items()}


def differences(came: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say in which entries two descriptions differ (the first five)."""
    differing = [
        f"{name or 'it'}: {came.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in [*expected, *(name for name in came if name not in expected)]
        if came.get(name) != expected.get(name)
    ]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    return "; ".join(differing[:5]) + more + "."


def to_store(tree: PyTree) -> dict[str, Any]:
    """Leaves as orbax takes them, by dotted path: PRNG keys as integers, a process's own arrays in NumPy."""
    return {name: _to_store(leaf) for name, leaf in named(tree).items()}


def from_store(stored: Mapping[str, Any], template: PyTree) -> PyTree:
    """Undo ``to_store``: a tree like ``template``, where JAX may still place what it may place there."""
    leaves = [_from_store(stored[name], leaf) for name, leaf in named(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def may_be_moved(leaf: Any) -> bool:
    """Whether it is in JAX's hands where an array lies: nobody has put it onto a device or a mesh."""
    return isinstance(leaf, jax.Array) and not leaf.committed


def _to_store(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # Such an array, a counter for example, is the same in all processes; orbax stores it once if it is NumPy's.
    return np.asarray(leaf) if may_be_moved(leaf) and jax.process_count() > 1 else leaf


def _from_store(stored: Any, like: Any) -> Any:
    if isinstance(like, jax.Array):
        stored = jnp.asarray(stored)
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(like))
    return stored
