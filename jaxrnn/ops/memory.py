"""What a backward pass keeps of the forward pass: memory policies, and the bytes that each needs."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.cells import Cell, carry_dtype


class Memory(NamedTuple):
    """A memory policy. No policy changes a result, but for rounding.

    keep: of each step,
        "gates": what its derivative needs, the activated gates and the states: nothing is computed twice;
        "carry": the state, in the dtype of the layer: gates are computed again, in one product for many steps;
        "h": the output alone, and the rest of the state every so many steps: it is computed again elementwise.
    segments: lengths of segments, the outermost first. Of each, only the state at its beginning is kept, and the
        whole recurrence in it is computed again; `keep` then says what of the segment that is being worked on.
    offload: the states at the outermost bounds are kept in the host's memory.
    """

    keep: str = "gates"
    segments: tuple[int, ...] = ()
    offload: bool = False


class Size(NamedTuple):
    """What the bytes of a policy follow from."""

    cell: Cell
    steps: int
    rows: int  # B
    hidden_features: int
    projected_features: int = 0
    directions: int = 1
    layers: int = 1
    dtype: Any = jnp.float32


KEEPS = ("gates", "carry", "h")
NAMED = (*KEEPS, "segments", "sqrt", "offload")
_UNITS = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}
_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(Ki|Mi|Gi|Ti|)B\s*")
# With "h", the rest of the state is kept once in so many steps, those whose gates are computed again together.
H_CHUNK = 128


def resolve(memory: Any, size: Size) -> Memory:
    """Return the policy that a user's `memory` means for a size.

    * None, "gates", "carry", "h": see `Memory`.
    * an int K: segments of K steps; a tuple of them: segments within segments, the outermost first;
    * "sqrt": segments of the square root of T;
    * "segments": segments of the length that needs the least memory;
    * "offload": the same, with the states at the bounds in the host's memory;
    * "2 GiB" (B, KiB, MiB, GiB, TiB): the fastest policy that keeps no more than that, by arithmetic;
    * a `Memory`.
    """
    if memory is None:
        return Memory()
    if isinstance(memory, Memory):
        return _checked(memory)
    if isinstance(memory, str):
        return _named(memory, size)
    return Memory(segments=check_segments(memory))


def check_segments(lengths: Any) -> tuple[int, ...]:
    """Return the lengths of segments within segments, given those or one."""
    given = lengths if isinstance(lengths, tuple | list) else (lengths,)
    whole = [isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in given]
    if not given or not all(whole):
        raise ValueError(
            f"segments should be a positive number of steps, or several of them, got {lengths!r}."
        )
    cuts = tuple(map(int, given))
    if any(outer <= inner for outer, inner in itertools.pairwise(cuts)):
        raise ValueError(f"segments should be given outermost first, each within the last, got {lengths!r}.")
    return cuts


def check(memory: Any) -> Any:
    """Return what a layer may keep as its `memory`, for `resolve`; whether a budget suffices follows from sizes."""
    if isinstance(memory, list):
        memory = tuple(memory)
    if isinstance(memory, str):
        if memory not in NAMED and not _BUDGET.fullmatch(memory):
            raise _unknown(memory)
    elif isinstance(memory, Memory):
        _checked(memory)
    elif memory is not None:
        check_segments(memory)
    return memory


def _unknown(memory: str) -> ValueError:
    return ValueError(
        f"memory={memory!r} is not one of {', '.join(map(repr, NAMED))}, nor a number of bytes like '2 GiB', "
        "nor the steps of a segment."
    )


def _named(memory: str, size: Size) -> Memory:
    if memory in KEEPS:
        return Memory(memory)
    if memory == "sqrt":
        return Memory(segments=(math.isqrt(max(size.steps - 1, 0)) + 1,))
    if memory in ("segments", "offload"):
        return Memory(segments=(best_length(size),), offload=memory == "offload")
    budget = _BUDGET.fullmatch(memory)
    if not budget:
        raise _unknown(memory)
    allowed = float(budget[1]) * 1024 ** _UNITS[budget[2]]
    needed: dict[Memory, int] = {}
    for policy in fastest_first(size):
        needed[policy] = kept_bytes(policy, size)
        if needed[policy] <= allowed:
            return policy
    leanest = min(needed, key=lambda policy: needed[policy])
    name = f"segments={leanest.segments}" if leanest.segments else repr(leanest.keep)
    raise ValueError(
        f"memory={memory!r} is too little for {size.steps} steps of a batch of {size.rows}: {name}, the leanest "
        f"policy, keeps {needed[leanest]:,} bytes."
    )


def _checked(memory: Memory) -> Memory:
    if memory.keep not in KEEPS:
        raise ValueError(f"keep={memory.keep!r} is not one of {', '.join(map(repr, KEEPS))}.")
    if memory.segments:
        check_segments(memory.segments)
    if memory.offload and not memory.segments:
        raise ValueError(
            "memory: only states at the bounds of segments can be offloaded. Give segments=, too."
        )
    return memory


def fastest_first(size: Size) -> Iterator[Memory]:
    """Yield the policies that a budget may mean."""
    yield from map(Memory, KEEPS)
    length = best_length(size)
    yield Memory(segments=(length,))
    outer = math.ceil(size.steps ** (2 / 3))
    inner = max(round(outer**0.5), 1)
    if inner < outer:
        yield Memory(segments=(outer, inner))


def kept_bytes(memory: Memory, size: Size) -> int:
    """Return the bytes that the backward pass keeps, beside inputs, parameters and their gradients.

    The outputs of all layers are among them, where a layer above, or `keep`, needs them.
    """
    parts = size.layers * size.directions
    if not memory.segments:
        return size.steps * size.rows * parts * _step_bytes(memory.keep, size)
    bounds, steps = 0, size.steps
    for length in memory.segments:
        bounds += math.ceil(steps / length) if steps > length else 0
        steps = min(steps, length)
    within, between = size._replace(steps=steps), 0
    if size.directions > 1:  # one direction of one layer at a time, and all outputs but the last layer's
        within = within._replace(layers=1, directions=1)
        between = size.steps * size.rows * (size.layers - 1) * size.directions * _output_bytes(size)
    kept = kept_bytes(memory._replace(segments=(), offload=False), within)
    return bounds * size.rows * parts * state_bytes(size) + kept + between


def best_length(size: Size) -> int:
    """Return the length of segments with which states at bounds and one segment need the least memory."""
    within = size.layers * size.directions * _step_bytes("gates", size)
    bound = size.layers * size.directions * state_bytes(size)
    return min(max(math.ceil(math.sqrt(size.steps * bound / within)), 1), max(size.steps, 1))


def state_bytes(size: Size) -> int:
    """Return the bytes of one row's state, as it is carried."""
    features = size.cell.state_features(size.hidden_features, size.projected_features)
    return sum(features) * jnp.dtype(carry_dtype(size.dtype)).itemsize


