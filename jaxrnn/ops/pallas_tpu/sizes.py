"""Which sizes the kernels serve, and in what blocks: arithmetic on shapes and a chip's memory."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxrnn.cells import Cell
from jaxrnn.ops.planning import LANES, Plan

SUBLANES = 8  # of a vector register of float32, along rows; it has LANES along features
# A block begins and ends with work that nothing hides; over so many steps it is little.
BLOCK_STEPS = 32
# Rather fewer rows than fewer steps than these, unless rows times steps are so many.
LEAST_STEPS = 16
LEAST_PRODUCT = 1024
STEPS = range(SUBLANES, 2 * BLOCK_STEPS + 1, SUBLANES)
# Rows of a step's product: from so many on, a matrix unit multiplies longer than it loads weights.
BLOCK_ROWS = 128
MIB = 2**20
# The fast memory of one core, by `jax.Device.device_kind`, as the compiler knows it.
VMEM = {
    "TPU v4": 16 * MIB, "TPU v5 lite": 128 * MIB, "TPU v5": 64 * MIB, "TPU v6 lite": 128 * MIB, "TPU7x": 64 * MIB,
}  # fmt: skip
UNKNOWN_VMEM = 16 * MIB  # of a chip that is not in the table: the least of them
SHARE = 0.75  # of it that the kernels take at most: XLA puts arrays of its own there
MARGIN = 1.25  # for what the compiler adds to what is computed here of blocks


class Size(NamedTuple):
    """What the memory of the kernels follows from."""

    cell: Cell
    rows: int
    input_features: int
    hidden_features: int
    weights: Any  # dtype
    x: Any  # dtype


def vmem_of(kind: str | None) -> int:
    """Return the bytes that the kernels may take on a kind of chip; None is any."""
    return int(SHARE * VMEM.get(kind or "", UNKNOWN_VMEM))


def round_up(number: int, multiple: int) -> int:
    """Return the least multiple that is not below a number."""
    return -(-number // multiple) * multiple


def needed_bytes(size: Size, rows: int, steps: int) -> int:
    """Return the fast memory that the backward kernel takes with blocks of so many rows and steps.

    The forward kernel takes less.
    """
    cell = size.cell
    hidden, features = round_up(size.hidden_features, LANES), round_up(size.input_features, LANES)
    weight, x = (jnp.dtype(d).itemsize for d in (size.weights, size.x))
    gates, sums, fields = cell.gates * hidden, len(cell.pre_activations) * hidden, len(cell.state._fields)
    # Both weights, and both transposed; the gradients of both.
    weights = gates * (features + hidden) * (2 * weight + 4)
    # Twice, since one block is on its way while another is worked on: x and its gradient, the state, that of h.
    streamed = 2 * (2 * features * x + hidden * (4 * fields + 4))
    own = sums * (4 + weight) + 4 * hidden * fields + features * x
    products = 4 * 2 * gates  # values on their way to where they are kept
    blocks = rows * (steps * (streamed + own + products) + 4 * (sums + 6 * fields * hidden))
    return int(weights + MARGIN * blocks)


def choose_steps(size: Size, steps: int, allowed: int) -> int | None:
    """Return the steps of a block, such that it divides `steps` where one can; None if not even the least fits."""
    fitting, least = list[int](), LEAST_STEPS
    for rows in _even_parts(size.rows):
        fitting = [n for n in STEPS if needed_bytes(size, rows, n) <= allowed]
        least = min(max(LEAST_PRODUCT // rows, SUBLANES), LEAST_STEPS)
        if fitting and fitting[-1] >= least:
            break
    if not fitting:
        return None
    even = [n for n in fitting if steps % n == 0 and n >= min(least, fitting[-1])]
    if even:
        return min(even, key=lambda n: abs(n - BLOCK_STEPS))
    return min(BLOCK_STEPS, fitting[-1], max(steps, 1))


def block_rows(size: Size, steps: int, allowed: int) -> int:
    """Return the rows of a block of so many steps: all, or as large an even part of them as fits."""
    parts = _even_parts(size.rows)
    return next((rows for rows in parts if needed_bytes(size, rows, steps) <= allowed), parts[-1])


def _even_parts(rows: int) -> list[int]:
    """Return the rows of a block, most first."""
    most, tiles = max(rows, 1), max(-(-rows // BLOCK_ROWS), 1)
    parts = [round_up(-(-most // tiles), SUBLANES)]
    while parts[-1] > SUBLANES:
        parts.append(round_up(parts[-1] // 2, SUBLANES))
    return parts


def plan_for(size: Size, steps: int, allowed: int, keep: str) -> Plan:
    """Return the plan of a recurrence that `choose_steps` has blocks for."""
    chunk = choose_steps(size, steps, allowed)
    assert chunk is not None
    return Plan(chunk, joined=False, keep=keep)
