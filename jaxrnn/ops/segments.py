"""Time cut into segments, of which only the states at their bounds are kept: the rest is computed again.

Backpropagation through T steps then needs the memory of T / K states and of one segment of K steps, for one more
forward pass (T. Chen et al., 2016, arXiv 1604.06174). Segments of segments need less still, for one more again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxrnn.ops.planning import LANES, target
from jaxrnn.ops.primitives import gradient_of_segments

_BOUND = "state at the bound of a segment"
_ON_THE_HOST = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[_BOUND],
    offload_src="device",
    offload_dst="pinned_host",
)

Tree = Any  # of arrays
# Of a state and of pieces of time, [K, ...] each: the next state, results along time [K, ...], and sums over time.
Run = Callable[[Tree, Tree], tuple[Tree, Tree, Tree]]


def in_segments(
    run: Run,
    state: Tree,
    pieces: Tree,
    lengths: Sequence[int],
    *,
    reverse: bool = False,
    offload: bool = False,
) -> tuple[Tree, Tree, Tree]:
    """Return ``run(state, pieces)``, computed segment by segment along the first axis of `pieces`.

    `lengths`: steps of a segment, then of the segments within it, and so on; with none, nothing is cut. Where a
    length does not divide what it cuts, the rest is a shorter segment at the end, and the pieces are copied once.
    With `reverse`, the last segment comes first. With `offload`, the states at the outermost bounds wait in the
    host's memory.
    """
    if not lengths:
        return run(state, pieces)
    length, *inner = lengths
    steps = jax.tree.leaves(pieces)[0].shape[0]
    if steps <= length:
        return in_segments(run, state, pieces, inner, reverse=reverse, offload=offload)

    def segment(state: Tree, piece: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
        if offload:  # named here, not where it is handed over: https://github.com/openxla/xla/issues/17541
            state = jax.tree.map(lambda a: checkpoint_name(a, _BOUND) if _is_float(a) else a, state)
        state, along_time, sums = in_segments(run, state, piece, inner, reverse=reverse)
        return state, (along_time, sums)

    policy = _ON_THE_HOST if offload else None

    def all_of(state: Tree, pieces: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
        # Cut as one array of segments, gradients come back as one. What has none, tokens above all, is sliced as it
        # lies: [T, B] bytes cut so take sixteen times their memory on a TPU. Few features are sliced there too.
        whole, structure = jax.tree.flatten(pieces)
        cut, takes = zip(*(_cutter(a, length) for a in whole), strict=True)

        @partial(jax.checkpoint, prevent_cse=False, policy=policy)
        def again(state: Tree, number_and_cut: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
            number, cut = number_and_cut
            piece = [take(part, number * length) for take, part in zip(takes, cut, strict=True)]
            return segment(state, jax.tree.unflatten(structure, piece))

        numbers = jnp.arange(whole[0].shape[0] // length)
        state, (along_time, sums) = lax.scan(again, state, (numbers, cut), reverse=reverse)
        joined = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), along_time)
        return state, (joined, jax.tree.map(partial(jnp.sum, axis=0), sums))

    rest = steps % length
    if rest == 0:
        state, (along_time, sums) = all_of(state, pieces)
        return state, along_time, sums
    whole, left = cut_in_two(pieces, steps - rest)
    parts = [(all_of, whole), (jax.checkpoint(segment, policy=policy), left)]
    results = []
    for compute, part in reversed(parts) if reverse else parts:
        state, result = compute(state, part)
        results.append(result)
    along_time, sums = zip(*(results[::-1] if reverse else results), strict=True)
    join = partial(jax.tree.map, lambda *parts: jnp.concatenate(parts))
    return state, join(*along_time), jax.tree.map(jnp.add, *sums)


def _cutter(a: jax.Array, length: int) -> tuple[Any, Callable[[Any, jax.Array], jax.Array]]:
    """Return what goes through the scan, [T / K, K, ...] or None, and what makes a segment of it and its start."""

    def sliced(of: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(of, start, length)

    if not _is_float(a):
        return None, lambda _, start: sliced(a, start)
    # A TPU keeps time in its lanes, instead of features that would leave some empty. Its compiler can hardly cut
    # that: for a v7x, 2 million steps of 16 features in segments of 1536 took libtpu 0.0.52 over 400 s and 19 GB.
    if target().platform == "tpu" and a.shape[-1] < LANES:
        fixed = lax.stop_gradient(a)
        return gradient_of_segments(a, length), lambda part, start: sliced(fixed, start) + part
    return a.reshape(-1, length, *a.shape[1:]), lambda part, _: part


def cut_in_two(pieces: Tree, steps: int) -> tuple[Tree, Tree]:
    """Cut arrays along time. `lax.split` is transposed into one concatenation, slices would be into sums."""
    arrays, structure = jax.tree.flatten(pieces)
    halves = [lax.split(array, (steps, array.shape[0] - steps)) for array in arrays]
    first, second = ([half[n] for half in halves] for n in range(2))
    return jax.tree.unflatten(structure, first), jax.tree.unflatten(structure, second)


def _is_float(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)
