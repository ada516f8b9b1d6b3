"""The persistent kernel for Hopper GPUs, of which `jaxrnn.ops.pallas_gpu` tells what it does."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from jaxrnn.cells import Cell, Derivative, State
from jaxrnn.ops.pallas_gpu.tiles import FLOAT32, PAIRED_UNITS, Tiles, products


class Operands(NamedTuple):
    """What the kernel reads. What belongs to the batch is in tiles of N rows, so that blocks read whole lines."""

    weight: jax.Array  # [parts, C * height, H], as `arrange` sorts it
    ahead: jax.Array  # [tiles, T, G*H, N], W_ih x + b
    late: dict[str, jax.Array]  # {pre-activation: [H]}, biases of those in which x has no part
    own: dict[str, jax.Array]  # {name: [count, H]}
    h: jax.Array  # [parts, tiles, H, N], the first h as the product takes it
    state: State  # each [tiles, H, N]
    valid: jax.Array | None  # [tiles, T, N], 0 or 1
    restart: jax.Array | None  # [tiles, T, N], 0 or 1


class Results(NamedTuple):
    """What the kernel writes."""

    h: Any  # [tiles, T, H, N]
    final: State  # each [tiles, H, N]
    kept: tuple[Any, ...]  # each [tiles, T, H, N]


# One step of one block -------------------------------------------------------------------------------------


class Rows:
    """A parameter [count, H] of a cell as its step unpacks it: one array, as wide as the state, per row."""

    def __init__(self, rows: list[jax.Array]):
        self.rows = rows

    def astype(self, dtype: Any) -> "Rows":
        """Return the rows in `dtype`."""
        return Rows([row.astype(dtype) for row in self.rows])

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.rows)


class Step(NamedTuple):
    """What a block has before it in a step, each an array of its units and rows."""

    ahead: dict[str, jax.Array]
    products: tuple[jax.Array, ...]  # of W_hh and h, one per gate
    state: State
    valid: jax.Array | None
    restart: jax.Array | None


def advance(
    cell: Cell,
    derivative: Derivative | None,
    late: dict[str, jax.Array],
    own: dict[str, list[jax.Array]],
    at: Step,
) -> tuple[State, tuple[jax.Array, ...]]:
    """Return the state after a step, and what the derivative keeps of it.

    A row that restarts does so from zeros; its product with the old h is left out, not computed anew.
    """

    def restarted(array):
        return array if at.restart is None else jnp.where(at.restart > 0, 0.0, array)

    before = jax.tree.map(restarted, at.state)
    products = map(restarted, at.products)
    blocks = [p + late[name] if name in late else p for name, p in zip(cell.h_gates, products, strict=True)]
    pre = cell.sum_blocks(at.ahead, tuple(blocks))
    rows: Any = {name: Rows(each) for name, each in own.items()}
    new = cell.step(pre, before, rows)
    kept = derivative.keep(pre, before, rows) if derivative else ()
    if at.valid is not None:
        new = jax.tree.map(partial(jnp.where, at.valid > 0), new, at.state)
    return new, kept


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without the custom derivatives in it (`jax.nn.relu`), which Mosaic does not know."""

    def inlined(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return inlined


def _evaluate(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner = equation.params.get("call_jaxpr") or equation.params.get("jaxpr")
        if inner is not None:
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            outputs = equation.primitive.bind(*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


# The kernel ------------------------------------------------------------------------------------------------


def run_kernel(
    cell: Cell,
    tiles: Tiles,
    reverse: bool,
    derivative: Derivative | None,
    operands: Operands,
    *,
    interpret: Any = None,
) -> Results:
    """Run the recurrence over all steps.

    With `interpret`, JAX's `InterpretGPUParams`, on a CPU. There JAX has no way for a block to write into another's
    shared memory, and no registers: these two things are done another way then, all else is the same.
    """
    pl, plgpu = _mosaic()
    blocks, units, width = tiles
    parts, _, hidden = operands.weight.shape
    batch_tiles, steps, _, _ = operands.ahead.shape
    dtype, height = operands.weight.dtype, tiles.height(cell.gates)
    # In one piece, the product keeps the address of each of its instructions in registers, and others are spilled.
    depth = next(depth for depth in (128, 64, 32) if hidden % depth == 0)
    layout = halves_layout() if tiles.paired else plgpu.Layout.WGMMA
    split = split_rows if interpret else _split_registers
    step = _inlined(partial(advance, cell, derivative))
    # Interpreted, h goes from block to block through the memory of the device.
    mailbox = jax.ShapeDtypeStruct((batch_tiles, 2, parts, hidden, width), dtype) if interpret else None
    outputs, output_structure = jax.tree.flatten((_results(cell, derivative, operands), mailbox))
    inputs, input_structure = jax.tree.flatten(operands)

    def body(*refs):
        given = jax.tree.unflatten(input_structure, refs[: len(inputs)])
        taken, mail = jax.tree.unflatten(output_structure, refs[len(inputs) : -4])
        weight, h, loaded, delivered = refs[-4:]
        block, tile = lax.axis_index("block"), lax.axis_index("tile")
        mine = pl.ds(block * units, units)

        def load(ref):
            return plgpu.load(ref, layout=layout, optimized=False)

        def load_vector(ref, dimension):
            vector = plgpu.load(ref, layout=layout.reduce(1 - dimension), optimized=False)
            return plgpu.layout_cast(lax.broadcast_in_dim(vector, (units, width), (dimension,)), layout)

        def at(index):
            time = jnp.minimum(index, steps - 1)
            return steps - 1 - time if reverse else time

        def load_ahead(index):
            time = at(index)
            columns = (pl.ds(gate * hidden + block * units, units) for gate in range(cell.gates))
            ahead = (load(given.ahead.at[tile, time, each]) for each in columns)
            masks = (
                None if ref is None else load_vector(ref.at[tile, time], 1)
                for ref in (given.valid, given.restart)
            )
            return dict(zip(cell.x_gates, ahead, strict=True)), *masks

        def deliver(new_h, buffer):
            def send(part, value, other, _):
                where = {"cluster_idx": other, "cluster_dim": "block", "optimized": False}
                plgpu.async_store_smem(value, h.at[buffer, part, mine], delivered.at[buffer], **where)

            for part, value in enumerate(_split(new_h, dtype, parts)):
                if interpret:
                    mail[tile, buffer, part, mine] = value
                elif blocks == 1:
                    h[buffer, part] = value
                else:
                    lax.fori_loop(0, blocks, partial(send, part, value), None)

        def receive(buffer):
            if interpret:
                plgpu.barrier_arrive(delivered)
                plgpu.barrier_wait(delivered)
                for part in range(parts):
                    h[buffer, part] = mail[tile, buffer, part]
            elif blocks > 1:
                plgpu.barrier_wait(delivered.at[buffer])
            plgpu.commit_smem()

        def multiply(buffer, index, accumulator):
            def chunk(number, _):
                here = pl.ds(number * depth, depth)
                for of_weight, of_h in products(parts):
                    plgpu.wgmma(accumulator, weight.at[of_weight, :, here], h.at[buffer, of_h, here])

            lax.fori_loop(0, hidden // depth, chunk, None)
            following = load_ahead(index + 1)  # on its way while the product is computed
            return accumulator[...], following

        def one_step(index, carry):
            state, (ahead, valid, restart) = carry
            buffer = lax.rem(index, 2)
            accumulator = plgpu.ACC((height, width), FLOAT32)
            product, following = pl.run_scoped(partial(multiply, buffer, index), accumulator)
            gates = tuple(gates_of(product, cell.gates, tiles, split=split))
            new, kept = step(late, own, Step(ahead, gates, state, valid, restart))
            deliver(new.h, 1 - buffer)
            for ref, value in zip((taken.h, *taken.kept), (new.h, *kept), strict=True):
                ref[tile, at(index), mine] = value
            receive(1 - buffer)
            return new, following

        for part in range(parts):
            for row in range(0, height, 64):
                source = given.weight.at[part, pl.ds(block * height + row, 64)]
                plgpu.copy_gmem_to_smem(source, weight.at[part, pl.ds(row, 64)], loaded)
            plgpu.copy_gmem_to_smem(given.h.at[part, tile], h.at[0, part], loaded)
        late = {name: load_vector(ref.at[mine], 0) for name, ref in given.late.items()}
        own = {
            name: [load_vector(ref.at[row, mine], 0) for row in range(ref.shape[0])]
            for name, ref in given.own.items()
        }
        state = jax.tree.map(lambda ref: load(ref.at[tile, mine]), given.state)
        first = load_ahead(0)
        plgpu.barrier_wait(loaded)
        state, _ = lax.fori_loop(0, steps, one_step, (state, first))
        for ref, value in zip(taken.final, state, strict=True):
            ref[tile, mine] = value

    transforms = (plgpu.TilingTransform((8, width)), plgpu.SwizzleTransform(2 * width))
    if interpret:
        all_delivered = plgpu.ClusterBarrier(collective_axes=("block",))
    else:
        all_delivered = plgpu.Barrier(num_arrivals=blocks * parts, num_barriers=2)
    kernel = plgpu.kernel(
        body,
        out_type=outputs,
        scratch_types=[
            plgpu.SMEM((parts, height, hidden), dtype, transforms=transforms),
            plgpu.SMEM((2, parts, hidden, width), dtype, transforms=transforms),
            plgpu.Barrier(num_arrivals=parts * (height // 64 + 1)),
            all_delivered,
        ],
        grid=(batch_tiles,),
        grid_names=("tile",),
        cluster=(blocks,),
        cluster_names=("block",),
        interpret=interpret,
    )
    results, _ = jax.tree.unflatten(output_structure, kernel(*inputs))
    return results


def _mosaic() -> tuple[Any, Any]:
    """Return Pallas and its Mosaic GPU, imported where they are used: they are large, and not on every platform."""
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu

    return pallas, mosaic_gpu


def _results(cell: Cell, derivative: Derivative | None, operands: Operands) -> Results:
    """Return the shapes of what the kernel writes."""
    batch_tiles, steps, _, width = operands.ahead.shape
    hidden = operands.weight.shape[2]
    one: Any = jax.ShapeDtypeStruct((batch_tiles, hidden, width), FLOAT32)
    state = cell.state(*(one for _ in cell.state._fields))
    own = {name: [one] * array.shape[0] for name, array in operands.own.items()}
    given = Step(dict.fromkeys(cell.x_gates, one), (one,) * cell.gates, state, None, None)
    _, kept = jax.eval_shape(
        partial(advance, cell, derivative), dict.fromkeys(operands.late, one), own, given
    )
    every = jax.ShapeDtypeStruct((batch_tiles, steps, hidden, width), FLOAT32)
    return Results(every, state, (every,) * len(kept))


def _split(h: jax.Array, dtype: Any, parts: int) -> list[jax.Array]:
    """Return what `split_parts` returns, as registers hold it."""
    large = h.astype(dtype)
    return [large] if parts == 1 else [large, (h - large.astype(FLOAT32)).astype(dtype)]


# Whose registers hold what ---------------------------------------------------------------------------------


def gates_of(product: Any, gates: int, tiles: Tiles, *, split: Callable[[Any], tuple[Any, Any]]) -> list[Any]:
    """Return the product [height, rows] of a block as one array [units, rows] per gate."""
    if not tiles.paired:
        return [product[gate * tiles.units : (gate + 1) * tiles.units] for gate in range(gates)]
    pairs = [split(product[row : row + 64]) for row in range(0, product.shape[0], 64)]
    return [half for pair in pairs for half in pair][:gates]


def split_rows(pair: Any) -> tuple[Any, Any]:
    """Return the two gates of 64 rows of a product: of each warp's 16 rows, the first 8 and the last 8."""
    warps = pair.reshape(4, 2, 8, -1)
    return warps[:, 0].reshape(PAIRED_UNITS, -1), warps[:, 1].reshape(PAIRED_UNITS, -1)


def split_registers(registers: Any) -> tuple[Any, Any]:
    """Return what `split_rows` returns, of the registers of a thread: it holds both halves, and no data moves."""
    return registers[:, :, :, :, :1], registers[:, :, :, :, 1:]


def halves_layout() -> Any:
    """Return how registers hold either half: as they hold a product, but with 8 rows per warp."""
    _, plgpu = _mosaic()
    tiling = plgpu.Tiling(((PAIRED_UNITS, 8), (8, 8), (2,)))
    return plgpu.Layout.TILED(tiling, warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1)


def _split_registers(pair: jax.Array) -> tuple[jax.Array, jax.Array]:
    from jax.experimental.mosaic import gpu as mosaic

    _, plgpu = _mosaic()
    half = plgpu.ShapeDtypeStruct((PAIRED_UNITS, pair.shape[1]), FLOAT32, layout=halves_layout())

    @plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA,), return_type=(half, half))
    def split(context, array):
        layout = half.layout.to_mgpu()
        shape = layout.registers_shape(half.shape)
        return tuple(
            mosaic.FragmentedArray(_registers=each.reshape(shape), _layout=layout, _is_signed=None)
            for each in split_registers(array.registers)
        )

    return split(pair)
