"""How a recurrence is cut into the blocks that a TPU's kernels work on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxrnn.cells import Cell

WORD = 32  # bits of the words in which marks are handed over
UNROLL = 8  # steps in one round of the loop, so that one step's arithmetic may hide behind another's product


class Blocks(NamedTuple):
    """What the kernels of one recurrence have in common, known when they are compiled."""

    cell: Cell
    steps: int  # K of a block
    rows: int  # B of a block
    hidden: int  # H, padded to whole registers
    keep: str  # what the forward pass leaves behind, see `jaxrnn.ops.memory.Memory`
    h_dtype: Any  # of h after each step, as it is kept
    rest_dtype: Any  # of the other fields of the state
    precision: Any
    reverse: bool
    vmem_bytes: int
    interpret: Any = False

    @property
    def unroll(self) -> int:
        """Steps in one round of the loop over a block."""
        return math.gcd(self.steps, UNROLL)

    def split(self, array: jax.Array) -> list[jax.Array]:
        """Cut [..., n*H] into n arrays [..., H]."""
        return jnp.split(array, array.shape[-1] // self.hidden, axis=-1)

    def product(self, a: jax.Array, b: jax.Array, contracting: tuple[int, int] = (1, 0)) -> jax.Array:
        """Return a product of two matrices, summed in float32."""
        dimensions = (((contracting[0],), (contracting[1],)), ((), ()))
        return lax.dot_general(a, b, dimensions, precision=self.precision, preferred_element_type=jnp.float32)

    def for_steps(self, step: Any, *, backwards: bool = False) -> None:
        """Run ``step(t)`` for each step of a block, in the order of time or against it."""

        def body(t: Any, nothing: int) -> int:
            step(t)
            return nothing

        self.fold_steps(body, 0, backwards=backwards)

    def fold_steps(self, step: Any, carry: Any, *, backwards: bool) -> Any:
        """Return ``step(t, carry)`` of each step of a block, each given what the one before returned."""

        def body(number: Any, carry: Any) -> Any:
            return step(self.steps - 1 - number if backwards else number, carry)

        return lax.fori_loop(0, self.steps, body, carry, unroll=self.unroll)

    def marked(self, words: Any, t: Any) -> jax.Array:
        """Return the rows that are marked at a step of a block, bool [B, 1], of the bits that `pack_marks` made."""
        row = lax.broadcasted_iota(jnp.int32, (self.rows, 1), 0)
        word = words[t, 0]
        for number in range(1, words.shape[1]):
            word = jnp.where(row // WORD == number, words[t, number], word)
        return (word >> (row % WORD)) & 1 != 0


def pack_marks(marks: jax.Array, rows: int) -> jax.Array:
    """Return marks, bool [T, B, 1], as one bit each: int32 [B / rows, T, words]."""
    steps, padded, _ = marks.shape
    words = -(-rows // WORD)
    bits = marks.reshape(steps, padded // rows, rows).swapaxes(0, 1).astype(jnp.int32)
    bits = jnp.pad(bits, ((0, 0), (0, 0), (0, words * WORD - rows))).reshape(*bits.shape[:2], words, WORD)
    return jnp.sum(bits << jnp.arange(WORD, dtype=jnp.int32), axis=-1, dtype=jnp.int32)


class Specs:
    """How a kernel's arrays are cut along its grid, (tiles of rows, blocks of steps)."""

    def __init__(self, blocks: Blocks, steps: int, rows: int, *, backwards: bool) -> None:
        """Let the kernel go through the blocks of `steps` in the order of time, or against it."""
        self.blocks, self.rows, self.count, self.backwards = blocks, rows, steps // blocks.steps, backwards

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks of rows and of steps."""
        return self.rows // self.blocks.rows, self.count

    def number(self, n: Any) -> Any:
        """Return which block of steps is the n-th that the kernel sees."""
        return self.count - 1 - n if self.backwards else n

    def along_time(self, features: int) -> pl.BlockSpec:
        """Cut [T, B, F]."""
        shape = (self.blocks.steps, self.blocks.rows, features)
        return pl.BlockSpec(shape, lambda b, n: (self.number(n), b, 0))

    def per_block(self, features: int) -> pl.BlockSpec:
        """Cut [T / K, B, F]."""
        return pl.BlockSpec((None, self.blocks.rows, features), lambda b, n: (self.number(n), b, 0))

    def neighbour(self, features: int, offset: int) -> pl.BlockSpec:
        """Take, of [T, B, F], the step at a distance from the beginning of a block, if there is one."""
        steps = self.blocks.steps

        def where(b: Any, n: Any) -> tuple[Any, Any, int]:
            return jnp.clip(self.number(n) * steps + offset, 0, self.count * steps - 1), b, 0

        return pl.BlockSpec((None, self.blocks.rows, features), where)

    def per_row(self, features: int) -> pl.BlockSpec:
        """Cut [B, F]."""
        return pl.BlockSpec((self.blocks.rows, features), lambda b, n: (b, 0))

    def whole(self, shape: Sequence[int]) -> pl.BlockSpec:
        """Take all of an array, once."""
        zeros = (0,) * len(shape)
        return pl.BlockSpec(tuple(shape), lambda b, n: zeros, pipeline_mode=pl.Buffered(1))

    def words(self, marks: jax.Array) -> pl.BlockSpec:
        """Cut marks, int32 [tiles, T, words]: numbers, not vectors."""
        shape = (None, self.blocks.steps, marks.shape[-1])
        return pl.BlockSpec(shape, lambda b, n: (b, self.number(n), 0), memory_space=pltpu.SMEM)
