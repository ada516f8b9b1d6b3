"""The unroll as one persistent kernel for Hopper GPUs: ``W_hh`` stays on the chip for all steps. Experimental.

A cluster of C thread blocks serves N rows of the batch; clusters do not know of each other. Each block owns H / C
units, keeps the rows of ``W_hh`` of all their gates in shared memory, and in each step

1. multiplies them by ``h`` [H, N], which is in its shared memory too (`wgmma`), while it loads the next projection,
2. applies the cell's own step to its units, in registers and float32,
3. writes its part of the new ``h`` into the shared memory of every block of the cluster.

The weights are the product's left operand, its rows the gates of a block's units, and the batch is its width: a
batch of 16 wastes none of the tensor core's 64 rows, of which ``h`` on the left would fill a quarter. Its rows are
sorted so that one thread holds all gates of a unit (`arrange`), whatever the cell.

There are two buffers for h, each with a barrier that is complete when all blocks have delivered. No other
synchronisation is needed: a block delivers the h of step t+2 only after it has received all of t+1, which its
neighbours sent after they had read the buffer of t. The projection ``W_ih x + b`` is XLA's work ahead of the
kernel, and gradients are those of `scan`: its linearised loop, from what the kernel leaves behind
(`Derivative.keep`).

Half-precision weights are multiplied as they are. float32 weights are multiplied as the sum of two bfloat16 numbers
each, in three products: relative errors of about 2⁻¹⁶ where TF32 makes 2⁻¹¹, in as much shared memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Derivative, Parameters, State, matmul
from jaxrnn.ops import loop, scan
from jaxrnn.ops import precision as precisions
from jaxrnn.ops.loop import Left, Recurrence
from jaxrnn.ops.pallas_gpu.kernel import Operands, run_kernel
from jaxrnn.ops.pallas_gpu.tiles import FLOAT32, REMEDY, Tiles, arrange, plan_tiles, split_parts
from jaxrnn.ops.planning import choose
from jaxrnn.ops.reference import without_padding

OLDEST_JAX = (0, 11, 2)
ALLOWED_PRECISIONS = ("none", "default", "high", "fastest", "tensorfloat32", "bfloat16", "bfloat16_3x")


def unroll(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [T, B, I]
    states: Sequence[State],  # one per layer
    valid: jax.Array | None,  # bool [T, B, 1]
    resets: jax.Array | None,  # bool [T, B, 1]
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, D*H] of the last layer and all final states, as `reference.unroll` does.

    Each direction of each layer is a kernel on a Hopper GPU.
    """
    _require_hopper()
    return persistent(
        cell, layers, x, states, valid, resets,
        reverse=reverse, bidirectional=bidirectional, precision=precision,
    )  # fmt: skip


