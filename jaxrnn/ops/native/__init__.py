"""The unroll on a CPU as compiled kernels (C++, `csrc/`), called through XLA's foreign function interface.

XLA's loop calls a general matrix product in each step. It packs ``W_hh`` anew every time, wakes a second thread
that slept during the elementwise part, and runs at a quarter to three quarters of the processor's speed. Here one
call makes all steps of a layer in one direction: weights are packed once and stay in the cache, threads stay awake,
and a step's elementwise part is computed where its sums lie. Backward likewise; the gradients of the weights and
of x are products over some hundred rows at a time, of what is in the cache still.

`csrc/cells.h` holds what `jaxrnn.cells` says of each cell, in vectors, with its derivative; `forward.h` (with
`few_rows.h` for the inputs where rows are few) and `backward.h` the loops, the same for all cells; `layout.h` how
they are divided; `products.h` the matrix product; `team.cc` the threads. Results do not depend on how many there
are. float32 only. What is not served here is computed by "scan", and so are forward mode and second derivatives.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxrnn.cells import Cell, Parameters, State
from jaxrnn.ops import scan
from jaxrnn.ops.memory import Memory
from jaxrnn.ops.native import call, library
from jaxrnn.ops.planning import Plan, Target, runs_on_one_device

# Packing the weights takes as long as multiplying so many rows by them: with fewer in all, a scan is faster.
# It takes more from so many hidden units on, as their weights come from memory, not from a cache.
LEAST_ROWS, LEAST_ROWS_OF_WIDE, WIDE = 16, 40, 400
# With fewer hidden units most of a vector is empty.
LEAST_HIDDEN = 8
# A vanilla RNN has less to win.
LEAST_ROWS_OF_ONE_GATE, LEAST_HIDDEN_OF_ONE_GATE = 40, 16
# What is kept for the backward pass is kept in whole vectors. That may cost so much of memory.
PADDING_BYTES = 32 * 2**20


def unroll(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer and direction
    valid: jax.Array | None,  # bool [T, B, 1]
    resets: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
    memory: Memory | None = None,
    target: Target,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, D*H] of the last layer and all final states, as `reference.unroll` does."""
    if reason := why_not(cell, layers, x, states, memory=memory or Memory(), target=target):
        raise NotImplementedError(
            f"implementation='native' {reason}. Leave implementation at None to let jaxrnn choose, or take 'scan'."
        )
    return scan.unroll(
        cell, layers, x, states, valid, resets, reverse=reverse, bidirectional=bidirectional,
        precision=precision, memory=memory, planner=_one_chunk, run=call.run,
    )  # fmt: skip


def _one_chunk(cell: Cell, steps: int, *size: Any, **options: Any) -> Plan:
    """Return a plan for the whole recurrence at once: the kernels make chunks of their own."""
    return Plan(max(steps, 1), joined=False)


def why_not(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,
    states: Sequence[State],
    *,
    memory: Memory,
    target: Target,
) -> str | None:
    """Return why the kernels cannot serve this request; None where they can."""
    if target.platform != "cpu":
        return f"is for CPUs, not for a {target.platform}"
    if reason := library.why_missing():
        return reason
    if cell not in call.KERNELS:
        return f"has no kernel for {cell!r}"
    arrays = jax.tree.leaves((x, [dict(params) for params in layers], states))
    if others := {a.dtype.name for a in arrays} - {"float32"}:
        return f"computes in float32, not in {', '.join(sorted(others))}"
    if memory.keep != "gates":
        return f"keeps the gates of each step, not {memory.keep!r}"
    if not all(isinstance(size, int) for size in x.shape):
        return "needs sizes that are numbers, not symbols"
    if 0 in x.shape[1:]:
        return "needs rows and features"
    return None


def is_chosen(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],
    *,
    memory: Memory,
    target: Target,
) -> bool:
    """Return whether `implementation=None` means the kernels here: where they serve, on one device, and pay."""
    if why_not(cell, layers, x, states, memory=memory, target=target) or not runs_on_one_device(x, target):
        return False
    rows, hidden = x.shape[0] * x.shape[1], layers[0]["weight_ih"].shape[0] // cell.gates
    if cell.gates == 1:
        least_rows, least_hidden = LEAST_ROWS_OF_ONE_GATE, LEAST_HIDDEN_OF_ONE_GATE
    else:
        least_rows, least_hidden = LEAST_ROWS_OF_WIDE if hidden >= WIDE else LEAST_ROWS, LEAST_HIDDEN
    padding = 4 * call.KERNELS[cell].kept * (-hidden % call.LANES) * rows
    return x.shape[0] > 1 and rows >= least_rows and hidden >= least_hidden and padding <= PADDING_BYTES
