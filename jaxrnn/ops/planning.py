"""How the fast unroll computes a given size: a few numbers, chosen by arithmetic on shapes alone.

Results do not depend on a plan, only time and memory do. The constants were chosen on sizes that no benchmark of
`docs/performance.md` uses; that page tells what was measured.
"""

from typing import NamedTuple

import jax

from jaxrnn.cells import Cell

# Rows (steps times batch) of the products that are taken for a whole chunk: enough for a product to run at full
# speed, few enough that the chunk's pre-activations are still in the cache when they are used.
CHUNK_ROWS = 512
# From this many rows on, one product of [x, h] per step costs less than a projection ahead of the loop, whose
# result has to be written, read and added. Below it, the loop is bound by reading the weights.
JOINED_ROWS = 4


class Plan(NamedTuple):
    """What an unroll may vary.

    chunk: steps whose projections, and in the backward pass whose weight and input gradients, are one product.
    joined: the loop multiplies ``[x, h]`` by ``[W_ih, W_hh]``; else ``W_ih x`` is computed a chunk ahead of it.
    """

    chunk: int
    joined: bool


def choose(cell: Cell, steps: int, rows: int, platform: str | None = None) -> Plan:
    """Return the plan for `rows` sequences (B) of `steps` (T) on a platform, by default that of this process."""
    platform = platform or jax.default_backend()
    if platform != "cpu":  # one product for all steps, and a loop of as few kernels as can be
        return Plan(max(steps, 1), False)
    chunk = even_chunk(steps, max(1, CHUNK_ROWS // max(rows, 1)))
    joined = cell.x_gates == cell.h_gates and rows >= JOINED_ROWS
    return Plan(chunk, joined)


def even_chunk(steps: int, target: int) -> int:
    """Return a chunk of about `target` steps, one that divides `steps` if there is one in its neighbourhood.

    A remainder is a second loop: it costs compile time, not run time.
    """
    if steps <= target:
        return max(steps, 1)
    near = range(target + target // 2, target // 2, -1)
    return next((chunk for chunk in near if steps % chunk == 0), target)
