"""What all ways of spreading share: where arrays lie, what runs on each device, and what modules change there."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrnn.lengths import is_traced

Tree = Any


def leaf_specs(specs: Tree, tree: Tree) -> list[PartitionSpec]:
    """Return the spec of each leaf of a tree, given a tree of specs that begins like it."""
    spread = jax.tree.broadcast(specs, tree, is_leaf=_is_spec)
    return jax.tree.leaves(spread, is_leaf=_is_spec)


def on_each(
    function: Callable[..., Any], mesh: Mesh, axis: str, in_specs: tuple[Tree, ...], out_specs: Tree
) -> Callable[..., Any]:
    """Return `jax.shard_map` of a function along one axis of a mesh, also within that of another axis.

    Replication is not tracked. Tracked, gradients of what all devices share would be summed where it is used, in
    the loops, and a loop's carry that begins the same everywhere could not go on as each device's own.
    """
    within = jax.sharding.get_abstract_mesh()
    run = jax.shard_map(
        function,
        mesh=within if AxisType.Manual in within.axis_types else mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names={axis},
        check_vma=False,
    )
    return lambda *arguments: run(*_placed(arguments, mesh, in_specs))


def _placed(tree: Tree, mesh: Mesh, specs: Tree) -> Tree:
    """Put arrays in their places, where a mesh of explicit axes asks for it."""
    if AxisType.Explicit not in mesh.axis_types:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    specs = leaf_specs(specs, tree)
    laid = [lay(leaf, mesh, spec) for leaf, spec in zip(leaves, specs, strict=True)]
    return jax.tree.unflatten(structure, laid)


def lay(array: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Lay an array on the devices of a mesh, in compiled code too."""
    sharding = NamedSharding(mesh, spec)
    if not is_traced(array):
        return jax.device_put(array, sharding)
    move = jax.reshard if AxisType.Explicit in mesh.axis_types else lax.with_sharding_constraint
    return move(array, sharding)


def of_shard(shard: jax.Array, key: jax.Array) -> jax.Array:
    """Return a key, or keys, that no other shard has."""
    if key.ndim:
        return jax.vmap(partial(of_shard, shard))(key)
    return jax.random.fold_in(key, shard)


def agreed(before: Tree, after: Tree, axis: str) -> Tree:
    """Return what devices that began with the same arrays go on with: integers are the same, numbers averaged."""

    def of(old, new):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + lax.pmean(new - old, axis)  # exactly what it was, where nothing changed it

    return jax.tree.map(of, before, after)


def axis_at(spec: PartitionSpec, axis: str) -> int | None:
    """Return which axis of an array a spec lays along an axis of the mesh."""
    for number, names in enumerate(spec):
        if names == axis or (isinstance(names, tuple) and axis in names):
            return number
    return None


def check_mesh(mesh: Mesh, axis: str) -> int:
    """Return the number of devices along an axis of a mesh."""
    if axis not in mesh.shape:
        raise ValueError(
            f"the mesh has the axes {tuple(mesh.shape)}, none is called {axis!r}. Pass axis=, or make it: "
            f"jax.make_mesh(({len(mesh.devices.flat)},), ({axis!r},))."
        )
    return mesh.shape[axis]


def check_divides(name: str, count: int, mesh: Mesh, axis: str, remedy: str) -> None:
    """Raise unless the devices along an axis can share so many of something evenly."""
    devices = mesh.shape[axis]
    if count % devices:
        raise ValueError(
            f"{name}: {count} cannot be shared evenly by the {devices} devices along {axis!r}. {remedy}"
        )


def check_rows(batch: tuple[Tree, ...], specs: Tree, mesh: Mesh, axis: str) -> None:
    """Raise unless some argument has rows along an axis of the mesh, and its devices can share them evenly."""
    leaves, places = jax.tree_util.tree_leaves_with_path(batch), leaf_specs(specs, batch)
    if all(axis_at(spec, axis) is None for spec in places):
        raise ValueError(
            f"no argument is spread along {axis!r}: batch_specs={specs}. Name the axis of rows, "
            f"PartitionSpec(None, {axis!r}) for [T, B, ...]."
        )
    for (path, leaf), spec in zip(leaves, places, strict=True):
        at = axis_at(spec, axis)
        if at is not None:
            shape = jnp.shape(leaf)
            name = f"argument {jax.tree_util.keystr(path)} of shape {shape}, axis {at}"
            remedy = "Fill up with rows of length 0: they count nothing."
            check_divides(name, shape[at] if at < len(shape) else 1, mesh, axis, remedy)


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)