def _step_bytes(keep: str, size: Size) -> int:
    """Return the bytes that one step of one row of one layer and direction leaves behind."""
    cell, derivative = size.cell, size.cell.linearisation()
    carried, given = (jnp.dtype(d).itemsize for d in (carry_dtype(size.dtype), size.dtype))
    h, *rest = cell.state_features(size.hidden_features, size.projected_features)
    output = stored = _output_bytes(size)
    if cell.reads_h and carried > given:  # as it is carried, and beside it the output
        stored += carried * h
    if keep == "gates":
        follows = derivative.output is not None and not size.projected_features
        return carried * size.hidden_features * kept_arrays(cell) + (output if follows else stored)
    return stored + (
        given * sum(rest)
        if keep == "carry"
        else math.ceil(carried * sum(rest) / min(H_CHUNK, max(size.steps, 1)))
    )


def kept_arrays(cell: Cell) -> int:
    """Return how many arrays [B, H] a step leaves behind for its derivative."""

    def keep(pre, state, own):
        return cell.linearisation().keep(pre, state, own)

    array = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    own = {name: jax.ShapeDtypeStruct((rows, 1), jnp.float32) for name, rows in cell.own}
    pre = (array,) * len(cell.pre_activations)
    return len(jax.eval_shape(keep, pre, cell.state(*(array,) * len(cell.state._fields)), own))


def _output_bytes(size: Size) -> int:
    return (size.projected_features or size.hidden_features) * jnp.dtype(size.dtype).itemsize
