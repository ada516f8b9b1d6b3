"""The recurrence: arrays in, arrays out; knows nothing of Flax."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells import Cell, Parameters, State, carry_dtype
from jaxrnn.linear_cells import LinearCell
from jaxrnn.ops import cudnn, linear, native, pallas_gpu, pallas_tpu, reference, scan
from jaxrnn.ops.memory import Memory, Size, resolve
from jaxrnn.ops.planning import Target, target
from jaxrnn.ops.quasi_deer import QuasiDeer

ANYWHERE = ("reference", "scan", "quasi_deer")
OF_SOME = ("native", "cudnn", "pallas")  # platforms, cells and sizes
IMPLEMENTATIONS = ANYWHERE + OF_SOME


def unroll(
    cell: Cell | LinearCell,
    params: Parameters,
    x: Float[Array, "*B T I"],
    state: State,
    *,
    lengths: Int[Array, "*B"] | None = None,
    resets: Bool[Array, "*B T"] | None = None,
    reverse: bool = False,
    precision: lax.PrecisionLike = None,
    implementation: str | QuasiDeer | None = None,
    memory: Any = None,
) -> tuple[Float[Array, "*B T R"], State]:
    """Apply `cell` along time; return its outputs [..., T, R] and the final state.

    * Any number of batch dimensions may stand before T, none included.
    * `lengths` in 0..T: steps at and beyond a row's length leave its state alone, their output is zero, and
      nothing in the padding of `x`, not even NaN, reaches a result or a gradient. A length of 0 returns `state`.
      A length beyond T counts as T: only a caller that knows the values can reject it (the layers do).
    * `resets` marks the steps at which a new sequence begins inside a row: no state crosses such a mark, in
      either direction. The first sequence of a row starts from `state`, the others from zeros.
    * `reverse` runs from each row's last valid step to its first; outputs keep their place in time.
    * `implementation`: "scan"; "native" (compiled kernels for a CPU, float32, see `jaxrnn.ops.native`); "cudnn" (an
      LSTM in float32 on an NVIDIA GPU, without projection and resets);
      "pallas" (one kernel for all steps: on a TPU, see `jaxrnn.ops.pallas_tpu`; on a Hopper GPU, experimental, see
      `jaxrnn.ops.pallas_gpu`); "quasi_deer", or a `QuasiDeer` with its options (all steps at once, see
      `jaxrnn.ops.quasi_deer`); "reference"; or None for the fastest that applies, "quasi_deer" left out and
      "pallas" on TPUs only. Unless `precision` is HIGHEST, products on an NVIDIA GPU are TensorFloat32 (10 bits of
      mantissa), by cuDNN as by XLA, and on a TPU bfloat16.
    * `memory`: what the backward pass keeps, see `jaxrnn.ops.memory.resolve`; by "scan", and "pallas" on a TPU;
      "native" knows "gates" and segments.

    A `LinearCell` is computed in one way, see `jaxrnn.ops.linear`, and takes neither `implementation` nor `memory`.
    The state is carried in float32 for bfloat16 and float16 inputs, and returned in the dtype of `x`.
    """
    h, (final,) = unroll_layers(
        cell, [params], x, [state], lengths=lengths, resets=resets, reverse=reverse, precision=precision,
        implementation=implementation, memory=memory,
    )  # fmt: skip
    return h, final


def unroll_layers(
    cell: Cell | LinearCell,
    layers: Sequence[Parameters],
    x: Float[Array, "*B T I"],
    states: Sequence[State],
    *,
    lengths: Int[Array, "*B"] | None = None,
    resets: Bool[Array, "*B T"] | None = None,
    reverse: bool = False,
    bidirectional: bool = False,
    precision: lax.PrecisionLike = None,
    implementation: str | QuasiDeer | None = None,
    memory: Any = None,
) -> tuple[Float[Array, "*B T R"], tuple[State, ...]]:
    """Apply layers of one cell, each to the outputs of the one below; return the last one's and all final states.

    `layers` and `states` hold each layer's parameters and initial state, the first layer's first. With
    `bidirectional` they hold two for each layer, one per direction, the forward one first; the layer above gets
    the outputs of both, side by side. The rest is as for `unroll`. Layers given together may share a loop over
    time, which saves storing what passes between them, or a call.
    """
    if not isinstance(implementation, QuasiDeer) and implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(
            f"implementation={implementation!r} is not one of {sorted(IMPLEMENTATIONS)}. "
            "Leave it at None to let jaxrnn choose."
        )
    chosen: Any = implementation
    if isinstance(cell, LinearCell):
        if implementation is not None or memory not in (None, Memory()):
            raise NotImplementedError(
                f"{cell.name} is computed in one way, by an associative scan. Leave implementation and memory "
                "at None."
            )
        chosen, policy = linear.unroll, Memory()
    else:
        policy = resolve(memory, _size(cell, layers, x, bidirectional))
    planned_for = target()
    on_tpu = implementation == "pallas" and planned_for.platform == "tpu"
    if policy != Memory() and implementation not in (None, "scan", "native") and not on_tpu:
        raise NotImplementedError(
            f"memory={memory!r} is there in implementation='scan', in 'native' and in 'pallas' on a TPU, not in "
            f"{implementation!r} on this {planned_for.platform}. Leave implementation at None."
        )
    return _unroll(
        cell, tuple(dict(params) for params in layers), x, tuple(states), lengths, resets, reverse=reverse,
        bidirectional=bidirectional, precision=precision, implementation=chosen, memory=policy,
        target=planned_for,
    )  # fmt: skip


def _size(cell: Cell, layers: Sequence[Parameters], x: jax.Array, bidirectional: bool) -> Size:
    directions = 2 if bidirectional else 1
    return Size(
        cell, x.shape[-2], math.prod(x.shape[:-2]), layers[0]["weight_ih"].shape[0] // cell.gates,
        projected_features=layers[0]["weight_hr"].shape[0] if "weight_hr" in layers[0] else 0,
        directions=directions, layers=len(layers) // directions, dtype=x.dtype,
    )  # fmt: skip


_OPTIONS = ("reverse", "bidirectional", "precision", "implementation", "memory", "target")


# Compiled here, so that a call outside `jax.jit` is traced once and not at every call.
@partial(jax.jit, static_argnames=("cell", *_OPTIONS))
def _unroll(
    cell, layers, x, states, lengths, resets, *,
    reverse, bidirectional, precision, implementation, memory, target,
):  # fmt: skip
    *batch, steps, _ = x.shape
    dtype, carried, rows = x.dtype, carry_dtype(x.dtype), math.prod(batch)
    x = x.reshape(rows, *x.shape[-2:])
    states = jax.tree.map(lambda s: s.reshape(rows, s.shape[-1]).astype(carried), states)
    valid = marks = None
    if lengths is not None:
        valid = jnp.arange(steps)[:, None, None] < lengths.reshape(1, rows, 1)
    if resets is not None:
        marks = resets.reshape(rows, steps).T[..., None]
        if valid is not None:  # a mark in the padding begins nothing
            marks = marks & valid
    options = {"reverse": reverse, "bidirectional": bidirectional, "precision": precision}
    if implementation is None:
        implementation = _choose(cell, layers, x, states, resets is not None, memory, target, options)
    run = _unroll_by(implementation, memory, target)
    h, finals = run(cell, layers, x.swapaxes(0, 1), states, valid, marks, **options)
    h = reference.without_padding(valid, h)
    outputs = h.swapaxes(0, 1).reshape(*batch, steps, h.shape[-1]).astype(dtype)
    return outputs, jax.tree.map(lambda s: s.reshape(*batch, s.shape[-1]).astype(dtype), finals)


def _choose(cell, layers, x, states, resets, memory, target, options) -> str:
    """Return the implementation that should be the fastest of those that serve a request."""
    steps_first = x.swapaxes(0, 1)
    if pallas_tpu.is_chosen(cell, layers, steps_first, states, target=target):
        return "pallas"
    if native.is_chosen(cell, layers, steps_first, states, memory=memory, target=target):
        return "native"
    like = {"resets": resets} | {name: options[name] for name in ("bidirectional", "precision")}
    if memory == Memory() and cudnn.is_chosen(cell, layers, x, states, **like):
        return "cudnn"
    return "scan"


def _unroll_by(implementation: Any, memory: Memory, target: Target) -> Any:
    if implementation == "scan":
        return partial(scan.unroll, memory=memory, platform=target.platform)
    if implementation == "native":
        return partial(native.unroll, memory=memory, target=target)
    if implementation == "pallas" and target.platform == "tpu":
        return partial(pallas_tpu.unroll, memory=memory, target=target)
    if callable(implementation):
        return implementation
    others = {"reference": reference.unroll, "cudnn": cudnn.unroll, "pallas": pallas_gpu.unroll}
    return QuasiDeer() if implementation == "quasi_deer" else others[implementation]
