"""How the fast unroll computes a given size: a few numbers, chosen by arithmetic on shapes alone.

Results do not depend on a plan, only time and memory do. The constants were chosen on sizes that no table of
`docs/performance.md` uses; that page tells what was measured, and where.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType

from jaxrnn.cells import Cell

LANES = 128  # of a TPU's vector register, along the last axis
FLOAT32 = 4  # bytes; states and pre-activations are carried in float32 or wider
# A chunk's pre-activations, [K, B, G*H]: large enough for its products to run at full speed, small enough to be in
# the cache still when they are multiplied.
CHUNK_BYTES = 4 * 2**20
# XLA takes its temporary memory anew at each call, and glibc gives blocks above 32 MiB back to the system at once:
# then every page of them is faulted in anew. So a chunk shrinks where it would carry the whole over this limit, ...
ALLOCATOR_BYTES = 31.75 * 2**20
# ... but not to fewer rows than a product needs. Where the residuals alone are beyond the limit, a chunk of half
# the size leaves more of the cache to them.
LEAST_ROWS = 256
LARGE_CHUNK_BYTES = 2 * 2**20
# From this many rows on, one step is enough for a product to run at full speed, and gradients are added up step by
# step: so little is kept that nothing leaves the cache. Earlier where the sums added up are small.
SINGLE_ROWS = 192
SMALL_ROWS = 96
SMALL_WEIGHTS_BYTES = 2**19
# On a GPU a step's time is the launching of its kernels: 23 by JAX's own derivative of an LSTM, 11 with residuals
# in one array, 5.3 where eight steps are written at once (compiled for an H100).
GPU_UNROLL = 8
# A chunk costs some launches of its own, so there it is as long as its pre-activations, which are taken for a chunk
# at a time, remain small beside what is kept of all steps.
GPU_CHUNK_BYTES = 32 * 2**20
GPU_CHUNK_STEPS = 64
AGAIN_STEPS = 128  # of a chunk, at least, where its gates are computed again on an accelerator
# From this many rows on, one product of [x, h] per step costs a network of several gates less than a projection
# ahead of the loop, which is written, read and added. Below it, a step is bound by reading its weights.
JOINED_ROWS = 4
# Layers that advance together hand over h in the cache and store neither it nor its cotangent, but multiply by
# W_ih in each step. That pays where gradients are added up step by step anyway, and from this many rows on for a
# cell whose products are apart; for the others a product over a chunk is faster than a part of a step's.
TOGETHER_ROWS = 32
# Two directions beside each other give a step's products twice the work, and half the waits. That pays from so many
# rows on, later where the loop multiplies ``[x, h]`` and so has much to do in each step anyway. A network of one
# gate computes too little between its products for that.
BESIDE_ROWS = 32
BESIDE_ROWS_JOINED = 64


class Target(NamedTuple):
    """What is planned for."""

    platform: str  # "cpu", "gpu" or "tpu"
    kind: str | None = None  # of a TPU, as JAX calls it, "TPU v5 lite"; None: any
    devices: int = 1


_target: ContextVar[Target | None] = ContextVar("what to plan for", default=None)


@contextmanager
def planning_for(platform: str, kind: str | None = None, devices: int = 1) -> Iterator[None]:
    """Plan what is traced in here for "cpu", "gpu" or "tpu", one or several, as for compiling ahead of time.

    `kind` is that of the device, `jax.Device.device_kind`.
    """
    token = _target.set(Target(platform, kind, devices))
    try:
        yield
    finally:
        _target.reset(token)


def target() -> Target:
    """Return what to plan for: this process's devices, unless others were asked for."""
    wanted = _target.get()
    if wanted is not None:
        return wanted
    platform = jax.default_backend()
    kind = jax.local_devices()[0].device_kind if platform == "tpu" else None
    return Target(platform, kind, jax.device_count())


def runs_on_one_device(x: jax.Array, target: Target) -> bool:
    """Return whether a call that XLA cannot divide among devices may be made on `x`.

    It may in a process with one device, and in `jax.shard_map`, where `x` is one device's part.
    """
    if target.devices == 1:
        return True
    mesh: Any = jax.typeof(x).sharding.mesh
    return bool(mesh.axis_types) and all(kind == AxisType.Manual for kind in mesh.axis_types)


class Plan(NamedTuple):
    """What an unroll may vary.

    chunk: steps whose projections, and in the backward pass whose weight and input gradients, are one product.
    joined: the loop multiplies ``[x, h]`` by ``[W_ih, W_hh]``; else ``W_ih x`` is computed a chunk ahead of it.
    packed: what a step leaves behind for the backward pass is written as one array.
    unroll: steps in one round of the loop.
    together: several layers advance in one loop, each on what the one below has just returned.
    beside: both directions of a bidirectional layer advance in one loop.
    keep: what is kept of each step, see `jaxrnn.ops.memory.Memory`; only this changes how much is computed.
    """

    chunk: int
    joined: bool
    packed: bool = False
    unroll: int = 1
    together: bool = False
    beside: bool = False
    keep: str = "gates"


