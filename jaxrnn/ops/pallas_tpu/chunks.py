"""Long sequences whose x a kernel cannot read as it lies: both kernels, called for a chunk of blocks at a time.

A kernel reads x [T, B, I] with its features in registers, 128 to one. If I is not a multiple of that, XLA, which
keeps such an array without gaps, copies all of it before the call, into up to 128 / I times its memory. Called
chunk by chunk, only a chunk is copied at a time; but then what the kernel wrote is copied once, too.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import State
from jaxrnn.ops.pallas_tpu.backward import Gradients, run_backward
from jaxrnn.ops.pallas_tpu.blocks import Blocks
from jaxrnn.ops.pallas_tpu.forward import Written, run_forward
from jaxrnn.ops.pallas_tpu.operands import Operands
from jaxrnn.ops.pallas_tpu.sizes import MIB, round_up
from jaxrnn.ops.planning import LANES

LARGE_COPY = 512 * MIB  # of x, from which on it matters that it is made
# Blocks of a chunk: each call fetches the weights, which takes as long as a few blocks do.
MOST_BLOCKS, LEAST_BLOCKS = 64, 16


def forward(blocks: Blocks, operands: Operands, *, keep_rest: bool) -> Written:
    """Return what `run_forward` does."""
    count = _chunks(blocks, operands)
    if count == 1:
        return run_forward(blocks, operands, keep_rest=keep_rest)

    def chunk(state: State, piece: Any) -> tuple[State, Any]:
        written = run_forward(blocks, _of_chunk(operands, state, piece), keep_rest=keep_rest)
        return written.final, (written.h, written.rest)

    final, along_time = lax.scan(chunk, operands.state, _pieces(operands, count), reverse=blocks.reverse)
    h, rest = jax.tree.map(_whole, along_time)
    return Written(h, rest, final)


def backward(
    blocks: Blocks, operands: Operands, written: Written, dh: jax.Array, d_final: State, *, of_x: bool
) -> Gradients:
    """Return what `run_backward` does."""
    count = _chunks(blocks, operands)
    if count == 1:
        return run_backward(blocks, operands, written, dh, d_final, of_x=of_x)

    def chunk(carry: Any, piece: Any) -> tuple[Any, Any]:
        d_state, sums = carry
        of_x_and_marks, entering, h, rest, dh = piece
        found = run_backward(
            blocks,
            _of_chunk(operands, entering, of_x_and_marks),
            Written(h, rest, None),
            dh,
            d_state,
            of_x=of_x,
        )
        added = found._replace(x=None, state=None)
        return (found.state, added if sums is None else jax.tree.map(jnp.add, sums, added)), found.x

    def first(d_state: State, piece: Any) -> tuple[Any, Any]:
        return chunk((d_state, None), piece)

    cut = partial(jax.tree.map, partial(_cut, count=count))
    pieces = (
        _pieces(operands, count),
        _entering(blocks, operands, written, count),
        *cut((written.h, written.rest, dh)),
    )
    sums = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(first, d_final, _at(pieces, 0))[0][1]
    )
    (d_state, sums), dx = lax.scan(chunk, (d_final, sums), pieces, reverse=not blocks.reverse)
    return sums._replace(x=_whole(dx) if of_x else None, state=d_state)


def _chunks(blocks: Blocks, operands: Operands) -> int:
    """Return in how many chunks the kernels are called."""
    steps, rows, features = operands.x.shape
    copied = steps * rows * round_up(features, LANES) * operands.x.dtype.itemsize
    if features % LANES == 0 or copied < LARGE_COPY:
        return 1
    number = steps // blocks.steps
    fitting = (n for n in range(MOST_BLOCKS, LEAST_BLOCKS - 1, -1) if number % n == 0)
    return number // next(fitting, number)


def _entering(blocks: Blocks, operands: Operands, written: Written, count: int) -> State:
    """Return the state before each chunk, of those after each step; where only bounds are kept, no rest is read."""
    kept = (written.h, *(written.rest if blocks.keep != "h" else ()))
    ends = [_cut(field, count)[:, 0 if blocks.reverse else -1].astype(jnp.float32) for field in kept]
    fields = []
    for n, initial in enumerate(operands.state):
        after = ends[n] if n < len(ends) else jnp.zeros((count, *initial.shape))
        before = [after[1:], initial[None]] if blocks.reverse else [initial[None], after[:-1]]
        fields.append(jnp.concatenate(before))
    return type(operands.state)(*fields)


def _pieces(operands: Operands, count: int) -> tuple[jax.Array, Any, Any]:
    """Return x and the marks, cut into chunks."""
    marks = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (operands.valid, operands.restart))
    return jax.tree.map(partial(_cut, count=count), (operands.x, *marks))


def _of_chunk(operands: Operands, state: State, piece: Sequence[Any]) -> Operands:
    x, *marks = piece
    valid, restart = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), tuple(marks))
    return operands._replace(x=x, state=state, valid=valid, restart=restart)


def _cut(array: jax.Array, count: int) -> jax.Array:
    return array.reshape(count, array.shape[0] // count, *array.shape[1:])


def _whole(chunks: jax.Array) -> jax.Array:
    return chunks.reshape(-1, *chunks.shape[2:])


def _at(pieces: Any, number: int) -> Any:
    return jax.tree.map(lambda a: a[number], pieces)
