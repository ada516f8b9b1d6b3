"""The state of a training run: modules and optimizers as nested dicts of arrays, in memory and on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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


def _named(tree: PyTree) -> dict[str, jax.Array]:
    """Leaves by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def describe(tree: PyTree) -> dict[str, str]:
    """Say of which dtype and shape each leaf is, by dotted path."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _named(tree).items()}


def differences(came: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Say in which entries two descriptions differ (the first five)."""
    differing = [
        f"{name or 'it'}: {came.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in [*expected, *(name for name in came if name not in expected)]
        if came.get(name) != expected.get(name)
    ]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    return "; ".join(differing[:5]) + more + "."


# Checkpoints


def _manager(path: Path) -> Any:
    """Open orbax's manager; imported here, as a run without checkpoints has no need of it."""
    import orbax.checkpoint as ocp

    # Synchronous: an epoch handed out is on the disk. What a killed run left half-written is removed.
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(path, options=options)


def save(path: Path, step: int, tree: PyTree, facts: Mapping[str, Any]) -> None:
    """Write a tree of arrays and JSON facts as the checkpoint of `step`, in place of the one before it."""
    import orbax.checkpoint as ocp

    arrays = {name: _without_key_type(leaf) for name, leaf in _named(tree).items()}
    with _manager(path) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays),
                facts=ocp.args.JsonSave({**facts, "arrays": describe(tree)}),
            ),
        )


def load(path: Path, template: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
    """Arrays in the form of ``template`` and facts of the latest checkpoint; None where there is none."""
    import orbax.checkpoint as ocp

    with _manager(path) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        facts = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        if facts["arrays"] != describe(template):
            raise ValueError(
                f"checkpoint {path} is of another run. {differences(facts['arrays'], describe(template))} "
                "Build the model, optimizer, carry and validation of that run, or give another directory."
            )
        leaves = _named(template)
        stored = ocp.args.StandardRestore({name: _without_key_type(leaf) for name, leaf in leaves.items()})
        arrays = manager.restore(step, args=ocp.args.Composite(arrays=stored)).arrays
    revived = [_with_key_type(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), revived), facts


def _without_key_type(leaf: jax.Array) -> jax.Array:
    """Turn a PRNG key into its integers; other arrays pass."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _with_key_type(leaf: jax.Array, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like))
    return leaf
