"""Windows, streams, scalers and splits."""

import numpy as np
import pytest

from jaxrnn.data import (
    MinMaxScaler,
    Standardizer,
    batches,
    chronological_split,
    consecutive_windows,
    forecast_dataset,
    next_step,
    parallel_streams,
    sliding_windows,
)

CLOSES = np.cumsum(np.random.default_rng(0).standard_normal(1303)) + 100  # as long as the lecture's series


def notebook_windows(series, look_back):
    """The lecture's own loop, in our words: windows of look_back values, the last one the target."""
    windows = np.array([series[start : start + look_back] for start in range(len(series) - look_back)])
    return windows[:, :-1], windows[:, -1]


# Windows


def test_windows_are_consecutive_values_and_the_next_one():
    inputs, targets = sliding_windows(np.arange(6), 4)
    np.testing.assert_array_equal(inputs, [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(targets, [3, 4, 5])


def test_the_horizon_moves_the_target_and_nothing_else():
    inputs, targets = sliding_windows(np.arange(7), 4, horizon=3)
    np.testing.assert_array_equal(inputs, [[0, 1, 2], [1, 2, 3]])
    np.testing.assert_array_equal(targets, [5, 6])


def test_windows_without_the_last_are_the_notebooks():
    inputs, targets = sliding_windows(CLOSES, 20, last_window=False)
    expected_inputs, expected_targets = notebook_windows(CLOSES, 20)
    assert inputs.shape == (1283, 19)
    np.testing.assert_array_equal(inputs, expected_inputs)
    np.testing.assert_array_equal(targets, expected_targets)
    assert len(sliding_windows(CLOSES, 20).inputs) == 1284


def test_windows_keep_the_features():
    series = np.random.default_rng(1).standard_normal((9, 2, 3))
    inputs, targets = sliding_windows(series, 5)
    assert inputs.shape == (5, 4, 2, 3)
    np.testing.assert_array_equal(inputs[2], series[2:6])
    np.testing.assert_array_equal(targets[2], series[6])


def test_windows_that_are_not_copied_are_views_of_the_series():
    series = np.random.default_rng(1).standard_normal((9, 2))
    copied, views = (sliding_windows(series, 4, horizon=2, copy=copy) for copy in (True, False))
    for mine, view in zip(copied, views, strict=True):
        np.testing.assert_array_equal(mine, view)
        assert np.shares_memory(view, series)
        assert not np.shares_memory(mine, series)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
        mine[0] = 0


def test_one_window_is_enough_and_none_is_refused():
    assert len(sliding_windows(np.arange(4), 4).targets) == 1
    with pytest.raises(ValueError, match="3 steps are too few, a window takes 4"):
        sliding_windows(np.arange(3), 4)
    with pytest.raises(ValueError, match="4 steps are too few, a window takes 5"):
        sliding_windows(np.arange(4), 4, last_window=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.arange(9), 1), "look_back=1: expected at least 2"),
        ((np.arange(9), 3, 0), "horizon=0: expected at least 1"),
        ((np.float64(3.0), 3), "single number"),
    ],
)
def test_impossible_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sliding_windows(*arguments)


# Streams


def test_rows_of_parallel_streams_go_on_in_the_next_batch():
    streams = parallel_streams(np.arange(24), 2, 4)
    np.testing.assert_array_equal(streams[0], [[0, 1, 2, 3], [12, 13, 14, 15]])
    np.testing.assert_array_equal(streams[1], [[4, 5, 6, 7], [16, 17, 18, 19]])
    np.testing.assert_array_equal(streams[2], [[8, 9, 10, 11], [20, 21, 22, 23]])


