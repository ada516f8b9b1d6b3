"""Ragged sequences in few shapes: buckets of lengths that leave the least padding to compute (NumPy only)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy.typing import ArrayLike

__all__ = ["Batch", "Buckets", "plan_buckets"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Which sequences are in the rows of a batch: indices into the data set, -1 where a row is empty."""

    examples: Int[np.ndarray, " B"]
    lengths: Int[np.ndarray, " B"]  # int32, 0 where a row is empty
    steps: int  # T

    def pad(self, sequences: Sequence[Any], padding_value: Any = 0) -> Shaped[np.ndarray, "B T ..."]:
        """Return these rows of `sequences`, arrays [length, ...], with `padding_value` after each one's end.

        Raises:
            ValueError: a sequence is not as long as the one that was planned with.
        """
        first = np.asarray(sequences[int(self.examples.max())])
        padded = np.full((len(self.examples), self.steps, *first.shape[1:]), padding_value, first.dtype)
        for row, (example, length) in enumerate(zip(self.examples, self.lengths, strict=True)):
            if example >= 0:
                sequence = sequences[int(example)]
                if len(sequence) != length:
                    raise ValueError(
                        f"sequences[{example}] has {len(sequence)} steps, but {length} were planned: plan the "
                        "buckets with the lengths of these sequences."
                    )
                padded[row, :length] = sequence
        return padded

    def take(self, values: ArrayLike, empty: Any = 0) -> Shaped[np.ndarray, "B ..."]:
        """Return these rows of `values` [N, ...], one per sequence, with `empty` where a row is empty."""
        values = np.asarray(values)
        taken = values[self.examples]  # -1 takes the last one, which is replaced
        taken[self.examples < 0] = empty
        return taken

    def part(self, index: int, count: int) -> "Batch":
        """Return one of `count` equal parts of the rows: what one of several processes loads.

        Raises:
            ValueError: `count` does not divide the rows.
        """
        rows = len(self.examples)
        if rows % count:
            raise ValueError(
                f"{rows} rows cannot be shared by {count} processes: plan the buckets with row_multiple={count}."
            )
        here = slice(index * rows // count, (index + 1) * rows // count)
        return Batch(self.examples[here], self.lengths[here], self.steps)


@dataclass(frozen=True, eq=False)
class Buckets:
    """A plan: sequences of at most `bounds[k]` steps, and of more than `bounds[k - 1]`, go `rows[k]` to a batch.

    All batches of a bucket have one shape, the last one filled up with empty rows, so that a program is compiled
    once per bucket. ``str`` says what the plan is worth.
    """

    lengths: Int[np.ndarray, " N"]
    bounds: tuple[int, ...]  # rising
    rows: tuple[int, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes [B, T] of the batches."""
        return tuple(zip(self.rows, self.bounds, strict=True))

    @property
    def members(self) -> tuple[Int[np.ndarray, " n"], ...]:
        """The sequences of each bucket: indices into the data set, rising."""
        bucket = np.searchsorted(self.bounds, self.lengths)
        return tuple(np.flatnonzero(bucket == k) for k in range(len(self.bounds)))

    @property
    def computed_steps(self) -> int:
        """Steps of all rows of an epoch's batches, padding and empty rows included."""
        counts = (len(members) for members in self.members)
        return sum(-(-n // rows) * rows * steps for n, (rows, steps) in zip(counts, self.shapes, strict=True))

    @property
    def padding(self) -> float:
        """The part of the computed steps that belongs to no sequence."""
        return 1 - int(self.lengths.sum()) / self.computed_steps

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return sum(-(-len(members) // rows) for members, rows in zip(self.members, self.rows, strict=True))

    def __str__(self) -> str:
        longest = Buckets(self.lengths, self.bounds[-1:], self.rows[-1:])
        shapes = ", ".join(f"{rows} x {steps}" for rows, steps in self.shapes)
        return (
            f"{len(self.lengths)} sequences in {len(self)} batches of {len(self.shapes)} shapes: {shapes}. "
            f"Padding: {self.padding:.1%} of the steps, {longest.padding:.1%} in the longest shape alone."
        )

    def batches(self, *, shuffle_seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches, with each sequence in one of them.

        With a ``shuffle_seed``, which sequences share a batch and the order of the batches depend on
        (shuffle_seed, epoch) alone; without, sequences are in their order and buckets from short to long.
        """
        rng = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, epoch])
        planned = []
        for bucket, members in enumerate(self.members):
            order = members if rng is None else rng.permutation(members)
            starts = range(0, len(order), self.rows[bucket])
            planned += [(bucket, order[start : start + self.rows[bucket]]) for start in starts]
        for at in range(len(planned)) if rng is None else rng.permutation(len(planned)):
            yield self.batch(*planned[at])

    def batch(self, bucket: int, examples: Int[np.ndarray, " n"]) -> Batch:
        """Return a batch of a bucket's shape with these sequences, its other rows empty."""
        filled = np.full(self.rows[bucket], -1)
        filled[: len(examples)] = examples
        lengths = np.where(filled < 0, 0, self.lengths[filled]).astype(np.int32)
        return Batch(filled, lengths, self.bounds[bucket])


def plan_buckets(
    lengths: ArrayLike,
    shapes: int,
    *,
    rows: int | None = None,
    steps_per_batch: int | None = None,
    step_multiple: int = 1,
    row_multiple: int = 1,
) -> Buckets:
    """Choose at most `shapes` buckets for sequences of these `lengths` [N] so that the fewest steps are computed::

        buckets = plan_buckets([len(x) for x in sequences], 4, steps_per_batch=8192, row_multiple=8)
        print(buckets)
        for batch in buckets.batches(shuffle_seed=0, epoch=epoch):
            step(batch.pad(sequences), batch.lengths)  # compiled 4 times

    A bucket of n sequences, B rows and bound T computes ceil(n / B) B T steps, padding and the empty rows of its
    last batch included. Their sum is the least of all choices of bounds among the lengths that occur: exactly, by
    dynamic programming over the histogram of lengths, in time shapes · U² for U different ones.

    Args:
        lengths: whole numbers, at least 0.
        shapes: how many programs may be compiled.
        rows: the rows of every batch, or
        steps_per_batch: at most so many rows times steps in a batch, so that short sequences have more rows.
        step_multiple: bounds are multiples of it, for instance 8 where the batch comes first on a TPU, whose tiles
            are 8 x 128, or k1 of `truncated_bptt`.
        row_multiple: rows are multiples of it: 8 (16 in bfloat16) where time comes first on a TPU; times the number
            of devices, where they are divided among several.

    Raises:
        TypeError: lengths that are not whole numbers.
        ValueError: no lengths, or negative ones; not one of `rows` and `steps_per_batch`; `rows` is not a multiple
            of `row_multiple`; the longest sequence has more steps than `steps_per_batch` allows.
    """
    lengths = _checked(lengths)
    for name, size in (("shapes", shapes), ("step_multiple", step_multiple), ("row_multiple", row_multiple)):
        if size < 1:
            raise ValueError(f"{name}={size}: expected at least 1.")
    steps = np.maximum(-(-lengths // step_multiple), 1) * step_multiple
    bounds, counts = np.unique(steps, return_counts=True)
    each = _rows(bounds, rows, steps_per_batch, row_multiple)
    chosen = _best_bounds(bounds, each, counts, shapes)
    return Buckets(lengths, tuple(bounds[chosen].tolist()), tuple(each[chosen].tolist()))


def _best_bounds(bounds: np.ndarray, rows: np.ndarray, counts: np.ndarray, shapes: int) -> list[int]:
    """Return which bounds compute the fewest steps, at most `shapes` of them, the last one among them::

    least[k, j] = min over i < j of least[k - 1, i] + steps of one bucket for bounds i to j - 1
    """
    size, layers = len(bounds), min(shapes, len(bounds))
    before = np.concatenate([[0], np.cumsum(counts)])
    never = np.iinfo(np.int64).max // 2
    least = np.full((layers + 1, size + 1), never)
    least[0, 0] = 0
    previous = np.zeros((layers + 1, size + 1), np.int64)
    for j in range(1, size + 1):
        batches = -(-(before[j] - before[:j]) // rows[j - 1])
        total = least[:-1, :j] + batches * (rows[j - 1] * bounds[j - 1])
        previous[1:, j] = total.argmin(axis=1)
        least[1:, j] = np.minimum(total.min(axis=1), never)
    chosen, j = [], size
    for k in range(int(least[:, size].argmin()), 0, -1):
        chosen.append(j - 1)
        j = int(previous[k, j])
    return chosen[::-1]


def _rows(bounds: np.ndarray, rows: int | None, steps_per_batch: int | None, multiple: int) -> np.ndarray:
    """Return how many rows a batch with each of these bounds has."""
    if (rows is None) == (steps_per_batch is None):
        raise ValueError(f"expected one of rows={rows} and steps_per_batch={steps_per_batch}.")
    if rows is not None:
        if rows < 1 or rows % multiple:
            raise ValueError(f"rows={rows}: expected a positive multiple of row_multiple={multiple}.")
        return np.full(len(bounds), rows)
    fitting = steps_per_batch // bounds // multiple * multiple
    if fitting[-1] < 1:
        raise ValueError(
            f"steps_per_batch={steps_per_batch} is too few for {multiple} rows of {bounds[-1]} steps, the longest: "
            f"allow {multiple * bounds[-1]}, or cut long sequences."
        )
    return fitting


def _checked(lengths: ArrayLike) -> Int[np.ndarray, " N"]:
    array = np.asarray(lengths)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"lengths: expected one number per sequence, at least one, got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"lengths: expected whole numbers, got dtype {array.dtype}.")
    if array.min() < 0:
        raise ValueError(f"lengths[{int(array.argmin())}]={array.min()}: expected at least 0.")
    return array.astype(np.int64)
