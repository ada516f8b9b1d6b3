"""How the persistent kernel for Hopper GPUs cuts a recurrence into thread blocks, by arithmetic on shapes alone."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell

FLOAT32 = jnp.float32
REMEDY = "Use implementation=None, which computes the same on every device."


class Tiles(NamedTuple):
    """How the recurrence is laid out on the device.

    blocks: thread blocks in a cluster (C).
    units: hidden units of a block, H / C: 32, with two gates in the 64 rows of a product, or a multiple of 64, with
        as many products per gate.
    rows: rows of the batch that a cluster serves (N).
    """

    blocks: int
    units: int
    rows: int

    @property
    def paired(self) -> bool:
        """Whether 64 rows of a product are 32 units of two gates."""
        return self.units == PAIRED_UNITS

    def height(self, gates: int) -> int:
        """Return the rows of the product of a block, a multiple of 64."""
        return 64 * (-(-gates // 2)) if self.paired else gates * self.units


PAIRED_UNITS = 32
MOST_BLOCKS = 16  # more than 8 is beyond what CUDA promises for every device, but Hopper has it
ROWS = (16, 32, 64)  # a row of h must fill a swizzle of 32, 64 or 128 bytes
SHARED_BYTES = 232448 - 1024  # of a thread block, less barriers and alignment
# Elements of each array that a thread may hold: above, the compiler ran out of its 255 registers (compiled for
# sm_90a for all sizes that the tests name).
MOST_ELEMENTS = {1: 32, 3: 16, 4: 8}
# The cost of a step in cycles, to choose among what fits: estimates, not measured on a device.
STREAMING_MULTIPROCESSORS = 132
SHARED_BYTES_PER_CYCLE = 128  # a product reads the weights from shared memory, each step anew
CYCLES_PER_ELEMENT = 40  # per gate: exponentials, loads and stores
EXCHANGE_CYCLES = 500
CYCLES_PER_NEIGHBOUR = 20


def plan_tiles(cell: Cell, rows: int, hidden: int, dtype: Any) -> Tiles:
    """Return the tiles for `rows` sequences (B) and `hidden` features (H) with weights of `dtype`.

    Of all that fits into shared memory and registers, the one that takes the fewest cycles by a simple count.
    """
    if hidden % PAIRED_UNITS:
        raise NotImplementedError(
            f"implementation='pallas' needs a multiple of {PAIRED_UNITS} hidden features, "
            f"but there are {hidden}. {REMEDY}"
        )
    every = [
        Tiles(blocks, hidden // blocks, width)
        for blocks in range(1, MOST_BLOCKS + 1)
        if hidden % blocks == 0 and (hidden // blocks == PAIRED_UNITS or hidden // blocks % 64 == 0)
        for width in ROWS
        if hidden % width == 0
    ]
    fitting = [tiles for tiles in every if _fits(cell, tiles, dtype)]
    if not fitting:
        least = min((shared_bytes(cell, tiles, dtype) for tiles in every), default=None)
        why = (
            f"no cluster of up to {MOST_BLOCKS} blocks cuts it into {PAIRED_UNITS} units or multiples of 64"
            if least is None
            else f"a block would need {least} bytes of shared memory, of which there are {SHARED_BYTES}"
        )
        raise NotImplementedError(
            f"implementation='pallas' cannot hold {cell} of {hidden} features in {jnp.dtype(dtype)}: {why}. "
            f"bfloat16 weights take half of float32's. {REMEDY}"
        )
    return min(fitting, key=partial(_cycles, cell, rows, dtype))


def shared_bytes(cell: Cell, tiles: Tiles, dtype: Any) -> int:
    """Return the shared memory of a block: its weights, and h twice."""
    hidden = tiles.blocks * tiles.units
    return 2 * parts_of(dtype) * hidden * (tiles.height(cell.gates) + 2 * tiles.rows)


def _fits(cell: Cell, tiles: Tiles, dtype: Any) -> bool:
    most = next(most for gates, most in sorted(MOST_ELEMENTS.items(), reverse=True) if cell.gates >= gates)
    return shared_bytes(cell, tiles, dtype) <= SHARED_BYTES and _elements(tiles) <= most


def _elements(tiles: Tiles) -> int:
    """Return how many elements of an array [units, rows] each of the 128 threads holds."""
    return tiles.units * tiles.rows // 128


def _cycles(cell: Cell, rows: int, dtype: Any, tiles: Tiles) -> float:
    at_once = max(STREAMING_MULTIPROCESSORS // tiles.blocks, 1)
    waves = math.ceil(math.ceil(rows / tiles.rows) / at_once)
    read = 2 * tiles.height(cell.gates) * tiles.blocks * tiles.units * len(products(parts_of(dtype)))
    exchange = EXCHANGE_CYCLES + CYCLES_PER_NEIGHBOUR * tiles.blocks if tiles.blocks > 1 else 0
    elementwise = CYCLES_PER_ELEMENT * cell.gates * _elements(tiles)
    return waves * (read / SHARED_BYTES_PER_CYCLE + elementwise + exchange)


def parts_of(dtype: Any) -> int:
    """Return how many 16-bit numbers stand for one weight of `dtype`."""
    return 2 if dtype == FLOAT32 else 1


def products(parts: int) -> tuple[tuple[int, int], ...]:
    """Return which parts of weights and of h are multiplied; the product of both small parts is left out."""
    return ((0, 0), (0, 1), (1, 0)) if parts == 2 else ((0, 0),)


def arrange(cell: Cell, tiles: Tiles, weight: jax.Array) -> jax.Array:
    """Return ``weight_hh`` [G*H, H] with the rows of each block together, [C * height, H].

    In a product of 64 rows, each of four warps holds 16, and each of its threads holds rows r and r + 8 of them
    (r < 8). So where a block owns 32 units, these two are the same unit of two gates; an odd gate is paired with
    zeros.
    """
    hidden = weight.shape[1]
    if not tiles.paired:
        blocks = weight.reshape(cell.gates, tiles.blocks, tiles.units, hidden)
        return blocks.swapaxes(0, 1).reshape(-1, hidden)
    gates = weight.reshape(cell.gates, -1, hidden)
    gates = jnp.pad(gates, ((0, cell.gates % 2), (0, 0), (0, 0)))
    blocks = gates.reshape(-1, 2, tiles.blocks, 4, 8, hidden)  # pair, gate of it, block, warp, row
    return blocks.transpose(2, 0, 3, 1, 4, 5).reshape(-1, hidden)


def split_parts(array: jax.Array, dtype: Any) -> jax.Array:
    """Return an array as the product takes it, [parts, ...]: rounded, and for float32 the rest rounded too."""
    if dtype != FLOAT32:
        return array.astype(dtype)[None]
    # XLA may take a cast there and back for nothing; this it keeps.
    large = lax.reduce_precision(array, exponent_bits=8, mantissa_bits=7)
    return jnp.stack([large, array - large]).astype(jnp.bfloat16)
