"""The backward kernel: gates of a block computed again as one product, then step by step against the recurrence.

Only ``dh = da W_hh`` waits for the step before. What enters all sums, ``W_ih x + W_hh h + b``, follows from the
inputs and the states that the forward kernel left behind, for a whole block at once; so do the gradients of both
weights and of x, as soon as the block's ``da`` are there. Gradients of weights and biases are summed in float32, in
the chip's memory, over all blocks.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxrnn.cells import Cell, Residuals, State
from jaxrnn.ops.pallas_tpu.blocks import Blocks, Specs
from jaxrnn.ops.pallas_tpu.forward import (
    Written,
    advanced,
    copy,
    copy_values,
    pre_activations,
    restarted,
    sums_of_x,
    without_padding,
)  # fmt: skip
from jaxrnn.ops.pallas_tpu.operands import Operands, specs_of


class Gradients(NamedTuple):
    """What the backward kernel writes, all float32 but that of x."""

    x: Any  # [T, B, I], or None if nobody asks for it
    w_x: Any  # [G*H, I]
    w_h: Any  # [G*H, H]
    sums: Any  # [B, P*H], of each pre-activation, summed over time; None without biases
    own: dict[str, Any]  # {name: [rows, H]}
    state: State  # each [B, H]


class _Given(NamedTuple):
    """What the backward kernel reads beside `Operands`."""

    w_h: Any  # [G*H, H]
    w_x: Any  # [G*H, I], for the gradient of x
    h: Any  # [T, B, H] after each step
    h_entering: Any  # of the same array, the step before a block
    rest: tuple[Any, ...]  # the other fields: after each step, or before each block
    rest_entering: tuple[Any, ...]  # of the same arrays, the step before a block; () where `rest` says so
    dh: Any  # [T, B, H]
    d_final: State  # each [B, H]


class _Scratch(NamedTuple):
    """Memory of the kernel's own."""

    pre: Any  # [K, B, P*H]
    d_pre: Any  # [K, B, P*H], in the dtype of the weights
    h_before: Any  # [K, B, H], in the dtype of h
    rest_before: tuple[Any, ...]  # each [K, B, H], float32
    d_state: State  # each [B, H]
    x: Any  # [K, B, I], x without what its padding holds; None without padding


def run_backward(
    blocks: Blocks, operands: Operands, written: Written, dh: jax.Array, d_final: State, *, of_x: bool
) -> Gradients:
    """Return the gradients, given those of h after each step and of the final state."""
    steps, rows, features = operands.x.shape
    specs = Specs(blocks, steps, rows, backwards=not blocks.reverse)
    kind, hidden, at_bounds = type(operands.state), blocks.hidden, blocks.keep == "h"
    w_h, w_x = operands.w_h.T, operands.w_x.T
    given = _Given(
        w_h,
        w_x if of_x else None,
        written.h,
        written.h,
        written.rest,
        () if at_bounds else written.rest,
        dh,
        d_final,
    )
    before = blocks.steps if blocks.reverse else -1
    cut = _Given(
        w_h=specs.whole(w_h.shape),
        w_x=specs.whole(w_x.shape) if of_x else None,
        h=specs.along_time(hidden),
        h_entering=specs.neighbour(hidden, before),
        rest=tuple((specs.per_block if at_bounds else specs.along_time)(hidden) for _ in given.rest),
        rest_entering=tuple(specs.neighbour(hidden, before) for _ in given.rest_entering),
        dh=specs.along_time(hidden),
        d_final=jax.tree.map(lambda _: specs.per_row(hidden), d_final),
    )
    sums = len(blocks.cell.pre_activations) * hidden
    shaped = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    found = Gradients(
        x=jax.ShapeDtypeStruct(operands.x.shape, operands.x.dtype) if of_x else None,
        w_x=shaped(w_x.shape),
        w_h=shaped(w_h.shape),
        sums=None if operands.bias is None else shaped((rows, sums)),
        own={name: shaped(array.shape) for name, array in operands.own.items()},
        state=jax.tree.map(lambda s: shaped(s.shape), operands.state),
    )
    cut_found = jax.tree.map(lambda a: specs.whole(a.shape), found)._replace(
        x=specs.along_time(features) if of_x else None,
        sums=None if operands.bias is None else specs.per_row(sums),
        state=jax.tree.map(lambda _: specs.per_row(hidden), operands.state),
    )
    in_block = blocks.steps, blocks.rows
    state = pltpu.VMEM((blocks.rows, hidden), jnp.float32)
    scratch = _Scratch(
        pre=pltpu.VMEM((*in_block, sums), jnp.float32),
        d_pre=pltpu.VMEM((*in_block, sums), operands.w_h.dtype),
        h_before=pltpu.VMEM((*in_block, hidden), blocks.h_dtype),
        rest_before=tuple(pltpu.VMEM((*in_block, hidden), jnp.float32) for _ in given.rest),
        d_state=kind(*[state] * len(kind._fields)),
        x=None if operands.valid is None else pltpu.VMEM((*in_block, features), operands.x.dtype),
    )
    results = pl.pallas_call(
        partial(_kernel, blocks),
        grid=specs.grid,
        in_specs=[specs_of(specs, operands), cut],
        out_specs=cut_found,
        out_shape=found,
        scratch_shapes=[scratch],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=blocks.vmem_bytes
        ),
        interpret=blocks.interpret,
        name=f"{blocks.cell.name.lower()}_backward",
    )(operands, given)
    return Gradients(*results)


