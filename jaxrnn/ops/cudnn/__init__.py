"""LSTMs by cuDNN, NVIDIA's library, through `jax.experimental.rnn`: a whole stack of layers is one call.

cuDNN and torch agree on gate order, on two biases, on where a reversed row begins (its own last step) and on final
states (after a row's last valid step), so parameters and results go through as they are. What differs is seen to
here: absent biases are zeros, and a row of length 0, which cuDNN refuses (https://github.com/jax-ml/jax/issues/17966),
is run for one step that nobody looks at.

Products round their factors to TensorFloat32 unless the precision is HIGHEST, as XLA's own do on these GPUs.
Forward mode, second derivatives and `vmap` work too, see `jaxrnn.ops.cudnn.calls`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.backend import get_backend
from jax.sharding import AxisType

from jaxrnn import cells
from jaxrnn.cells import Cell, LSTMState, Parameters, State
from jaxrnn.ops import precision as precisions
from jaxrnn.ops.cudnn import calls
from jaxrnn.ops.cudnn.calls import Stack


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
) -> tuple[jax.Array, tuple[State, ...]]:
    """Return every step's ``h`` [T, B, D*H] of the last layer and all final states, as `reference.unroll` does."""
    check(cell, layers, x, states, resets=resets is not None, precision=precision)
    lengths = None if valid is None else valid.sum(0)[:, 0]
    x = x.swapaxes(0, 1)
    if reverse:
        x = _reversed(x, lengths)
    stacked = LSTMState(*(jnp.stack(field) for field in zip(*states, strict=True)))
    h, finals = unroll_layers(layers, x, stacked, lengths, bidirectional=bidirectional, precision=precision)
    if reverse:
        h = _reversed(h, lengths)
    return h.swapaxes(0, 1), tuple(LSTMState(*fields) for fields in zip(*finals, strict=True))


def unroll_layers(
    layers: Sequence[Parameters],
    x: jax.Array,  # [B, T, I]
    state: LSTMState,  # each [L*D, B, H]
    lengths: jax.Array | None = None,  # int [B], beyond T counts as T
    *,
    bidirectional: bool = False,
    precision: lax.PrecisionLike = None,
) -> tuple[jax.Array, LSTMState]:
    """Return the last layer's outputs [B, T, D*H] and all final states [L*D, B, H].

    `layers`: parameters per layer and direction, index ``layer * D + direction``; biases may be absent. Outputs
    beyond a row's length are zero, and what the padding of `x` holds reaches nothing. `check` comes first.
    """
    rows, steps, _ = x.shape
    stack = _stack(layers, x, state.h.shape[-1], bidirectional, precision)
    stack = stack._replace(ragged=lengths is not None)
    weights = calls.pack(stack, layers)
    some = rows > 0 and steps > 0
    run = partial(calls.forward if some else calls.by_scan, stack)
    if lengths is None:
        y, h, c = run(x, *state, weights, jnp.full(rows, steps, jnp.int32))
        return y, LSTMState(h, c)
    valid = (jnp.arange(steps) < lengths[:, None])[..., None]
    begins = (lengths > 0)[:, None]  # the other rows keep their state; what they hold reaches no gradient
    h, c = (jnp.where(begins, s, 0) for s in state)
    lengths = jnp.clip(lengths, 1, steps).astype(jnp.int32)
    y, h, c = run(jnp.where(valid, x, 0), h, c, weights, lengths)
    final = LSTMState(jnp.where(begins, h, state.h), jnp.where(begins, c, state.c))
    return jnp.where(valid, y, 0), final


def _stack(
    layers: Sequence[Parameters],
    x: jax.Array,
    hidden_features: int,
    bidirectional: bool,
    precision: lax.PrecisionLike,
) -> Stack:
    directions = 2 if bidirectional else 1
    return Stack(
        input_features=x.shape[-1],
        hidden_features=hidden_features,
        layers=len(layers) // directions,
        directions=directions,
        tf32=bool(_allows_tf32(precision)),
        ragged=True,
    )


