"""Sequences into batches: windows, streams, scalers, chronological splits (NumPy only)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "ForecastDataset",
    "MinMaxScaler",
    "Split",
    "Standardizer",
    "Windows",
    "batches",
    "chronological_split",
    "consecutive_windows",
    "forecast_dataset",
    "next_step",
    "parallel_streams",
    "sliding_windows",
]


class Windows(NamedTuple):
    """Inputs and targets of a many-to-one forecast."""

    inputs: Shaped[np.ndarray, "W T ..."]
    targets: Shaped[np.ndarray, "W ..."]


class Split(NamedTuple):
    """Three ranges in chronological order; ``x[split.train]`` takes one."""

    train: slice
    validation: slice
    test: slice


# Windows and streams


def sliding_windows(
    series: ArrayLike, look_back: int, horizon: int = 1, *, last_window: bool = True, copy: bool = True
) -> Windows:
    """Cut a series [N, ...] into overlapping windows, each one step after the one before::

        inputs[w]  = series[w : w + look_back - 1]
        targets[w] = series[w + look_back - 2 + horizon]

    As in the lecture's notebook ``look_back`` counts the target: 20 means 19 inputs and the 20th value to
    predict. ``horizon`` is how far the target lies after the last input. There are
    ``N - look_back - horizon + 2`` windows. The notebook runs over ``range(N - look_back)`` and so loses
    the last one; ``last_window=False`` gives its very windows (1303 values: 1283 of 20).

    With ``copy=False`` they are read-only views of the series, which take no memory beside it: for a series that
    lies in a file (`numpy.memmap`), or windows of which few are in memory at a time.

    Raises:
        ValueError: the series is too short for one window, or look_back < 2, or horizon < 1.
    """
    series = np.asarray(series)
    if look_back < 2:
        raise ValueError(f"look_back={look_back}: expected at least 2, one input and the target.")
    _positive(horizon=horizon)
    span = look_back - 1 + horizon
    count = _steps(series) - span + last_window
    if count < 1:
        raise ValueError(
            f"series: {_steps(series)} steps are too few, a window takes {span + (not last_window)}; "
            "give a longer series or a smaller look_back or horizon."
        )
    views = np.lib.stride_tricks.sliding_window_view(series, look_back - 1, axis=0)
    inputs, targets = np.moveaxis(views[:count], -1, 1), series[span - 1 : span - 1 + count]
    if copy:
        return Windows(np.ascontiguousarray(inputs), targets.copy())
    targets = targets.view()
    targets.flags.writeable = False
    return Windows(inputs, targets)


def parallel_streams(sequence: ArrayLike, batch_size: int, steps: int) -> Shaped[np.ndarray, "K B T ..."]:
    """Cut a sequence [N, ...] into ``batch_size`` streams side by side, in windows of ``steps``.

    Row b of batch k+1 goes on where row b of batch k ends, so the final state of one batch is the initial
    state of the next: truncated backpropagation through time over a text (the lecture's first layout)::

        sequence 0..23, batch_size 2, steps 4:   batch 0   batch 1   batch 2
                                      row 0      0.. 3     4.. 7     8..11
                                      row 1     12..15    16..19    20..23

    The end of the sequence that does not fill a batch, less than ``batch_size * steps`` steps, is dropped.

    Raises:
        ValueError: the sequence is too short for one batch.
    """
    rows = _whole_batches(sequence, batch_size, steps)
    return np.ascontiguousarray(rows.reshape(batch_size, -1, steps, *rows.shape[1:]).swapaxes(0, 1))


def consecutive_windows(sequence: ArrayLike, batch_size: int, steps: int) -> Shaped[np.ndarray, "K B T ..."]:
    """Cut a sequence [N, ...] into windows of ``steps`` that follow each other, ``batch_size`` to a batch.

    Row b+1 goes on where row b ends, and batch k+1 where batch k ends (the lecture's second layout). Every
    row of a batch is at another place of the sequence, so a state cannot be carried row by row: use
    ``parallel_streams`` for that, and this where each window starts from a fresh state::

        sequence 0..23, batch_size 2, steps 4:   batch 0   batch 1   batch 2
                                      row 0      0.. 3     8..11    16..19
                                      row 1      4.. 7    12..15    20..23

    The end of the sequence that does not fill a batch, less than ``batch_size * steps`` steps, is dropped.

    Raises:
        ValueError: the sequence is too short for one batch.
    """
    rows = _whole_batches(sequence, batch_size, steps)
    return rows.reshape(-1, batch_size, steps, *rows.shape[1:])


def next_step(sequence: ArrayLike) -> tuple[Shaped[np.ndarray, "..."], Shaped[np.ndarray, "..."]]:
    """Return inputs ``sequence[:-1]`` and targets ``sequence[1:]``, to be cut into the same streams::

    inputs, targets = (parallel_streams(part, 32, 100) for part in next_step(text))
    """
    sequence = np.asarray(sequence)
    if _steps(sequence) < 2:
        raise ValueError(f"sequence: {_steps(sequence)} steps are too few, a next step needs at least 2.")
    return sequence[:-1], sequence[1:]


def batches(
    arrays: Sequence[np.ndarray],
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    epoch: int = 0,
    drop_last: bool = False,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield rows taken together from arrays of the same length::

        for x, y in batches((inputs, targets), 64): ...

    With a ``shuffle_seed`` the order depends on (shuffle_seed, epoch) alone, whatever was drawn before: a
    resumed run sees the batches it would have seen. Without, every epoch has the rows in their order. The
    last batch is smaller where the rows do not divide; ``drop_last`` leaves it out.

    Raises:
        TypeError: ``arrays`` is one array rather than a tuple of arrays.
        ValueError: the arrays differ in length, or are too short for one batch.
    """
    if isinstance(arrays, np.ndarray):
        raise TypeError("arrays: expected a tuple of arrays, got one array; pass (array,).")
    _positive(batch_size=batch_size)
    lengths = [_steps(array) for array in arrays]
    if not lengths or len(set(lengths)) > 1:
        raise ValueError(f"arrays: expected arrays of one length, got lengths {lengths}.")
    least = batch_size if drop_last else 1
    if lengths[0] < least:
        raise ValueError(
            f"arrays: {lengths[0]} rows are too few for one batch of {batch_size}; give more rows."
        )
    return _batches(arrays, batch_size, lengths[0], shuffle_seed, epoch, drop_last)


def _batches(
    arrays: Sequence[np.ndarray], size: int, rows: int, seed: int | None, epoch: int, drop_last: bool
) -> Iterator[tuple[np.ndarray, ...]]:
    order = np.arange(rows) if seed is None else np.random.default_rng([seed, epoch]).permutation(rows)
    stop = rows - rows % size if drop_last else rows
    for start in range(0, stop, size):
        yield tuple(array[order[start : start + size]] for array in arrays)


# Scalers


@dataclass(frozen=True, eq=False)
class MinMaxScaler:
    """Each feature's smallest and largest value mapped to -1 and 1::

        y = 2 (x - low) / (high - low) - 1

    A constant feature, whose range is taken as 1, becomes -1, as in scikit-learn. Arithmetic in float64.
    """

    low: Float[np.ndarray, "*features"]
    high: Float[np.ndarray, "*features"]

    @classmethod
    def fit(cls, values: ArrayLike) -> "MinMaxScaler":
        """Take the range from values [N, ...]; NaN and infinities are refused."""
        values = _finite(values)
        return cls(np.asarray(values.min(axis=0)), np.asarray(values.max(axis=0)))

    def transform(self, values: ArrayLike) -> Float[np.ndarray, "..."]:
        """Scale values [..., *features]."""
        return 2 * (np.asarray(values, np.float64) - self.low) / self._range - 1

    def inverse(self, scaled: ArrayLike) -> Float[np.ndarray, "..."]:
        """Undo ``transform``."""
        return (np.asarray(scaled, np.float64) + 1) / 2 * self._range + self.low

    @property
    def _range(self) -> np.ndarray:
        return np.where(self.high > self.low, self.high - self.low, 1.0)


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Each feature shifted to mean 0 and scaled to (population) standard deviation 1::

        y = (x - mean) / std

    A constant feature becomes 0. Arithmetic in float64.
    """

    mean: Float[np.ndarray, "*features"]
    std: Float[np.ndarray, "*features"]

    @classmethod
    def fit(cls, values: ArrayLike) -> "Standardizer":
        """Take mean and deviation from values [N, ...]; NaN and infinities are refused."""
        values = _finite(values)
        # Rounding leaves a constant feature a deviation of some 1e-16 of its mean: judge it by its range.
        constant = values.min(axis=0) == values.max(axis=0)
        mean = np.where(constant, values[0], values.mean(axis=0))
        return cls(mean, np.where(constant, 1.0, values.std(axis=0)))

    def transform(self, values: ArrayLike) -> Float[np.ndarray, "..."]:
        """Scale values [..., *features]."""
        return (np.asarray(values, np.float64) - self.mean) / self.std

    def inverse(self, scaled: ArrayLike) -> Float[np.ndarray, "..."]:
        """Undo ``transform``."""
        return np.asarray(scaled, np.float64) * self.std + self.mean


# Splits


def chronological_split(count: int, *, test: float, validation: float = 0.0, gap: int = 0) -> Split:
    """Split ``count`` rows in order of time: training first, then validation, then test.

    ``test`` and ``validation`` are fractions of the rows, rounded as `numpy.round` does. ``gap`` rows are
    left out before each boundary, at the cost of the earlier part: overlapping windows share no value
    across it if the gap is their length less one.

    Raises:
        ValueError: a fraction is not in [0, 1), or a part that was asked for would be empty.
    """
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name}={fraction}: expected a fraction, at least 0 and less than 1.")
    if gap < 0:
        raise ValueError(f"gap={gap}: expected at least 0 rows.")
    test_rows, validation_rows = round(test * count), round(validation * count)
    test_start = count - test_rows
    validation_stop = test_start - gap * (test > 0)
    validation_start = validation_stop - validation_rows
    train_stop = validation_start - gap * (validation > 0)
    empty = train_stop < 1 or (test > 0) > test_rows or (validation > 0) > validation_rows
    if empty:
        raise ValueError(
            f"{count} rows are too few: {max(train_stop, 0)} for training, {validation_rows} for validation, "
            f"{test_rows} for test, with gaps of {gap}; give more rows or other fractions."
        )
    return Split(slice(0, train_stop), slice(validation_start, validation_stop), slice(test_start, count))


class ForecastDataset(NamedTuple):
    """Scaled windows of a series in three parts, and the scaler to read predictions with."""

    train: Windows
    validation: Windows
    test: Windows
    scaler: MinMaxScaler | Standardizer


def forecast_dataset(
    series: ArrayLike,
    look_back: int,
    test_fraction: float,
    *,
    horizon: int = 1,
    validation_fraction: float = 0.0,
    scaler: type[MinMaxScaler] | type[Standardizer] = MinMaxScaler,
    scale_on: Literal["train", "all"] = "train",
    share_history: bool = False,
    last_window: bool = True,
    dtype: DTypeLike = np.float32,
) -> ForecastDataset:
    """Scaled ``sliding_windows`` of a series [N, F] or [N] (taken as [N, 1]), split in order of time.

    The scaler sees the values of the training windows only, and the parts share no value: the windows that
    would straddle a boundary are left out, at the cost of the earlier part.

    ``share_history=True`` keeps them: a test window may look back at training values. That is no leak, the
    targets stay apart. ``scale_on="all"`` fits the scaler on the whole series, future included: that is a
    leak, the range of the test values reaches the training data, and results look better than they are. It
    is here to reproduce the lecture's notebook::

        data = forecast_dataset(closes, 20, 0.2, scale_on="all", share_history=True, last_window=False)
        # 1303 closes: data.train.inputs (1026, 19, 1), data.test.inputs (257, 19, 1)

    Raises:
        ValueError: the series has NaN or infinities, or is too short; a fraction is out of range.
    """
    if scale_on not in ("train", "all"):
        raise ValueError(f"scale_on={scale_on!r}: expected 'train' or, knowing that it leaks, 'all'.")
    values = _finite(series)
    values = values[:, None] if values.ndim == 1 else values
    windows = sliding_windows(values, look_back, horizon, last_window=last_window)
    span = look_back - 1 + horizon
    split = chronological_split(
        len(windows.targets),
        test=test_fraction,
        validation=validation_fraction,
        gap=0 if share_history else span - 1,
    )
    seen = values if scale_on == "all" else values[: split.train.stop - 1 + span]
    fitted = scaler.fit(seen)
    inputs, targets = (fitted.transform(part).astype(dtype) for part in windows)
    train, validation, test = (Windows(inputs[part], targets[part]) for part in split)
    return ForecastDataset(train, validation, test, fitted)


# Checks


def _steps(values: Any) -> int:
    if np.ndim(values) == 0:
        raise ValueError("expected an array with steps along its first axis, got a single number.")
    return len(values)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: expected at least 1.")


def _whole_batches(sequence: ArrayLike, batch_size: int, steps: int) -> np.ndarray:
    """Drop the end that does not fill a batch."""
    _positive(batch_size=batch_size, steps=steps)
    sequence = np.asarray(sequence)
    batch = batch_size * steps
    whole = _steps(sequence) // batch * batch
    if whole == 0:
        raise ValueError(
            f"sequence: {_steps(sequence)} steps are too few for one batch of {batch_size} x {steps}; "
            "give a longer sequence or a smaller batch_size or steps."
        )
    return sequence[:whole]


def _finite(values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Values in float64, refused where empty or not finite."""
    array = np.asarray(values, np.float64)
    if _steps(array) == 0:
        raise ValueError("values: expected at least one row, got none.")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        count = int(np.sum(~np.isfinite(array)))
        raise ValueError(
            f"values: {count} NaN or infinite, the first at index {where}; fill them in or leave them out."
        )
    return array