def _kernel(blocks: Blocks, operands: Operands, given: _Given, *results_and_scratch: Any) -> None:
    *results, scratch = results_and_scratch
    gradients = Gradients(*results)
    own = {name: ref[...] for name, ref in operands.own.items()}

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _begin() -> None:
        for ref in jax.tree.leaves((gradients.w_x, gradients.w_h, gradients.own)):
            ref[...] = jnp.zeros_like(ref)

    @pl.when(pl.program_id(1) == 0)
    def _begin_rows() -> None:
        copy(given.d_final, scratch.d_state)
        if gradients.sums is not None:
            gradients.sums[...] = jnp.zeros_like(gradients.sums)

    x = without_padding(blocks, operands, scratch.x)
    _restore(blocks, operands, given, scratch, x, own)
    _against_time(blocks, operands, given, scratch, gradients, own)
    _products(blocks, operands, given, scratch, gradients, x)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _end() -> None:
        copy(scratch.d_state, gradients.state)


def _restore(blocks, operands, given, scratch, x, own) -> None:
    """Compute what each step of the block began with, and its pre-activations."""
    first = pl.program_id(1) == pl.num_programs(1) - 1  # of the recurrence: the last block that is seen

    def before(entering, initial, after, into):
        """Shift a field of the state after each step by one step."""
        begins = jnp.where(first, initial[...].astype(into.dtype), entering[...].astype(into.dtype))
        steps = blocks.steps
        at, rest, source = (
            (steps - 1, slice(0, steps - 1), slice(1, steps))
            if blocks.reverse
            else (0, slice(1, steps), slice(0, steps - 1))
        )
        into[at] = begins
        if steps > 1:
            into[rest] = after[source].astype(into.dtype)

    before(given.h_entering, operands.state[0], given.h, scratch.h_before)
    for n, entering in enumerate(given.rest_entering):
        before(entering, operands.state[1 + n], given.rest[n], scratch.rest_before[n])
    if operands.restart is not None:
        restarting = (scratch.h_before, *(scratch.rest_before if given.rest_entering else ()))

        def restart(t: Any) -> None:
            for ref in restarting:
                (ref[t],) = restarted(blocks, operands, t, (ref[t],))

        blocks.for_steps(restart)

    h = scratch.h_before[...].reshape(blocks.steps * blocks.rows, blocks.hidden).astype(operands.w_h.dtype)
    pre = pre_activations(
        blocks, operands, sums_of_x(blocks, operands, x), blocks.product(h, operands.w_h[...])
    )
    scratch.pre[...] = jnp.concatenate(pre, axis=-1).reshape(scratch.pre.shape)
    if given.rest and not given.rest_entering:
        _rest_again(blocks, operands, given, scratch, own)


