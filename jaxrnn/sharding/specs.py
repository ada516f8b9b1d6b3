"""What says where arrays lie: meshes and `PartitionSpec`s, checked and spread over trees."""

from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any


def leaf_specs(specs: Tree, tree: Tree) -> list[PartitionSpec]:
    """Return the spec of each leaf of a tree, given a tree of specs that begins like it."""
    spread = jax.tree.broadcast(specs, tree, is_leaf=_is_spec)
    return jax.tree.leaves(spread, is_leaf=_is_spec)


def placed(tree: Tree, mesh: Mesh, specs: Tree) -> Tree:
    """Return arrays as `jax.shard_map` takes them: on a mesh of explicit axes, it wants to find them in their places."""
    if AxisType.Explicit not in mesh.axis_types:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    shardings = [NamedSharding(mesh, spec) for spec in leaf_specs(specs, tree)]
    return structure.unflatten(map(jax.reshard, leaves, shardings))


def of_shard(shard: jax.Array, key: jax.Array) -> jax.Array:
    """Return a key, or keys, that no other shard has."""
    if key.ndim:
        return jax.vmap(partial(of_shard, shard))(key)
    return jax.random.fold_in(key, shard)


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
    """Raise unless some argument has rows along an axis of the mesh, and each as many as its devices share evenly."""
    leaves, places = jax.tree_util.tree_leaves_with_path(batch), leaf_specs(specs, batch)
    if all(axis_at(spec, axis) is None for spec in places):
        raise ValueError(
            f"no argument is spread along {axis!r}: batch_specs={specs}. Name the axis of rows, "
            f"PartitionSpec(None, {axis!r}) for [T, B, ...]."
        )
    for (path, leaf), spec in zip(leaves, places, strict=True):
        at = axis_at(spec, axis)
        if at is not None:
            name = f"argument {jax.tree_util.keystr(path)} of shape {leaf.shape}, axis {at}"
            check_divides(name, leaf.shape[at], mesh, axis, "Fill up with rows of length 0: they count nothing.")


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)
