"""The recurrence by both kernels, as one operation that JAX can transform in every way."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell
from jaxrnn.ops import loop, scan
from jaxrnn.ops.joined_rows import join
from jaxrnn.ops.loop import Layer, Recurrence
from jaxrnn.ops.pallas_tpu import chunks
from jaxrnn.ops.pallas_tpu.backward import Gradients
from jaxrnn.ops.pallas_tpu.blocks import Blocks
from jaxrnn.ops.pallas_tpu.forward import Written
from jaxrnn.ops.pallas_tpu.operands import cut_features, pack, pad_features, pad_rows
from jaxrnn.ops.pallas_tpu.sizes import Size, block_rows, round_up
from jaxrnn.ops.planning import LANES, Plan
from jaxrnn.ops.primitives import Operation


class _Static(NamedTuple):
    """What is known when a call is compiled."""

    blocks: Blocks
    structure: Any  # of the operands, a `Recurrence`


def by_kernels(vmem_bytes: int, *, interpret: Any = False) -> scan.Recur:
    """Return the recurrence by kernels that may take so much of a chip's fast memory.

    With `interpret`, a CPU does what they say.
    """

    def run(
        cell: Cell,
        plan: Plan,
        reverse: tuple[bool, ...],
        precision: lax.PrecisionLike,
        inputs: tuple[Recurrence, ...],
    ) -> scan.Outputs:
        (one,), (backwards,) = inputs, reverse
        narrow = loop.output_dtype(one)
        hidden = one.states[0].h.shape[-1]
        blocks = Blocks(
            cell, plan.chunk, block_rows(_size(cell, one), plan.chunk, vmem_bytes), round_up(hidden, LANES),
            keep=plan.keep,
            h_dtype=jnp.dtype(jnp.float32 if cell.reads_h else narrow),
            rest_dtype=jnp.dtype(jnp.float32 if plan.keep == "gates" else narrow),
            precision=precision, reverse=backwards, vmem_bytes=vmem_bytes, interpret=interpret,
        )  # fmt: skip
        leaves, structure = jax.tree.flatten(one)
        h, *final = RECURRENCE(_Static(blocks, structure), *leaves)
        return (h,), ((cell.state(*final),),)

    return run


def _size(cell: Cell, inputs: Recurrence) -> Size:
    _, rows, features = inputs.x.shape
    weight = inputs.layers[0].weight_hh
    return Size(cell, rows, features, weight.shape[-1], weight.dtype, inputs.x.dtype)


def _forward(static: _Static, leaves: Sequence[Any], *, keep: bool) -> list[Any]:
    """Return h [T, B, H] and the final state; then, to keep, what the kernel wrote."""
    blocks, inputs = static.blocks, jax.tree.unflatten(static.structure, leaves)
    written = chunks.forward(blocks, pack(blocks, inputs), keep_rest=keep)
    rows, hidden = inputs.states[0].h.shape
    h, *final = (_cut(array, rows, hidden) for array in (written.h, *written.final))
    return [h.astype(loop.output_dtype(inputs)), *final, *((written.h, *written.rest) if keep else ())]


def _meaning(static: _Static, *leaves: Any) -> list[Any]:
    inputs, blocks = jax.tree.unflatten(static.structure, leaves), static.blocks
    plan = Plan(inputs.x.shape[0], joined=False)
    (h,), ((final,),) = scan.recur(
        blocks.cell, plan, (blocks.reverse,), blocks.precision, loop.run, (inputs,)
    )
    return [h, *final]


def _backward(
    static: _Static,
    wanted: tuple[bool, ...],
    leaves: Sequence[Any],
    outputs: Sequence[Any],
    cotangents: Sequence[Any],
) -> list[Any]:
    """Return the gradients of the leaves that are wanted."""
    blocks, inputs = static.blocks, jax.tree.unflatten(static.structure, leaves)
    count = len(inputs.states[0])
    h, *rest = outputs[1 + count :]
    asked = jax.tree.unflatten(static.structure, wanted)
    extra = -inputs.x.shape[1] % blocks.rows
    dh, *d_final = (
        pad_rows(pad_features(d, blocks.hidden, 1, d.ndim - 1), extra, d.ndim - 2) for d in cotangents
    )
    found = chunks.backward(
        blocks,
        pack(blocks, inputs),
        Written(h, tuple(rest), None),
        dh,
        blocks.cell.state(*d_final),
        of_x=asked.x,
    )
    gradients = jax.tree.leaves(_unpack(blocks, inputs, found))
    everything = zip(gradients, leaves, wanted, strict=True)
    return [gradient.astype(leaf.dtype) for gradient, leaf, want in everything if want]


def _unpack(blocks: Blocks, inputs: Recurrence, found: Gradients) -> Recurrence:
    """Return gradients in the shapes of what they belong to; what has none stays as it is."""
    cell, (layer,), (state,) = blocks.cell, inputs.layers, inputs.states
    rows, hidden = state.h.shape
    bias = {}
    if found.sums is not None:
        sums = dict(zip(cell.pre_activations, blocks.split(found.sums.sum(0)), strict=True))
        bias = {name: sums[name][:hidden] for name in layer.bias}
    return Recurrence(
        x=inputs.x if found.x is None else found.x[:, :rows],
        layers=(
            Layer(
                weight_ih=cut_features(found.w_x, hidden, cell.gates, 0),
                weight_hh=cut_features(found.w_h, hidden, cell.gates, 0)[:, :hidden],
                weight_hr=None,
                bias=bias,
                own={name: array[:, :hidden] for name, array in found.own.items()},
            ),
        ),
        states=(cell.state(*(_cut(array, rows, hidden) for array in found.state)),),
        valid=inputs.valid,
        restart=inputs.restart,
    )


def _join(static: _Static, leaves: Sequence[Any], axes: Sequence[int | None]) -> list[Any] | None:
    """Return the results of calls that share their weights: their rows, joined, are one call."""
    found = join(*(jax.tree.unflatten(static.structure, each) for each in (leaves, axes)))
    if found is None:
        return None
    whole, blocks = found.whole, static.blocks
    rows = block_rows(_size(blocks.cell, whole), blocks.steps, blocks.vmem_bytes)
    results = RECURRENCE(static._replace(blocks=blocks._replace(rows=rows)), *jax.tree.leaves(whole))
    return found.apart(results)


def _cut(array: jax.Array, rows: int, hidden: int) -> jax.Array:
    """Return what is not padding of [..., B, H]."""
    return array[..., :rows, :hidden]


def _results(static: _Static) -> int:
    return 1 + len(static.blocks.cell.state._fields)


RECURRENCE = Operation(
    "recurrence_on_a_tpu",
    forward=_forward,
    backward=_backward,
    meaning=_meaning,
    results=_results,
    join=_join,
)