def _rest_again(blocks, operands, given, scratch, own) -> None:
    """Compute the other fields of the state before each step: the steps again, without their products."""
    kind = type(scratch.d_state)

    def step(t: Any, rest: Any) -> Any:
        state = kind(scratch.h_before[t].astype(jnp.float32), *rest)
        before = restarted(blocks, operands, t, state)
        for ref, field in zip(scratch.rest_before, before[1:], strict=True):
            ref[t] = field
        after = blocks.cell.step(tuple(blocks.split(scratch.pre[t])), before, own)
        return advanced(blocks, operands, t, after, state)[1:]

    blocks.fold_steps(step, tuple(ref[...] for ref in given.rest), backwards=blocks.reverse)


def _against_time(blocks, operands, given, scratch, gradients, own) -> None:
    """Carry the gradient of the state through the steps of the block, the last one first."""
    cell, derivative, kind = blocks.cell, blocks.cell.linearisation(), type(scratch.d_state)

    def step(t: Any) -> None:
        pre = tuple(blocks.split(scratch.pre[t]))
        before = kind(scratch.h_before[t].astype(jnp.float32), *(ref[t] for ref in scratch.rest_before))
        residuals = Residuals(derivative.keep(pre, before, own), before.h, given.h[t].astype(jnp.float32))
        d_state = kind(*(ref[...] for ref in scratch.d_state))
        d_state = d_state._replace(h=d_state.h + given.dh[t].astype(jnp.float32))
        d_after = d_state
        if operands.valid is not None:
            valid = blocks.marked(operands.valid, t)
            d_after = jax.tree.map(lambda d: jnp.where(valid, d, 0.0), d_state)

        def linear(d_pre, d_before, d_own):
            return derivative.tangent(residuals, d_pre, d_before, own, d_own)

        d_pre, d_before, d_own = jax.linear_transpose(linear, pre, before, own)(d_after)
        by_name = dict(zip(cell.pre_activations, d_pre, strict=True))
        if derivative.own_drive:
            (d_own,) = jax.linear_transpose(partial(_driven, cell, residuals), own)(d_pre)
        for name, ref in gradients.own.items():
            ref[...] += d_own[name]
        if gradients.sums is not None:
            gradients.sums[...] += jnp.concatenate(d_pre, axis=-1)
        scratch.d_pre[t] = jnp.concatenate(d_pre, axis=-1).astype(scratch.d_pre.dtype)
        of_h = jnp.concatenate([by_name[name] for name in cell.h_gates], axis=-1)
        from_sums = blocks.product(of_h.astype(given.w_h.dtype), given.w_h[...])
        d_before = restarted(blocks, operands, t, d_before._replace(h=d_before.h + from_sums))
        if operands.valid is not None:
            d_before = jax.tree.map(lambda d, held: jnp.where(valid, d, held), d_before, d_state)
        copy_values(d_before, scratch.d_state)

    blocks.for_steps(step, backwards=not blocks.reverse)


def _driven(cell: Cell, residuals: Residuals, d_own: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Return what changes of the own parameters add to the pre-activations."""
    drive = cell.linearisation().own_drive
    assert drive is not None
    added = drive(residuals, d_own)
    nothing = jnp.zeros_like(residuals.h_before)
    return tuple(added.get(name, nothing) for name in cell.pre_activations)


def _products(blocks, operands, given, scratch, gradients, x) -> None:
    """Add what the block gives to the gradients of the weights, and compute that of x."""
    cell = blocks.cell
    d_pre = scratch.d_pre[...].reshape(blocks.steps * blocks.rows, scratch.d_pre.shape[-1])
    by_name = dict(zip(cell.pre_activations, blocks.split(d_pre), strict=True))
    of_x, of_h = (
        d_pre
        if gates == cell.pre_activations
        else jnp.concatenate([by_name[name] for name in gates], axis=-1)
        for gates in (cell.x_gates, cell.h_gates)
    )
    h = scratch.h_before[...].reshape(blocks.steps * blocks.rows, blocks.hidden).astype(given.w_h.dtype)
    gradients.w_x[...] += blocks.product(of_x, x, (0, 0))
    gradients.w_h[...] += blocks.product(of_h, h, (0, 0))
    if gradients.x is not None:
        gradients.x[...] = (
            blocks.product(of_x, given.w_x[...]).reshape(gradients.x.shape).astype(gradients.x.dtype)
        )
