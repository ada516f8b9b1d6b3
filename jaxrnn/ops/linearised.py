"""The loop over time, linearised: how a small change of its inputs moves its outputs.

The matrix products of all steps of a chunk are taken outside the loop over them (`_drive`), and only the state's
change goes through it. JAX transposes this into the backward pass: `jaxrnn.ops.scan` and `docs/design.md` explain.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxrnn.cells import Cell, Derivative, Residuals, State, matmul
from jaxrnn.ops.loop import Layer, Left, Recurrence, cut, output_dtype, scan_chunks, sums_of, unpacked
from jaxrnn.ops.planning import Plan
from jaxrnn.ops.reference import select, without_padding


class _Chunk(NamedTuple):
    """What is sliced along time for a chunk, each array [K, B, ...]."""

    x: jax.Array
    dx: jax.Array | None
    valid: jax.Array | None
    restart: jax.Array | None


class _Drive(NamedTuple):
    """All that enters the sums of a layer in a chunk without waiting for the loop; None where there is nothing."""

    wide: jax.Array | None  # [K, B, G*H], in the order of `Cell.h_gates`
    only_x: dict[str, jax.Array]  # {name: [K, B, H]}, the pre-activations in which h has no part
    projected: jax.Array | None  # [K, B, R], what is added to h after the projection


def tangent(
    cell: Cell,
    plan: Plan,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    inputs: tuple[Recurrence, ...],
    given: tuple[Recurrence, ...],  # the tangent of `inputs`, symbolic zeros among it
    left: tuple[tuple[Left, ...], ...],
) -> tuple[tuple[jax.Array, ...], tuple[tuple[State, ...], ...]]:
    """Return the tangents of h and of the final states, in the order of `scan.recur`."""
    d = jax.tree.map(lambda t: None if _is_zero(t) else t, given, is_leaf=_is_zero)
    d_states = jax.tree.map(_instantiate, tuple(one.states for one in given), is_leaf=_is_zero)
    d_own = jax.tree.map(
        _instantiate, [[layer.own for layer in one.layers] for one in given], is_leaf=_is_zero
    )
    parts = [
        _Part(cell, plan, reverse[0], backwards, precision, *of_one)
        for backwards, *of_one in zip(reverse, inputs, d, d_own, left, strict=True)
    ]
    linear_steps, dtypes = [_linear_step(part) for part in parts], [output_dtype(one) for one in inputs]

    def step(d_states, xs):
        d_states = tuple(f(d_state, x) for f, d_state, x in zip(linear_steps, d_states, xs, strict=True))
        return d_states, tuple(layers[-1].h.astype(t) for layers, t in zip(d_states, dtypes, strict=True))

    # Of all steps, only what is closed over and what is in `_Chunk` is kept for the backward pass. Without the
    # checkpoint, partial evaluation would compute and store whatever else does not depend on a tangent.
    @partial(jax.checkpoint, prevent_cse=False)
    def chunk(d_states, xs):
        start, pieces = xs
        steps = [_of_chunk(part, start, piece) for part, piece in zip(parts, pieces, strict=True)]
        return lax.scan(step, d_states, steps, reverse=reverse[0], unroll=plan.unroll)

    count = inputs[0].x.shape[0] // plan.chunk
    pieces = [_Chunk(one.x, d_one.x, one.valid, one.restart) for one, d_one in zip(inputs, d, strict=True)]
    starts = plan.chunk * jnp.arange(count)
    d_finals, dh = scan_chunks(chunk, d_states, (starts, cut(pieces, count)), reverse[0])
    return dh, d_finals


class _Part(NamedTuple):
    """One recurrence in the loop, and its change."""

    cell: Cell
    plan: Plan
    reverse: bool  # the loop goes from the last step to the first
    backwards: bool  # the recurrence does, which is mirrored if the loop does not
    precision: lax.PrecisionLike
    inputs: Recurrence
    d: Recurrence  # with None where there is no change
    d_own: list[dict[str, jax.Array]]
    left: tuple[Left, ...]


def _of_chunk(part: _Part, start: jax.Array, piece: _Chunk) -> Any:
    """Return what the linearised steps of a chunk need, each array [K, B, ...]."""
    cell, precision, derivative = part.cell, part.precision, part.cell.linearisation()
    below = without_padding(piece.valid, piece.x)
    dx = None if piece.dx is None else without_padding(piece.valid, piece.dx)
    drives, residuals = [], []
    for number, (layer, d_layer) in enumerate(zip(part.inputs.layers, part.d.layers, strict=True)):
        known = _residuals(part, number, start, piece, below)
        drive = _drive(cell, derivative, precision, layer, d_layer, below, dx, known)
        if d_layer.weight_hr is not None:
            unprojected = derivative.output(known.kept, layer.own) if derivative.output else known.h_after
            drive = drive._replace(projected=matmul(unprojected, d_layer.weight_hr, precision))
        drives.append(drive)
        residuals.append(known)
        below, dx = known.h_after, None
    return drives, residuals, piece.valid, piece.restart


def _linear_step(part: _Part) -> Callable[[Any, Any], Any]:
    """Return the step of the linearised loop: of the states' change and of a step's part of `_of_chunk`."""
    cell, layers, precision = part.cell, part.inputs.layers, part.precision
    derivative = cell.linearisation()
    # From the second layer on, what comes from below is multiplied with h: both weights as one where they can be.
    weights = [
        jnp.concatenate([layer.weight_ih, layer.weight_hh], axis=1)
        if cell.joinable and above
        else layer.weight_hh
        for above, layer in enumerate(layers)
    ]

    # With this checkpoint, the factors of the linear map are computed where they are used, not stored beforehand.
    @partial(jax.checkpoint, prevent_cse=False)
    def linear_step(weights, layers, d_own, d_states, xs):
        drives, residuals, valid, restart = xs
        after: list[State] = []
        for number, (layer, d_state) in enumerate(zip(layers, d_states, strict=True)):
            before = select(restart, jax.tree.map(jnp.zeros_like, d_state), d_state)
            dh, drive = before.h, drives[number]
            if after and cell.joinable:
                dh = jnp.concatenate([after[-1].h, dh], axis=-1)
            elif after:
                from_below = matmul(after[-1].h, layer.weight_ih, precision)
                drive = _add_x(cell, drive, from_below)
            sums = _sum(matmul(dh, weights[number], precision), drive.wide)
            blocks = dict(zip(cell.h_gates, jnp.split(sums, cell.gates, -1), strict=True)) | drive.only_x
            nothing = jnp.zeros_like(blocks[cell.h_gates[0]])
            d_pre = tuple(blocks.get(name, nothing) for name in cell.pre_activations)
            new = derivative.tangent(residuals[number], d_pre, before, layer.own, d_own[number])
            if layer.weight_hr is not None:
                new = new._replace(h=_sum(matmul(new.h, layer.weight_hr, precision), drive.projected))
            after.append(select(valid, new, d_state, default=True))
        return tuple(after)

    return partial(linear_step, weights, layers, part.d_own)


def _drive(
    cell: Cell,
    derivative: Derivative,
    precision: lax.PrecisionLike,
    layer: Layer,
    d: Layer,
    x: jax.Array,
    dx: jax.Array | None,
    residuals: Residuals,
) -> _Drive:
    """Return what the changes of a layer's weights, biases and own parameters, and `dx`, add to its sums."""
    from_x = None if dx is None else matmul(dx, layer.weight_ih, precision)
    wide = None
    if (
        cell.joinable and d.weight_ih is not None and d.weight_hh is not None
    ):  # in reverse: one gradient of both
        both = jnp.concatenate([x, residuals.h_before.astype(x.dtype)], axis=-1)
        wide = matmul(both, jnp.concatenate([d.weight_ih, d.weight_hh], axis=1), precision)
    else:
        if d.weight_ih is not None:
            from_x = _sum(from_x, matmul(x, d.weight_ih, precision))
        if d.weight_hh is not None:
            wide = matmul(residuals.h_before, d.weight_hh, precision)

    drive = _Drive(wide, {}, None)
    if derivative.own_drive and None not in d.own.values():
        drive = _add_blocks(
            cell, drive, derivative.own_drive(residuals, d.own), residuals.h_before.shape[:-1]
        )
    if from_x is not None:
        drive = _add_x(cell, drive, from_x)
    biases = {name: bias for name, bias in d.bias.items() if bias is not None}
    return _add_blocks(cell, drive, biases, residuals.h_before.shape[:-1])


