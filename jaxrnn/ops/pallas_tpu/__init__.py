"""The unroll as two kernels for TPUs, forward and backward: ``W_hh`` stays on the chip for all steps.

XLA's loop fetches ``W_hh`` anew, or waits for it, in each step, and saves what the backward pass needs one array at
a time. Here the grid runs over blocks of steps: while the steps of one are computed, the next block's x is on its
way in and the last one's h on its way out. In each block

* forward, ``W_ih x + b`` is one product for all its steps; then, step by step, ``W_hh h`` and the cell's own step;
* backward, the gates are computed again, as two products for all its steps, from x and the states that the forward
  kernel left behind; then, step by step, the transposed step of the cell and ``da W_hh``; and then, as products for
  all its steps again, the gradients of x and of both weights, which are summed in float32 in the chip's memory.

So what a training step keeps is x and the states, whatever the memory policy: "gates" keeps c in float32, "carry"
in the dtype of the layer, "h" once per block. Any cell is served: `Cell.step` and its `Derivative` are what runs in
the kernels (transposed by JAX).

Weights are float32 or bfloat16, sums float32. Products of float32 are, as everywhere on a TPU, one pass in bfloat16
unless `precision` asks for more.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Parameters, State
from jaxrnn.ops import precision as precisions
from jaxrnn.ops import scan
from jaxrnn.ops.memory import Memory
from jaxrnn.ops.pallas_tpu.sizes import MIB, SUBLANES, Size, choose_steps, needed_bytes, plan_for, vmem_of
from jaxrnn.ops.planning import Plan, Target, runs_on_one_device

REMEDY = "Leave implementation at None to let jaxrnn choose, or take 'scan'."


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
    interpret: Any = False,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, D*H] of the last layer and all final states, as `reference.unroll` does.

    Each direction of each layer is a kernel. With `interpret`, a CPU does what the kernels say.
    """
    if reason := why_not(cell, layers, x, states, target=target):
        raise NotImplementedError(f"implementation='pallas' {reason}. {REMEDY}")
    from jaxrnn.ops.pallas_tpu.call import by_kernels  # here: it takes a second to load what others never use

    allowed = vmem_of(target.kind)

    def plan(cell, steps, rows, features, hidden, platform, *, keep, **options) -> Plan:
        size = Size(cell, rows, features, hidden, layers[0]["weight_hh"].dtype, x.dtype)
        return plan_for(size, steps, allowed, keep)

    return scan.unroll(
        cell, layers, x, states, valid, resets, reverse=reverse, bidirectional=bidirectional,
        precision=_served_precision(precision), memory=memory, planner=plan,
        run=by_kernels(allowed, interpret=interpret),
    )  # fmt: skip


def why_not(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,
    states: Sequence[State],
    *,
    target: Target,
) -> str | None:
    """Return why the kernels cannot serve this request; None where they can."""
    if any("weight_hr" in params for params in layers):
        return "has no projection (weight_hr, proj_size)"
    dtypes = {params[name].dtype for params in layers for name in ("weight_ih", "weight_hh")} | {x.dtype}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}:
        found = ", ".join(sorted(dtype.name for dtype in dtypes))
        return f"multiplies x and weights of one dtype, float32 or bfloat16, not {found}"
    if any(field.dtype != jnp.float32 for state in states for field in state):
        return "carries its state in float32"
    if not all(isinstance(size, int) for size in x.shape):
        return "needs sizes that are numbers, not symbols"
    if 0 in x.shape[1:]:
        return "needs rows and features"
    for params in layers:
        rows, features = params["weight_ih"].shape
        size = Size(cell, x.shape[1], features, rows // cell.gates, params["weight_hh"].dtype, x.dtype)
        if choose_steps(size, x.shape[0], vmem_of(target.kind)) is None:
            needed, allowed = needed_bytes(size, SUBLANES, SUBLANES) / MIB, vmem_of(target.kind) / MIB
            return (
                f"keeps both weights and their gradients on the chip, {needed:.0f} MiB with {size.hidden_features} "
                f"features, of {allowed:.0f} MiB that it may take on {target.kind or 'any TPU'}"
            )
    return None


def is_chosen(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,
    states: Sequence[State],
    *,
    target: Target,
) -> bool:
    """Return whether `implementation=None` means the kernels here.

    XLA cannot divide a kernel among chips: where it would have to, in a process with several and outside of
    `jax.shard_map`, they are not chosen.
    """
    if target.platform != "tpu" or not runs_on_one_device(x, target):
        return False
    return why_not(cell, layers, x, states, target=target) is None and x.shape[0] > 1


def _served_precision(precision: lax.PrecisionLike) -> Any:
    """Return what the kernels multiply with: there is one pass in bfloat16, or all six."""
    one_pass = precisions.names(precision) <= {"none", "default", "fastest", "bfloat16"}
    return lax.Precision.DEFAULT if one_pass else lax.Precision.HIGHEST
