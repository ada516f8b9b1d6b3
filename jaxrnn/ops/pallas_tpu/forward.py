"""The forward kernel: ``W_hh`` stays on the chip, inputs and outputs stream past it a block of steps at a time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxrnn.cells import PreActivations, State
from jaxrnn.ops.pallas_tpu.blocks import Blocks, Specs
from jaxrnn.ops.pallas_tpu.operands import Operands, specs_of


class Written(NamedTuple):
    """What the forward kernel writes."""

    h: Any  # [T, B, H], the state after each step
    rest: tuple[
        Any, ...
    ]  # its other fields: after each step, or before each block [T / K, B, H]; () if not wanted
    final: State  # float32, each [B, H]


class _Scratch(NamedTuple):
    """Memory of the kernel's own."""

    sums: Any  # [K, B, G*H], what enters the sums of each step of the block beside h
    state: State  # each [B, H]
    x: Any  # [K, B, I], x without what its padding holds; None without padding


def run_forward(blocks: Blocks, operands: Operands, *, keep_rest: bool) -> Written:
    """Return the state after each step and, with `keep_rest`, what else a backward pass needs."""
    steps, rows, features = operands.x.shape
    specs = Specs(blocks, steps, rows, backwards=blocks.reverse)
    kind, at_bounds = type(operands.state), blocks.keep == "h"
    count = len(kind._fields) - 1 if keep_rest else 0
    along_time = jax.ShapeDtypeStruct((steps, rows, blocks.hidden), blocks.h_dtype)
    if at_bounds:
        rest = jax.ShapeDtypeStruct((specs.count, rows, blocks.hidden), jnp.float32)
    else:
        rest = along_time.update(dtype=blocks.rest_dtype)
    state = jax.ShapeDtypeStruct((rows, blocks.hidden), jnp.float32)
    cut_rest = (specs.per_block if at_bounds else specs.along_time)(blocks.hidden)
    in_block = blocks.steps, blocks.rows
    scratch = _Scratch(
        sums=pltpu.VMEM((*in_block, operands.w_x.shape[1]), jnp.float32),
        state=kind(*[pltpu.VMEM((blocks.rows, blocks.hidden), jnp.float32)] * len(kind._fields)),
        x=None if operands.valid is None else pltpu.VMEM((*in_block, features), operands.x.dtype),
    )
    return pl.pallas_call(
        partial(_kernel, blocks),
        grid=specs.grid,
        in_specs=[specs_of(specs, operands)],
        out_specs=Written(
            specs.along_time(blocks.hidden),
            (cut_rest,) * count,
            kind(*[specs.per_row(blocks.hidden)] * len(kind._fields)),
        ),
        out_shape=Written(along_time, (rest,) * count, kind(*[state] * len(kind._fields))),
        scratch_shapes=[scratch],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=blocks.vmem_bytes
        ),
        interpret=blocks.interpret,
        name=f"{blocks.cell.name.lower()}_forward",
    )(operands)


def _kernel(blocks: Blocks, operands: Operands, h: Any, rest: Any, final: Any, scratch: _Scratch) -> None:
    written = Written(h, rest, final)
    own = {name: ref[...] for name, ref in operands.own.items()}

    @pl.when(pl.program_id(1) == 0)
    def _begin() -> None:
        copy(operands.state, scratch.state)

    if blocks.keep == "h":
        copy(scratch.state[1:], written.rest)
    x = without_padding(blocks, operands, scratch.x)
    scratch.sums[...] = sums_of_x(blocks, operands, x).reshape(scratch.sums.shape)

    def step(t: Any) -> None:
        state = type(scratch.state)(*(ref[...] for ref in scratch.state))
        before = restarted(blocks, operands, t, state)
        h_sums = blocks.product(before.h.astype(operands.w_h.dtype), operands.w_h[...])
        after = blocks.cell.step(pre_activations(blocks, operands, scratch.sums[t], h_sums), before, own)
        after = advanced(blocks, operands, t, after, state)
        copy_values(after, scratch.state)
        written.h[t] = after.h.astype(written.h.dtype)
        if blocks.keep != "h":
            for ref, field in zip(written.rest, after[1:], strict=False):
                ref[t] = field.astype(ref.dtype)

    blocks.for_steps(step, backwards=blocks.reverse)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _end() -> None:
        copy(scratch.state, written.final)


# What the backward kernel does likewise -------------------------------------------------------------------


def copy(source: Any, target: Any) -> None:
    """Copy arrays, as many as there are targets."""
    for read, write in zip(source, target, strict=False):
        write[...] = read[...]


def copy_values(values: Any, target: Any) -> None:
    """Write values."""
    for value, write in zip(values, target, strict=True):
        write[...] = value


def without_padding(blocks: Blocks, operands: Operands, scratch: Any) -> jax.Array:
    """Return x of a block [K*B, I], with zeros in its padding: a product with zero would let NaN through."""
    x = operands.x
    if operands.valid is not None:

        def step(t: Any) -> None:
            valid = blocks.marked(operands.valid, t)
            scratch[t] = jnp.where(valid, operands.x[t], jnp.zeros_like(operands.x[t]))

        blocks.for_steps(step)
        x = scratch
    return x[...].reshape(blocks.steps * blocks.rows, x.shape[-1]).astype(operands.w_x.dtype)


def sums_of_x(blocks: Blocks, operands: Operands, x: jax.Array) -> jax.Array:
    """Return what x [K*B, I] and the biases add to the sums of a block, [K*B, G*H]."""
    sums = blocks.product(x, operands.w_x[...])
    return sums if operands.bias is None else sums + operands.bias[...]


def pre_activations(blocks: Blocks, operands: Operands, x: jax.Array, h: jax.Array) -> PreActivations:
    """Return the pre-activations, given what x and what h add to them, each [..., G*H]."""
    cell, late = blocks.cell, operands.late
    h_blocks = [
        block + late[name][...] if name in late else block
        for name, block in zip(cell.h_gates, blocks.split(h), strict=True)
    ]
    return cell.sum_blocks(dict(zip(cell.x_gates, blocks.split(x), strict=True)), tuple(h_blocks))


def restarted(blocks: Blocks, operands: Operands, t: Any, state: State) -> State:
    """Return the state that a step begins with."""
    if operands.restart is None:
        return state
    restart = blocks.marked(operands.restart, t)
    return jax.tree.map(lambda s: jnp.where(restart, jnp.zeros_like(s), s), state)


def advanced(blocks: Blocks, operands: Operands, t: Any, after: State, state: State) -> State:
    """Return the state after a step, which is the one before where a row has ended."""
    if operands.valid is None:
        return after
    valid = blocks.marked(operands.valid, t)
    return jax.tree.map(lambda new, old: jnp.where(valid, new, old), after, state)