def _reversed(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Return rows [B, T, F] with each row's valid steps in reverse order.

    Two copies cost less than the forward half of a bidirectional call, which would be computed for nothing.
    """
    if lengths is None:
        return x[:, ::-1]
    times, lengths = jnp.arange(x.shape[1]), lengths[:, None]
    order = jnp.where(times < lengths, lengths - 1 - times, times)
    return jnp.take_along_axis(x, order[..., None], axis=1, mode="promise_in_bounds")


# What cuDNN serves -----------------------------------------------------------------------------------------


def check(
    cell: Cell, layers: Sequence[Parameters], x: jax.Array, states: Any, *, resets: bool, precision: Any
) -> None:
    """Raise `NotImplementedError` where cuDNN cannot serve this request."""
    if reason := why_not(cell, layers, x, states, resets=resets, precision=precision):
        raise NotImplementedError(
            f"implementation='cudnn' {reason}. Leave it at None to let jaxrnn choose, or take 'scan'."
        )


def why_not(
    cell: Cell, layers: Sequence[Parameters], x: jax.Array, states: Any, *, resets: bool, precision: Any
) -> str | None:
    """Return why cuDNN cannot serve this request; None where it can."""
    arrays = jax.tree.leaves((x, [dict(params) for params in layers], states))
    dtype = jnp.dtype(calls.DEVICE.dtype)
    if cell is not cells.LSTM:
        return f"computes LSTMs, not {cell!r}"
    if any("weight_hr" in params for params in layers):
        return "has no projection (proj_size) in JAX"
    if resets:
        return "cannot start anew inside a row (resets)"
    if others := {a.dtype.name for a in arrays} - {dtype.name}:
        return f"computes in {dtype}, not in {', '.join(sorted(others))}"
    if _allows_tf32(precision) is None:
        wanted = precisions.asked_for(precision)
        return f"multiplies in float32 or TensorFloat32, not with precision={wanted}"
    if not all(isinstance(size, int) for size in x.shape):
        return "needs sizes that are numbers, not symbols"
    if not all(map(_is_whole, arrays)):
        return "is one call on one device, not a part of jax.shard_map or of an explicit sharding"
    if not _is_there():
        return f"needs an NVIDIA GPU, and this process runs on {jax.default_backend()!r}"
    return None


def _is_there() -> bool:
    """Return whether this process runs on CUDA."""
    return "cuda" in get_backend().platform_version and hasattr(
        calls.rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes"
    )


def _is_whole(array: jax.Array) -> bool:
    """Return whether JAX leaves the sharding of an array to XLA: the calls say nothing about theirs."""
    return all(kind == AxisType.Auto for kind in jax.typeof(array).sharding.mesh.axis_types)


def _allows_tf32(precision: lax.PrecisionLike) -> bool | None:
    """Return whether a precision allows TensorFloat32; None where it means something else than that and float32."""
    known = {_PRECISIONS.get(name) for name in precisions.names(precision)}
    return None if None in known else False not in known


_PRECISIONS = {
    **dict.fromkeys(("none", "default", "fastest", "bfloat16", "high", "bfloat16_3x", "tensorfloat32"), True),
    **dict.fromkeys(("highest", "float32", "f32_f32_f32"), False),
    "tf32_tf32_f32": True,
}


# When it is faster -----------------------------------------------------------------------------------------

# Arithmetic, not measurement: nothing here was timed. Microseconds on an H100.
LAUNCH_US = 2.5  # of one kernel
SCAN_KERNELS = 2.25  # per step of our scan's forward loop, compiled ahead of time (docs/performance.md)
STEP_US = 2.0  # of cuDNN, published by NX-AI/flashrnn for B = 16, H = 768, half precision
# Before each call, JAX waits for the GPU and copies the lengths to the host; then no kernel waits in line.
CALL_US = 100.0
PACKED_BYTES_PER_US = 1.0e6  # parameters are copied into one vector: read and written at 2 TB/s
FLOPS_PER_US = {True: 2e8, False: 4e7}  # of a large product, TensorFloat32 or not: half of the data sheet's
# What cuDNN keeps for the backward pass takes four times the memory that it needs: JAX counts its bytes as floats.
MEMORY_SHARE = 1 / 16


def is_faster(stack: Stack, steps: int, rows: int) -> bool:
    """Return whether cuDNN should beat the scan.

    A step of the scan takes as long as its kernels take to launch, until that is less than its products take. From
    there on both wait for the same products, and the scan needs a quarter of the memory. So cuDNN is faster where
    what it saves per step, over all steps, is more than what a call costs beforehand.
    """
    products = 2 * 4 * rows * stack.hidden_features**2 / FLOPS_PER_US[stack.tf32]
    saved = max(SCAN_KERNELS * LAUNCH_US, products) - max(STEP_US, products)
    calls = CALL_US + 4 * stack.parameters / PACKED_BYTES_PER_US
    return steps * stack.layers * stack.directions * saved > calls


def is_chosen(
    cell: Cell,
    layers: Sequence[Parameters],
    x: jax.Array,  # [B, T, I]
    states: Sequence[State],  # one per layer and direction
    *,
    bidirectional: bool = False,
    resets: bool,
    precision: lax.PrecisionLike,
) -> bool:
    """Return whether `implementation=None` means cuDNN here.

    It does where cuDNN serves the request, should be faster and needs little of the device's memory, in a process
    with one device: with several, XLA would gather a batch that is spread over them for the one call.
    """
    if why_not(cell, layers, x, states, resets=resets, precision=precision) or jax.device_count() > 1:
        return False
    rows, steps, _ = x.shape
    stack = _stack(layers, x, states[0].h.shape[-1], bidirectional, precision)
    if rows == 0 or not is_faster(stack, steps, rows):
        return False
    try:
        return calls.reserve_bytes(stack, steps, rows) <= MEMORY_SHARE * _device_bytes()
    except RuntimeError:  # cuDNN does not answer
        return False


def _device_bytes() -> int:
    stats: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 2**34)
