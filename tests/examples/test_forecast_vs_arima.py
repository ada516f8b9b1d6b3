"""What the comparison of forecasts trains on: nothing that is held out, nothing that validation is asked for."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("statsmodels")

from examples import forecast_vs_arima as lesson
from examples.common.series import SERIES
from examples.forecast_vs_arima import Shortcut, Size, Windows, origins_before, windows


@pytest.fixture
def asked(monkeypatch):
    """What `train` is called with by `train_on_all`, in place of training."""
    calls = []

    def train(series, size, origins, check, epochs, seed):
        calls.append((origins, check, epochs))
        return "trained", 7

    monkeypatch.setattr(lesson, "train", train)
    return calls


@pytest.mark.parametrize("name", SERIES)
def test_no_value_is_asked_for_twice_and_none_of_the_test_before_it(name, asked):
    series = SERIES[name]()
    lesson.train_on_all(series, Size(), 0)
    (origins, check, _), (everything, nothing, epochs) = asked
    assert origins[-1] + series.horizon <= check[0]
    assert check[-1] + series.horizon == series.start == everything[-1] + series.horizon
    assert len(nothing) == 0
    assert epochs == 7
    assert len(origins) > 20


@pytest.mark.parametrize("name", SERIES)
def test_windows_and_naive_forecasts_know_nothing_of_what_follows(name):
    series = SERIES[name]()
    first = origins_before(series, series.start)[:1]
    values = series.values.copy()
    values[first[0] :] *= 2
    before, after = (windows(each, first) for each in (series, dataclasses.replace(series, values=values)))
    np.testing.assert_array_equal(before.inputs, after.inputs)
    np.testing.assert_array_equal(before.naive, after.naive)
    assert np.isfinite(before.inputs).all()
    assert not np.array_equal(before.truth, after.truth)


def test_the_windows_hold_differences_from_the_season_before_and_values():
    series = dataclasses.replace(SERIES["airline"](), forward=np.asarray, inverse=np.asarray)
    found = windows(series, np.array([40]))
    np.testing.assert_array_equal(found.inputs[0, :, 1], series.values[28:40])
    np.testing.assert_array_equal(found.inputs[0, :, 0], series.values[28:40] - series.values[16:28])
    np.testing.assert_array_equal(found.naive[0], np.tile(series.values[28:40], 2))
    np.testing.assert_array_equal(found.truth[0], series.values[40:64])


def test_the_regression_finds_the_lines_that_are_there():
    random = np.random.default_rng(0)
    inputs, naive = random.normal(size=(30, 5, 2)), random.normal(size=(30, 3))
    offset, slope = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -1.0])
    truth = naive + offset + slope * inputs[:, -1:, 0]
    found = Shortcut.fit(Windows(inputs, naive, truth))
    np.testing.assert_allclose(found.offset, offset, atol=1e-12)
    np.testing.assert_allclose(found.slope, slope, atol=1e-12)
    np.testing.assert_allclose(found(Windows(inputs, naive, truth)), truth, atol=1e-12)