def choose(
    cell: Cell,
    steps: int,
    rows: int,
    input_features: int,
    hidden_features: int,
    platform: str | None = None,
    *,
    layers: int = 1,
    directions: int = 1,
    ragged: bool = False,
    keep: str = "gates",
) -> Plan:
    """Return the plan for `rows` sequences (B) of `steps` (T) on a platform, by default that of `target()`."""
    platform = platform or target().platform
    if not (
        isinstance(steps, int) and isinstance(rows, int)
    ):  # symbols of `jax.export`, which have no size yet
        return Plan(max(steps, 1), False, keep=keep)
    if keep != "gates":  # a chunk's gates are computed again as one product
        pre_activations = FLOAT32 * cell.gates * hidden_features * max(rows, 1)
        least = LEAST_ROWS // max(rows, 1) if platform == "cpu" else AGAIN_STEPS
        wanted = (CHUNK_BYTES if platform == "cpu" else GPU_CHUNK_BYTES) // max(pre_activations, 1)
        return Plan(even_chunk(steps, max(wanted, least, 1)), False, keep=keep)
    if platform in ("gpu", "cuda", "rocm"):
        wanted = GPU_CHUNK_BYTES // max(FLOAT32 * cell.gates * hidden_features * rows, 1)
        chunk = even_chunk(steps, max(wanted, GPU_CHUNK_STEPS))
        return Plan(chunk, False, packed=True, unroll=min(GPU_UNROLL, chunk))
    if platform != "cpu":  # the gradients of all steps are one product
        return Plan(max(steps, 1), False)
    weights = FLOAT32 * cell.gates * hidden_features * (input_features + hidden_features)
    few_sums = rows >= SMALL_ROWS and weights <= SMALL_WEIGHTS_BYTES and not _joins(cell)
    beside = (
        directions > 1 and cell.gates > 1 and rows >= (BESIDE_ROWS_JOINED if cell.joinable else BESIDE_ROWS)
    )
    if rows >= SINGLE_ROWS or few_sums:
        return Plan(1, False, together=layers > 1, beside=beside)
    together = layers > 1 and not cell.joinable and rows >= TOGETHER_ROWS
    joined = _joins(cell) and rows >= JOINED_ROWS
    size = steps, rows, input_features, hidden_features
    count = (layers if together else 1) * (directions if beside else 1)
    return Plan(_chunk(cell, *size, count, ragged), joined, together=together, beside=beside)


def _joins(cell: Cell) -> bool:
    """Return whether joining pays: a network of one gate has too little to gain."""
    return cell.joinable and cell.gates > 1


def _chunk(
    cell: Cell,
    steps: int,
    rows: int,
    input_features: int,
    hidden_features: int,
    layers: int,
    ragged: bool,
) -> int:
    """Return the steps of a chunk of so many layers, or directions of one, in one loop."""
    rows = max(rows, 1)
    sums = FLOAT32 * cell.gates * hidden_features * layers
    # What is multiplied, per row; x without what its padding holds is a copy, and so is its gradient.
    inputs = FLOAT32 * (input_features * (3 if ragged else 1) + hidden_features * (2 * layers - 1))
    array = FLOAT32 * steps * rows * hidden_features
    # Temporary memory of a training step, as XLA lays it out. Forward: gates and states of each layer, outputs
    # and their cotangents, of all steps. Backward: these but the outputs, and the sums, inputs and gradients of a
    # chunk.
    kept = ((len(cell.pre_activations) + 1) * layers + 1) * array
    spare = (ALLOCATOR_BYTES - kept) / ((2.5 if _joins(cell) else 3.0) * (sums + inputs))
    if kept + array > ALLOCATOR_BYTES or spare < LEAST_ROWS:
        return even_chunk(steps, int(LARGE_CHUNK_BYTES / sums) // rows)
    if spare < CHUNK_BYTES / sums:
        return even_chunk(steps, int(spare) // rows, most=int(spare) // rows)
    return even_chunk(steps, int(CHUNK_BYTES / sums) // rows)


def even_chunk(steps: int, target: int, most: int | None = None) -> int:
    """Return a chunk of about `target` steps, one that divides `steps` if there is one in its neighbourhood.

    A remainder is a second loop: it costs compile time, and memory for putting the two together.
    """
    target = max(target, 1)
    if steps <= target:
        return max(steps, 1)
    most = target + target // 6 if most is None else most
    near = sorted(range(target // 4 + 1, most + 1), key=lambda chunk: abs(chunk - target))
    return next((chunk for chunk in near if steps % chunk == 0), target)
