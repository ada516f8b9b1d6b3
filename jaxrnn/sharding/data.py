"""Data parallelism: each device takes rows of the batch, and gradients meet once, after all loops over time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxrnn.sharding.common import agreed, axis_at, check_mesh, check_rows, leaf_specs, of_shard, on_each

Tree = Any  # of arrays


def data_parallel(
    loss: Callable[..., tuple[Any, ...]],
    mesh: Mesh,
    batch_specs: tuple[Any, ...],
    *,
    axis: str = "data",
    aux_specs: Any = None,
) -> Callable[..., Any]:
    """Return the mean of `loss` over a batch whose rows are spread over the devices along an axis of the mesh.

    ``loss(model, *batch)`` returns two numbers: a sum over the rows that it is given, and the count of what was
    summed. On D devices, each with its own rows, the result is::

        mean(model, *batch) = Σ_d sum_d / Σ_d count_d

    so shards of ragged rows weigh what they hold, and a shard without a valid step weighs nothing. Example::

        def loss(model, x, y, lengths):
            each = jnp.square(model(x, lengths=lengths)[0] - y)          # [T, B, R], zero beyond a row's length
            return each.sum(), lengths.sum() * y.shape[-1]

        rows = jax.P(None, "data")
        mean = jaxrnn.sharding.data_parallel(loss, mesh, (rows, rows, jax.P("data")))
        value, gradients = nnx.value_and_grad(mean)(model, x, y, lengths)

    Each device computes the gradient of its own sum from beginning to end. One round of reductions follows, and no
    loop holds one, whatever the backend. Under automatic partitioning it depends on the compiler whether gradients
    that a loop adds up are reduced after it or in each of its rounds (`docs/scaling.md` counts them).

    * `model`: an `nnx.Module`, or any tree of arrays; the same on all devices. Random streams go on as after one
      call, and each device draws by keys of its own. What else a module changes, running statistics, is averaged.
    * `batch_specs`: a `PartitionSpec` per argument, or a tree of them, as for `jax.shard_map`; they name `axis`
      where the rows are. An argument without rows, the same on all devices, has ``PartitionSpec()``.
    * `aux_specs`: with it, `loss` returns a third value, of these specs, and the result is ``(mean, third)``, for
      ``has_aux=True``: the states at the end of a window, say. No gradient flows through it. What its specs leave
      on all devices has to be the same on them.

    The count is a constant to the gradient. A penalty of the weights is multiplied by the count. Over no element at
    all the mean is NaN, and its gradient zero. Gradients with respect to all arguments are there; forward mode and
    second derivatives are not. The loss may spread units or time over other axes of the mesh. Compiled code cannot
    look at lengths: check them before (`jaxrnn.lengths.check_lengths`).

    Raises:
        ValueError: no such axis; rows that the devices cannot share evenly, or none; a sum that is no scalar.
        TypeError: a loss that returns something else.
    """
    check_mesh(mesh, axis)
    shards = _Shards(loss, mesh, batch_specs, axis, aux_specs)
    compiled = jax.jit(shards.mean, static_argnums=0)

    def mean(model: Any, *batch: Any) -> Any:
        if len(batch) != len(batch_specs):
            raise TypeError(
                f"the loss takes a model and {len(batch_specs)} arguments, one for each of batch_specs, "
                f"got {len(batch)}."
            )
        check_rows(batch, batch_specs, mesh, axis)
        structure, *state = nnx.split(model, nnx.Param, nnx.RngKey, nnx.Variable, ...)
        value, (aux, changed) = compiled(structure, (tuple(state), batch))
        aux, changed = lax.stop_gradient((aux, changed))
        if jax.tree.leaves(changed):
            nnx.update(model, changed)
        return value if aux_specs is None else (value, *aux)

    return mean


class _Shards:
    """A loss, and how its arguments lie on the devices."""

    def __init__(
        self, loss: Callable[..., Any], mesh: Mesh, batch_specs: Tree, axis: str, aux_specs: Tree
    ) -> None:
        self.loss, self.mesh, self.batch_specs, self.axis = loss, mesh, batch_specs, axis
        self.aux_specs = () if aux_specs is None else (aux_specs,)

    def mean(self, structure: Any, arrays: Tree) -> tuple[jax.Array, Tree]:
        """Return the mean, and what came with it. Asked for its gradient, compute both in one go."""

        @jax.custom_vjp
        def mean(arrays):
            return self._on_all(structure, frozenset(), arrays)[:2]

        def forward(primals):
            leaves, tree = jax.tree.flatten(primals, is_leaf=_is_primal)
            moved = frozenset(n for n, leaf in enumerate(leaves) if leaf.perturbed and _is_float(leaf.value))
            arrays = jax.tree.unflatten(tree, [leaf.value for leaf in leaves])
            value, rest, gradients = self._on_all(structure, moved, arrays)
            return (value, rest), (arrays, dict(zip(sorted(moved), gradients, strict=True)))

        def backward(kept, cotangents):
            arrays, gradients = kept
            leaves, tree = jax.tree.flatten(arrays)
            scaled = [
                (cotangents[0] * gradients[n]).astype(leaf.dtype) if n in gradients else None
                for n, leaf in enumerate(leaves)
            ]
            return (jax.tree.unflatten(tree, scaled),)

        mean.defvjp(forward, backward, symbolic_zeros=True)
        return mean(arrays)

    def _on_all(self, structure: Any, moved: frozenset[int], arrays: Tree) -> tuple[jax.Array, Tree, Tree]:
        """Return the mean, what came with it, and its gradients with respect to the leaves that are `moved`."""
        everywhere, specs = PartitionSpec(), ((PartitionSpec(),) * 4, self.batch_specs)
        flat_specs = leaf_specs(specs, arrays)
        whole = {n for n in moved if axis_at(flat_specs[n], self.axis) is None}
        in_shard = on_each(
            partial(self._in_shard, structure, sorted(moved), whole),
            self.mesh,
            self.axis,
            specs,
            (everywhere, (self.aux_specs, everywhere), [flat_specs[n] for n in sorted(moved)]),
        )
        return in_shard(*arrays)

    def _in_shard(self, structure, moved, whole, state, batch):
        weights, keys, changing, rest = state
        shard = lax.axis_index(self.axis)
        keys = jax.tree.map(partial(of_shard, shard), keys)
        leaves, tree = jax.tree.flatten(((weights, keys, changing, rest), batch))

        def total(given):
            all_leaves = [given.get(n, leaf) for n, leaf in enumerate(leaves)]
            (weights, *others), batch = jax.tree.unflatten(tree, all_leaves)
            model = nnx.merge(structure, weights, *others)
            value, count, *aux = _checked(self.loss(model, *batch), aux=bool(self.aux_specs))
            changed = nnx.state(model, nnx.All(nnx.Variable, nnx.Not(nnx.Any(nnx.Param, nnx.RngKey))))
            return value, (jnp.asarray(count, value.dtype), tuple(aux), changed)

        given = {n: leaves[n] for n in moved}
        (value, (count, aux, changed)), gradients = jax.value_and_grad(total, has_aux=True)(given)
        value, count, reduced = lax.psum((value, count, {n: gradients[n] for n in whole}), self.axis)
        count_or_one = jnp.where(count == 0, 1, count)
        gradients = [(gradients | reduced)[n] / count_or_one for n in moved]
        return value / count, (aux, agreed(changing, changed, self.axis)), gradients


def _checked(result: Any, aux: bool) -> tuple[Any, ...]:
    """Return what a loss returned, its sum in float32 or wider."""
    if not isinstance(result, tuple) or len(result) != (3 if aux else 2):
        wanted = "(sum, count, aux), since aux_specs are given" if aux else "(sum, count)"
        raise TypeError(
            f"the loss should return {wanted}, got {type(result).__name__}. A mean over a shard is its sum and the "
            "number of its elements: each.sum(), each.size."
        )
    value, count, *rest = result
    if jnp.ndim(value) or jnp.ndim(count):
        raise ValueError(
            f"the loss should return its sum and count as scalars, got shapes {jnp.shape(value)} and "
            f"{jnp.shape(count)}."
        )
    return jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32)), count, *rest


def _is_primal(value: Any) -> bool:
    return isinstance(value, jax.custom_derivatives.CustomVJPPrimal)


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)