def persistent(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,
    states: Sequence[State],
    valid: jax.Array | None,
    resets: jax.Array | None,
    *,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike,
    tiles: Tiles | None = None,
    interpret: Any = None,
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return what `unroll` returns, whatever device this is compiled for.

    With `interpret`, JAX's `InterpretGPUParams`, a CPU does what the kernel says.
    """
    _require_api()
    for params, state in zip(layers, states, strict=True):
        _require_served(params, state, precision)
    steps, rows, features = x.shape
    hidden = states[0].h.shape[-1]
    tiles = tiles or plan_tiles(cell, rows, hidden, layers[0]["weight_hh"].dtype)
    plan = choose(cell, steps, rows, features, hidden, "gpu")._replace(packed=False)
    return scan.unroll(
        cell, layers, x, states, valid, resets, reverse=reverse, bidirectional=bidirectional,
        precision=precision, plan=plan, run=scan.by_loop(_Forward(tiles, interpret)),
    )  # fmt: skip


# What is refused -------------------------------------------------------------------------------------------


def _require_hopper() -> None:
    platform = jax.default_backend()
    if platform != "gpu":
        raise NotImplementedError(
            "implementation='pallas' needs a TPU or a Hopper GPU (H100, H200), but this process computes on "
            f"{platform}. {REMEDY}"
        )
    capability = getattr(jax.local_devices()[0], "compute_capability", "unknown")
    if capability != "9.0":
        raise NotImplementedError(
            "implementation='pallas' needs a Hopper GPU (H100, H200: compute capability 9.0), but this one "
            f"({jax.local_devices()[0].device_kind}) has {capability}. {REMEDY}"
        )


def _require_api() -> None:
    if jax.__version_info__ < OLDEST_JAX:
        raise NotImplementedError(
            f"implementation='pallas' needs JAX {'.'.join(map(str, OLDEST_JAX))}, but this is {jax.__version__}. "
            f"pip install -U 'jax[cuda13]' (Python 3.12 or newer). {REMEDY}"
        )


def _require_served(params: Parameters, state: State, precision: lax.PrecisionLike) -> None:
    if "weight_hr" in params:
        raise NotImplementedError(
            f"implementation='pallas' has no projection (weight_hr, proj_size). {REMEDY}"
        )
    dtype = params["weight_hh"].dtype
    if dtype not in (jnp.bfloat16, jnp.float16, FLOAT32) or state.h.dtype != FLOAT32:
        raise NotImplementedError(
            "implementation='pallas' carries its state in float32 and takes weights of bfloat16, float16 and "
            f"float32, but the weights are {dtype} and the state {state.h.dtype}. {REMEDY}"
        )
    refused = precisions.names(precision).difference(ALLOWED_PRECISIONS)
    if dtype == FLOAT32 and refused:
        raise NotImplementedError(
            "implementation='pallas' multiplies float32 weights with errors of about 2^-16, which "
            f"precision={min(refused)!r} does not allow. Use precision='high', or bfloat16 weights. {REMEDY}"
        )


# The loop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Forward:
    """The forward loop as a value, in place of `loop.run`."""

    tiles: Tiles
    interpret: Any

    def __call__(self, cell, plan, reverse, precision, inputs, derivative):
        return _run(self, cell, plan, reverse, precision, derivative, inputs)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4, 5))
def _run(
    forward: _Forward,
    cell: Cell,
    plan: Any,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    derivative: Derivative | None,
    inputs: tuple[Recurrence, ...],
) -> loop.Results:
    """Return what `loop.run` returns for one layer in one direction, computed by the kernel."""
    (one,), (backwards,) = inputs, reverse
    (layer,) = one.layers
    operands = _operands(cell, forward.tiles, precision, one)
    results = run_kernel(cell, forward.tiles, backwards, derivative, operands, interpret=forward.interpret)
    h, final, kept = jax.tree.map(
        partial(_whole, rows=one.x.shape[1]), (results.h, results.final, results.kept)
    )
    stored = derivative is not None and not loop.follows(derivative, layer)
    return (h,), ((final,),), ((Left(kept, h if stored else None),),)


@_run.defjvp
def _run_tangent(forward, cell, plan, reverse, precision, derivative, primals, tangents):
    """Differentiate the loop itself, which second derivatives need: there, it is the scan's."""

    def run(inputs):
        return loop.run(cell, plan, reverse, precision, inputs, derivative)

    return jax.jvp(run, primals, tangents)


def _operands(cell: Cell, tiles: Tiles, precision: lax.PrecisionLike, inputs: Recurrence) -> Operands:
    (layer,), (initial,) = inputs.layers, inputs.states
    dtype, tiled = layer.weight_hh.dtype, partial(_tiled, width=tiles.rows)
    state = jax.tree.map(tiled, initial)

    x = without_padding(inputs.valid, inputs.x)

    def mask(array):
        return None if array is None else tiled(array)[:, :, 0].astype(FLOAT32)

    return Operands(
        split_parts(arrange(cell, tiles, layer.weight_hh), dtype),
        tiled(matmul(x, layer.weight_ih, precision) + loop.wide_bias(cell, layer)).astype(FLOAT32),
        loop.late_biases(cell, layer),
        {name: array.astype(FLOAT32) for name, array in layer.own.items()},
        split_parts(state.h, dtype),
        state,
        mask(inputs.valid),
        mask(inputs.restart),
    )


def _tiled(array: jax.Array, width: int) -> jax.Array:
    """Return an array [..., B, F] as [tiles, ..., F, N], with zeros for the rows that the last tile lacks."""
    *outer, rows, features = array.shape
    count = max(math.ceil(rows / width), 1)
    padded = jnp.pad(array, [(0, 0)] * len(outer) + [(0, count * width - rows), (0, 0)])
    return jnp.moveaxis(padded.reshape(*outer, count, width, features).swapaxes(-1, -2), -3, 0)


def _whole(array: jax.Array, rows: int) -> jax.Array:
    """Return an array [tiles, ..., F, N] as [..., B, F]."""
    tiles_inside = jnp.moveaxis(array, 0, -3).swapaxes(-1, -2)
    *outer, count, width, features = tiles_inside.shape
    return tiles_inside.reshape(*outer, count * width, features)[..., :rows, :]