def _add_x(cell: Cell, drive: _Drive, product: jax.Array) -> _Drive:
    """Add a product with W_ih, as wide as that, to what drives a layer."""
    if cell.joinable:
        return drive._replace(wide=_sum(product, drive.wide))
    blocks = dict(zip(cell.x_gates, jnp.split(product, cell.gates, -1), strict=True))
    return _add_blocks(cell, drive, blocks, product.shape[:-1])


def _add_blocks(cell: Cell, drive: _Drive, blocks: dict[str, jax.Array], rows: tuple[int, ...]) -> _Drive:
    """Add {pre-activation: [..., H]} to what drives a layer, each repeated for all rows."""
    of_h = [blocks.get(name) for name in cell.h_gates]
    given = [block for block in of_h if block is not None]
    wide, only_x = drive.wide, dict(drive.only_x)
    if given:
        zeros = jnp.zeros_like(given[0])
        joined = jnp.concatenate([zeros if block is None else block for block in of_h], axis=-1)
        wide = _sum(jnp.broadcast_to(joined, (*rows, joined.shape[-1])), wide)
    for name in blocks.keys() - set(cell.h_gates):
        only_x[name] = _sum(jnp.broadcast_to(blocks[name], (*rows, blocks[name].shape[-1])), only_x.get(name))
    return drive._replace(wide=wide, only_x=only_x)