def test_consecutive_windows_go_on_in_the_next_row():
    windows = consecutive_windows(np.arange(24), 2, 4)
    np.testing.assert_array_equal(windows[0], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(windows[2], [[16, 17, 18, 19], [20, 21, 22, 23]])


@pytest.mark.parametrize("cut", [parallel_streams, consecutive_windows])
def test_streams_take_each_step_once_and_drop_only_the_end(cut):
    for length in range(12, 40):
        sequence = np.arange(2 * length).reshape(length, 2)
        batched = cut(sequence, 3, 4)
        kept = length // 12 * 12
        assert batched.shape == (kept // 12, 3, 4, 2)
        steps = batched.reshape(-1, 2)
        np.testing.assert_array_equal(steps[np.argsort(steps[:, 0])], sequence[:kept])


def test_a_carried_sum_over_parallel_streams_is_the_sum_of_the_stream():
    sequence = np.random.default_rng(2).standard_normal(60)
    carry = np.zeros(3)
    for batch in parallel_streams(sequence, 3, 5):
        carry = carry + batch.sum(axis=1)
    # 20 float64 additions of numbers near 1 in another order: below 20 * 2**-53 * 20.
    np.testing.assert_allclose(carry, sequence.reshape(3, 20).sum(axis=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("cut", [parallel_streams, consecutive_windows])
def test_streams_too_long_for_the_sequence_are_refused(cut):
    with pytest.raises(ValueError, match="11 steps are too few for one batch of 3 x 4"):
        cut(np.arange(11), 3, 4)
    with pytest.raises(ValueError, match="batch_size=0"):
        cut(np.arange(11), 0, 4)
    with pytest.raises(ValueError, match="steps=0"):
        cut(np.arange(11), 3, 0)


def test_next_step_targets_stay_beside_their_inputs():
    text = np.random.default_rng(3).integers(0, 60, 101)
    inputs, targets = (parallel_streams(part, 4, 5) for part in next_step(text))
    np.testing.assert_array_equal(inputs[:, :, 1:], targets[:, :, :-1])
    np.testing.assert_array_equal(inputs[1:, :, 0], targets[:-1, :, -1])
    with pytest.raises(ValueError, match="1 steps are too few"):
        next_step(np.arange(1))


# Batches


def test_batches_take_rows_together_and_each_once():
    x, y = np.arange(10) * 10, np.arange(10)
    taken = list(batches((x, y), 4, shuffle_seed=5))
    assert [len(rows) for rows, _ in taken] == [4, 4, 2]
    for rows, targets in taken:
        np.testing.assert_array_equal(rows, targets * 10)
    assert sorted(np.concatenate([targets for _, targets in taken])) == list(range(10))


def test_batches_depend_on_seed_and_epoch_alone():
    def order(**options):
        return np.concatenate([rows for (rows,) in batches((np.arange(50),), 8, **options)]).tolist()

    assert order() == list(range(50))
    assert order(epoch=3) == list(range(50))
    assert order(shuffle_seed=1, epoch=2) == order(shuffle_seed=1, epoch=2)
    orders = {tuple(order(shuffle_seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_drop_last_leaves_out_the_incomplete_batch():
    taken = [rows.tolist() for (rows,) in batches((np.arange(7),), 3, drop_last=True)]
    assert taken == [[0, 1, 2], [3, 4, 5]]
    assert [rows.tolist() for (rows,) in batches((np.arange(6),), 3, drop_last=True)] == taken


def test_impossible_batches_are_refused_before_the_first_is_taken():
    with pytest.raises(TypeError, match=r"pass \(array,\)"):
        batches(np.arange(6), 3)
    with pytest.raises(ValueError, match=r"lengths \[6, 5\]"):
        batches((np.arange(6), np.arange(5)), 3)
    with pytest.raises(ValueError, match="batch_size=0"):
        batches((np.arange(6),), 0)
    with pytest.raises(ValueError, match="6 rows are too few for one batch of 7"):
        batches((np.arange(6),), 7, drop_last=True)


# Scalers

SCALERS = [MinMaxScaler, Standardizer]


def test_min_max_maps_the_range_to_minus_one_and_one():
    values = np.array([[1.0, 10.0], [3.0, 30.0], [2.0, 15.0]])
    scaled = MinMaxScaler.fit(values).transform(values)
    # Halves and quarters: exact in binary.
    np.testing.assert_array_equal(scaled, [[-1, -1], [1, 1], [0, -0.5]])


def test_standardized_features_have_mean_zero_and_deviation_one():
    values = np.random.default_rng(4).normal(7, 3, (200, 3))
    scaled = Standardizer.fit(values).transform(values)
    # Means of 200 float64 numbers near 1, after a subtraction of numbers near 10.
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-14)


@pytest.mark.parametrize("scaler", SCALERS)
def test_the_inverse_undoes_the_transform(scaler):
    values = np.random.default_rng(5).normal(100, 20, (50, 2))
    fitted = scaler.fit(values)
    windows = np.random.default_rng(6).normal(100, 20, (4, 7, 2))
    # Four float64 operations on numbers up to 200 from numbers up to 5: some 4 * 2**-53 of 200.
    np.testing.assert_allclose(fitted.inverse(fitted.transform(windows)), windows, rtol=4e-15)


@pytest.mark.parametrize("scaler", SCALERS)
def test_a_constant_feature_scales_and_comes_back(scaler):
    values = np.stack([np.full(7, 0.1), np.arange(7.0)], axis=1)
    fitted = scaler.fit(values)
    scaled = fitted.transform(values)
    np.testing.assert_array_equal(scaled[:, 0], -1 if scaler is MinMaxScaler else 0)
    np.testing.assert_array_equal(fitted.inverse(scaled)[:, 0], 0.1)


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scalers_refuse_nan_and_infinity(scaler, bad):
    values = np.ones((4, 2))
    values[2, 1] = bad
    with pytest.raises(ValueError, match=r"1 NaN or infinite, the first at index \(2, 1\)"):
        scaler.fit(values)
    with pytest.raises(ValueError, match="at least one row"):
        scaler.fit(np.zeros((0, 2)))


# Splits


def test_a_split_is_in_order_and_complete():
    split = chronological_split(10, test=0.2, validation=0.3)
    rows = np.arange(10)
    assert [rows[part].tolist() for part in split] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]
    assert split.train == slice(0, 5)


def test_a_gap_is_left_out_before_each_boundary():
    rows = np.arange(20)
    both = chronological_split(20, test=0.2, validation=0.2, gap=3)
    assert [rows[part].tolist() for part in both] == [
        list(range(6)),
        [9, 10, 11, 12],
        [16, 17, 18, 19],
    ]
    one = chronological_split(20, test=0.2, gap=3)
    assert [len(rows[part]) for part in one] == [13, 0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 1.0}, "test=1.0"),
        ({"test": 0.2, "validation": -0.1}, "validation=-0.1"),
        ({"test": 0.2, "gap": -1}, "gap=-1"),
        ({"test": 0.01}, "10 rows are too few"),
        ({"test": 0.5, "validation": 0.4, "gap": 1}, "0 for training"),
    ],
)
def test_splits_with_an_empty_part_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        chronological_split(10, **options)


def test_the_notebooks_dataset_can_be_had():
    data = forecast_dataset(CLOSES, 20, 0.2, scale_on="all", share_history=True, last_window=False)
    assert data.train.inputs.shape == (1026, 19, 1)
    assert data.test.inputs.shape == (257, 19, 1)
    assert data.train.targets.shape == (1026, 1)
    assert len(data.validation.inputs) == 0
    scaled = (2 * (CLOSES - CLOSES.min()) / (CLOSES.max() - CLOSES.min()) - 1).astype(np.float32)
    inputs, targets = notebook_windows(scaled, 20)
    # One float32 rounding of numbers up to 1, of float64 values that may differ in the last place.
    np.testing.assert_allclose(
        np.concatenate([data.train.inputs, data.test.inputs])[..., 0], inputs, atol=6e-8
    )
    np.testing.assert_allclose(
        np.concatenate([data.train.targets, data.test.targets])[:, 0], targets, atol=6e-8
    )


@pytest.mark.parametrize("share_history", [False, True])
@pytest.mark.parametrize("scaler", SCALERS)
def test_the_future_does_not_reach_the_training_data(share_history, scaler):
    options = {"validation_fraction": 0.1, "share_history": share_history, "scaler": scaler}
    series = np.arange(200.0)
    data = forecast_dataset(series, 10, 0.2, dtype=np.float64, **options)
    last_seen = round(data.scaler.inverse(data.train.targets).max())
    changed = series.copy()
    changed[last_seen + 1 :] = 1e6
    again = forecast_dataset(changed, 10, 0.2, dtype=np.float64, **options)
    np.testing.assert_array_equal(data.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(data.train.targets, again.train.targets)
    # This check can fail: the scaler of the whole series sees the change.
    leaky = [forecast_dataset(s, 10, 0.2, scale_on="all", **options).train.inputs for s in (series, changed)]
    assert not np.array_equal(*leaky)


@pytest.mark.parametrize("horizon", [1, 3])
def test_parts_share_no_value_unless_asked(horizon):
    series = np.arange(200.0)

    def values_of(data):
        parts = [np.concatenate([w.inputs.ravel(), w.targets.ravel()]) for w in data[:3]]
        return [{round(value) for value in data.scaler.inverse(part)} for part in parts]

    options = {"horizon": horizon, "validation_fraction": 0.2, "dtype": np.float64}
    train, validation, test = values_of(forecast_dataset(series, 10, 0.2, **options))
    assert max(train) < min(validation)
    assert max(validation) < min(test)
    shared = forecast_dataset(series, 10, 0.2, share_history=True, **options)
    train, validation, test = values_of(shared)
    assert train & validation
    targets = [{round(v) for v in shared.scaler.inverse(part.targets).ravel()} for part in shared[:3]]
    assert max(targets[0]) < min(targets[1])
    assert max(targets[1]) < min(targets[2])


def test_a_series_of_several_features_keeps_them():
    series = np.random.default_rng(7).normal(5, 2, (80, 3))
    data = forecast_dataset(series, 6, 0.25)
    assert data.train.inputs.shape[1:] == (5, 3)
    assert data.train.inputs.dtype == np.float32
    # float32 values near 5 after scaling: 2**-24 of the range, 20.
    np.testing.assert_allclose(data.scaler.inverse(data.test.targets)[-1], series[-1], atol=1e-6)


def test_a_dataset_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="scale_on='test'"):
        forecast_dataset(CLOSES, 20, 0.2, scale_on="test")
    with pytest.raises(ValueError, match="1 NaN"):
        forecast_dataset(np.where(np.arange(1303) == 1290, np.nan, CLOSES), 20, 0.2)
    with pytest.raises(ValueError, match="rows are too few"):
        forecast_dataset(CLOSES[:30], 20, 0.2)
