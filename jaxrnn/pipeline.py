"""Batches of a run on many chips, by grain: shuffled, shared among processes, read ahead, resumed where they were.

Needs the extra `data` (``pip install 'jaxrnn[data]'``). What is made here are `grain.MapDataset` of batches, to be
mapped and mixed as grain does; ``dataset[k]`` is the k-th batch. A batch of the run has the same rows in the same
order on any number of processes, each of which loads its own, consecutive part: made a global array by
`jax.make_array_from_process_local_data`, it is the same array. So a position in the data, which counts batches of
the run, holds for any number of processes too.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from jaxrnn.bucketing import Batch, Buckets

if TYPE_CHECKING:
    import grain

__all__ = ["buckets", "examples", "lanes", "stream"]

PyTree = Any  # of arrays with one length


def examples(
    arrays: PyTree,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    shard: "grain.sharding.ShardOptions | None" = None,
) -> "grain.MapDataset":
    """Return batches of rows [N, ...] taken together from arrays, like `jaxrnn.data.batches`::

        windows = jaxrnn.data.sliding_windows(np.memmap("closes.bin"), 100, copy=False)
        for inputs, targets in pipeline.stream(pipeline.examples(windows, 64, shuffle_seed=0), epoch=0): ...

    Each epoch has another order, from the seed and the epoch alone; the rows that do not fill a batch, the last
    ones of each order, are left out. Files are read row by row: `arrays` may be `numpy.memmap`.

    Args:
        arrays: an array or a tree of them, a tuple or a dict for instance; batches are trees like it.
        batch_size: rows of the whole run's batch; each process gets its part.
        shuffle_seed: without, rows are in their order.
        shard: a `grain.sharding.ShardOptions`; by default, this JAX process's part.

    Raises:
        ModuleNotFoundError: grain is not installed.
        ValueError: the arrays differ in length or do not fill a batch; the processes do not divide `batch_size`.
    """
    grain = _grain()
    count = _length(arrays)
    if not 0 < batch_size <= count:
        raise ValueError(f"batch_size={batch_size}: expected at least 1 and no more than the {count} rows.")
    rows = _part(batch_size, shard)

    def load(order: Int[np.ndarray, " B"]) -> PyTree:
        return jax.tree.map(lambda array: np.asarray(array[order[rows]]), arrays)

    indices = grain.MapDataset.range(count)
    if shuffle_seed is not None:
        indices = indices.shuffle(seed=shuffle_seed)
    return indices.batch(batch_size, drop_remainder=True).map(load)


def lanes(
    arrays: PyTree, batch_size: int, steps: int, *, shard: "grain.sharding.ShardOptions | None" = None
) -> "grain.MapDataset":
    """Return the batches [B, T, ...] of `jaxrnn.data.parallel_streams`, cut from sequences [N, ...] one by one::

        text = np.memmap("enwik8", np.uint8)
        dataset = pipeline.lanes(jaxrnn.data.next_step(text), 8, 4096)

    Row b of a batch goes on where row b of the batch before ended, so a state can be carried from batch to batch,
    and stays in its process; at an epoch's end all lanes begin anew. Arguments and errors are those of `examples`.
    """
    grain = _grain()
    count = _length(arrays)
    for name, size in (("batch_size", batch_size), ("steps", steps)):
        if size < 1:
            raise ValueError(f"{name}={size}: expected at least 1.")
    number = count // (batch_size * steps)
    if number == 0:
        raise ValueError(f"{count} steps are too few for one batch of {batch_size} x {steps}.")
    rows = range(batch_size)[_part(batch_size, shard)]

    def cut(k: int) -> PyTree:
        starts = [(row * number + k) * steps for row in rows]
        return jax.tree.map(lambda a: np.stack([a[start : start + steps] for start in starts]), arrays)

    return grain.MapDataset.range(number).map(cut)


def buckets(
    plan: Buckets, *, shuffle_seed: int | None = None, shard: "grain.sharding.ShardOptions | None" = None
) -> "grain.MapDataset":
    """Return the batches of a plan by `jaxrnn.bucketing.plan_buckets`, each a `Batch` of this process's rows::

        dataset = pipeline.buckets(plan, shuffle_seed=0).map(lambda batch: (batch.pad(texts), batch.lengths))

    Every sequence is in one batch of an epoch. Each epoch has other batches in another order, from the seed and the
    epoch alone; without a seed they go from short to long. All processes have batches of the same shape at a time.

    Raises:
        ModuleNotFoundError: grain is not installed.
        ValueError: the processes do not divide the rows of a bucket.
    """
    grain = _grain()
    index, count = _index_and_count(shard)
    parts = []
    for bucket, members in enumerate(plan.members):
        _part(plan.rows[bucket], shard)
        ordered = grain.MapDataset.source(members)
        if shuffle_seed is not None:
            seed = int(np.random.SeedSequence([shuffle_seed, bucket]).generate_state(1)[0])
            ordered = ordered.shuffle(seed=seed)
        parts.append(ordered.batch(plan.rows[bucket]).map(partial(_batch, plan, bucket, index, count)))
    batches = grain.MapDataset.concatenate(parts)
    return batches if shuffle_seed is None else batches.shuffle(seed=shuffle_seed)


def stream(
    dataset: "grain.MapDataset", epoch: int | None = None, *, prefetch: int = 4
) -> "grain.IterDataset":
    """Return a dataset's batches of one epoch, or of all epochs from 0 on without end, as a `grain.IterDataset`.

    Its iterators are read ahead by threads, by `prefetch` batches, and are parts of a run for
    `jaxrnn.train.Checkpoints`::

        run = {"model": model, "optimizer": optimizer, "data": iter(pipeline.stream(dataset))}

    For `jaxrnn.train.fit`, which counts the epochs, pass ``lambda epoch: pipeline.stream(dataset, epoch)``.
    """
    grain = _grain()
    if prefetch < 1:
        raise ValueError(f"prefetch={prefetch}: expected at least 1 batch.")
    size = len(dataset)
    repeated = dataset.repeat() if epoch is None else dataset.repeat(epoch + 1)[epoch * size :]
    options = grain.ReadOptions(num_threads=min(prefetch, 16), prefetch_buffer_size=prefetch)
    return repeated.to_iter_dataset(options)


def _batch(plan: Buckets, bucket: int, index: int, count: int, members: Int[np.ndarray, " n"]) -> Batch:
    return plan.batch(bucket, members).part(index, count)


def _grain() -> Any:
    try:
        import grain
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "jaxrnn.pipeline needs grain: pip install 'jaxrnn[data]'. jaxrnn.data.batches needs NumPy alone."
        ) from error
    return grain


def _index_and_count(shard: Any) -> tuple[int, int]:
    if shard is None:
        return jax.process_index(), jax.process_count()
    return shard.shard_index, shard.shard_count


def _part(batch_size: int, shard: Any) -> slice:
    """Return which rows of a batch are this process's."""
    index, count = _index_and_count(shard)
    if batch_size % count:
        raise ValueError(
            f"batches of {batch_size} rows cannot be shared by {count} processes: give a multiple."
        )
    rows = batch_size // count
    return slice(index * rows, (index + 1) * rows)


def _length(arrays: PyTree) -> int:
    lengths = sorted({len(array) for array in jax.tree.leaves(arrays)})
    if len(lengths) != 1:
        raise ValueError(f"arrays: expected arrays of one length, got lengths {lengths}.")
    return lengths[0]
