"""The series of the forecasts, SARIMA's forecasts from many origins, and the measures of error."""

import numpy as np
import pytest

pytest.importorskip("statsmodels")

from examples.common import sarima, series
from examples.common.sarima import MODELS, Sarima
from examples.common.series import SERIES, following, mase, rmse, seasonal_naive


@pytest.fixture(scope="module")
def logarithms():
    return np.log(series.airline().values)


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("airline", 144, 112, 432),
        ("sunspots", 309, 5, 2.9),
        ("CO2", 526, 316.1, 371.02),
        ("demand", 4032, 22.262, None),
    ],
)
def test_the_series_are_those_that_are_known(name, count, first, last):
    made = SERIES[name]()
    assert made.name == name
    assert len(made.values) == count
    assert np.isfinite(made.values).all()
    assert made.values[0] == pytest.approx(first)
    if last is not None:
        assert made.values[-1] == pytest.approx(last, abs=5e-3)
    np.testing.assert_allclose(made.inverse(made.forward(made.values)), made.values, rtol=1e-12)
    assert made.origins[0] == made.start
    assert made.origins[-1] + made.horizon == count


def test_sarima_on_the_airline_gives_the_numbers_that_are_known(logarithms):
    truth = np.exp(logarithms[120:])
    months = np.exp(sarima.forecast(MODELS["airline"], logarithms, 120, np.array([120]), 24).mean[0])
    assert rmse(months, truth) == pytest.approx(43.2, abs=0.05)
    each = np.exp(sarima.forecast(MODELS["airline"], logarithms, 120, np.arange(120, 144), 1).mean[:, 0])
    assert rmse(each, truth) == pytest.approx(15.3, abs=0.05)
    naive = seasonal_naive(np.exp(logarithms), np.array([120]), 24, 12)[0]
    assert rmse(naive, truth) == pytest.approx(77.0, abs=0.05)


def test_forecasts_from_all_origins_are_those_that_statsmodels_makes_one_by_one(logarithms):
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    origins = np.array([120, 121, 131])
    ours = sarima.forecast(MODELS["airline"], logarithms, 120, origins, 14)
    level = logarithms[:120].mean()
    fitted = SARIMAX(logarithms[:120] - level, order=(0, 1, 1), seasonal_order=(0, 1, 1, 12)).fit(disp=False)
    for row, origin in enumerate(origins):
        longer = fitted.append(logarithms[120:origin] - level, refit=False) if origin > 120 else fitted
        theirs = longer.get_forecast(14)
        np.testing.assert_allclose(ours.mean[row], theirs.predicted_mean + level, rtol=1e-9)
        np.testing.assert_allclose(ours.variance[row], theirs.se_mean**2, rtol=1e-6)


def test_differences_taken_beforehand_come_back_in_the_forecasts():
    season = np.sin(np.arange(24) * 2 * np.pi / 24)
    values = np.tile(season, 6) + 0.01 * np.random.default_rng(0).normal(size=144)
    found = sarima.forecast(Sarima((1, 0, 0), difference=24), values, 120, np.array([120, 125]), 12)
    # Noise of 0.01 in what is known and in what is forecast.
    np.testing.assert_allclose(found.mean, following(values, np.array([120, 125]), 12), atol=0.06)
    assert found.variance == pytest.approx(2e-4, rel=0.5)
    with pytest.raises(ValueError, match="at most the season of the differences, 24"):
        sarima.forecast(Sarima((1, 0, 0), difference=24), values, 120, np.array([120]), 25)


def test_a_forecast_knows_nothing_of_what_follows_its_origin(logarithms):
    changed = logarithms.copy()
    changed[126:] += 1
    origins = np.array([120, 126])
    before, after = (sarima.forecast(MODELS["airline"], v, 120, origins, 6) for v in (logarithms, changed))
    np.testing.assert_array_equal(before.mean, after.mean)


def test_the_seasonal_naive_forecast_takes_the_latest_season_that_is_known():
    values = np.arange(20.0)
    np.testing.assert_array_equal(seasonal_naive(values, np.array([10, 11]), 5, 3)[0], [7, 8, 9, 7, 8])
    np.testing.assert_array_equal(seasonal_naive(values, np.array([10, 11]), 5, 3)[1], [8, 9, 10, 8, 9])


def test_scaled_errors_are_those_of_a_hand_computation():
    past = np.array([1.0, 2.0, 4.0, 4.0])  # a season of 2: differences of 3 and 2
    assert mase(np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]]), past, 2) == pytest.approx(1.5 / 2.5)