# What the forward loop left behind ---------------------------------------------------------------------------


def _residuals(part: _Part, number: int, start: jax.Array, piece: _Chunk, below: jax.Array) -> Residuals:
    """Return what the derivative of a layer may look at in a chunk, each [K, B, ...]; `below` is what enters it."""
    cell, layer, left = part.cell, part.inputs.layers[number], part.left[number]
    derivative, initial = cell.linearisation(), part.inputs.states[number]
    if part.plan.keep != "gates":
        assert left.h is not None
        h, h_before = _stored(part, left.h, initial.h, start, piece)
        sums = sums_of(cell, part.precision, layer, joined=cell.joinable)
        pre = sums.of_step(sums.ahead(below), h_before)
        if part.plan.keep == "carry":
            fields = zip(left.rest, initial[1:], strict=True)
            rest = tuple(
                _stored(part, *of_field, start, piece)[1].astype(initial.h.dtype) for of_field in fields
            )
        else:
            rest = _rest_again(part, number, start, piece, pre, h_before)
        return Residuals(derivative.keep(pre, cell.state(h_before, *rest), layer.own), h_before, h)
    if left.h is not None:
        h, h_before = _stored(part, left.h, initial.h, start, piece)
        return Residuals(unpacked(_slice(part, left.kept, start), cell, layer), h_before, h)
    assert derivative.output is not None
    kept = unpacked(_slice(part, left.kept, start), cell, layer)
    h = derivative.output(kept, layer.own)
    previous, inside = _previous(part, start)
    if part.inputs.valid is not None:
        inside = inside & _at(part.inputs.valid, previous)
    of_previous = tuple(_at(array, previous) for array in left.kept)
    entering = jnp.where(inside, derivative.output(unpacked(of_previous, cell, layer), layer.own), initial.h)
    return Residuals(kept, _before(part, h, entering, piece), h)


def _stored(
    part: _Part, of_all: jax.Array, initial: jax.Array, start: jax.Array, piece: _Chunk
) -> tuple[jax.Array, jax.Array]:
    """Return a field of the state after and before each step of a chunk, given that after all steps."""
    after = _slice(part, of_all, start)
    previous, inside = _previous(part, start)
    entering = jnp.where(inside, _at(of_all, previous), initial.astype(of_all.dtype))
    return after, _before(part, after, entering, piece)


def _before(part: _Part, after: jax.Array, entering: jax.Array, piece: _Chunk) -> jax.Array:
    """Return a field of the state [K, B, ...] before each step of a chunk, given that after each step."""
    # Backwards, padding comes first: until its first valid step, a row is as it was.
    if part.backwards and piece.valid is not None:
        after = jnp.where(piece.valid, after, entering)
    if part.reverse:
        before = jnp.concatenate([after[1:], entering[None]])
    else:
        before = jnp.concatenate([entering[None], after[:-1]])
    return before if piece.restart is None else jnp.where(piece.restart, 0, before)


def _rest_again(
    part: _Part, number: int, start: jax.Array, piece: _Chunk, pre: tuple[jax.Array, ...], h_before: jax.Array
) -> tuple[jax.Array, ...]:
    """Return what the state holds beside h before each step of a chunk: the steps again, without their products."""
    cell, own = part.cell, part.inputs.layers[number].own
    entering = tuple(_at(field, start // part.plan.chunk) for field in part.left[number].rest)
    if not entering:
        return ()

    def step(rest, xs):
        pre, h, valid, restart = xs
        before = select(restart, jax.tree.map(jnp.zeros_like, rest), rest)
        after = cell.step(pre, cell.state(h, *before), own)[1:]
        return select(valid, after, rest, default=True), before

    return lax.scan(step, entering, (pre, h_before, piece.valid, piece.restart), reverse=part.reverse)[1]


def _slice(part: _Part, arrays: Any, start: jax.Array) -> Any:
    # As a chunk of chunks, not as steps of all: of the latter, a TPU's compiler makes a copy in another layout.
    chunks = cut(arrays, part.inputs.x.shape[0] // part.plan.chunk)
    return jax.tree.map(lambda a: _at(a, start // part.plan.chunk), chunks)


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
    return lax.dynamic_index_in_dim(array, index, keepdims=False)


def _previous(part: _Part, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the step before a chunk, as the loop goes, and whether there is one."""
    previous = start + part.plan.chunk if part.reverse else start - 1
    steps = part.inputs.x.shape[0]
    return jnp.clip(previous, 0, steps - 1), (previous >= 0) & (previous < steps)


def _sum(a: jax.Array | None, b: jax.Array | None) -> Any:
    return b if a is None else a if b is None else a + b


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _instantiate(tangent: Any) -> jax.Array:
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent
