"""SARIMA of statsmodels, fitted once, and its forecasts from many origins by one pass of the Kalman filter."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Sarima(NamedTuple):
    """Orders (p, d, q) and (P, D, Q, season), in the notation of Box & Jenkins.

    difference: a season whose difference is taken before the model sees the series, for one that is too long for
    the state of its filter.
    """

    order: tuple[int, int, int]
    seasonal: tuple[int, int, int, int] = (0, 0, 0, 0)
    difference: int = 0

    def __str__(self) -> str:
        text = f"({','.join(map(str, self.order))})"
        if any(self.seasonal):
            text += f"({','.join(map(str, self.seasonal[:3]))}){self.seasonal[3]}"
        return text + (f" of differences at {self.difference}" if self.difference else "")


# Box & Jenkins' "airline model", and for CO2 the same with one coefficient more. For the sunspots AR(9) had the
# best AIC on the training part, of (2,0,0), (2,0,1), (3,0,3) and (9,0,0). Taylor's (2003) double season of the
# demand is split: differences over a week, which keep the state small, and a seasonal coefficient for the day.
MODELS = {
    "airline": Sarima((0, 1, 1), (0, 1, 1, 12)),
    "sunspots": Sarima((9, 0, 0)),
    "CO2": Sarima((1, 1, 1), (0, 1, 1, 12)),
    "demand": Sarima((2, 0, 2), (1, 0, 0, 48), difference=336),
}


class Forecasts(NamedTuple):
    """Normal distributions of the values from each origin on."""

    mean: Float[np.ndarray, "O H"]
    variance: Float[np.ndarray, "O H"]


def forecast(
    model: Sarima, values: Float[np.ndarray, " N"], start: int, origins: np.ndarray, horizon: int
) -> Forecasts:
    """Return forecasts from `origins` of a model whose coefficients are fitted on `values[:start]` alone.

    Each forecast knows all values before its origin, through the state of the filter.
    """
    season = model.difference
    if season and horizon > season:
        raise ValueError(f"horizon={horizon}: expected at most the season of the differences, {season}.")
    series = values[season:] - values[: len(values) - season] if season else values
    level = series[: start - season].mean()
    fitted = _fit(model, series[: start - season] - level)
    filtered = fitted.append(series[start - season :] - level, refit=False).filter_results
    means, variances = _propagate(filtered, origins - season, horizon)
    if season:
        means = means + values[origins[:, None] + np.arange(horizon) - season]
    return Forecasts(means + level, variances)


def _fit(model: Sarima, series: Float[np.ndarray, " N"]) -> Any:
    from statsmodels.tools.sm_exceptions import ConvergenceWarning
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # starting values replaced by zeros
        warnings.simplefilter("ignore", ConvergenceWarning)
        return SARIMAX(series, order=model.order, seasonal_order=model.seasonal).fit(disp=False, maxiter=100)


def _propagate(filtered: Any, origins: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Carry the filter's predicted states on without observations::

    y = Z a,  var y = Z P Z';  a' = T a,  P' = T P T' + R Q R'
    """
    design, transition = filtered.design[:, :, 0], filtered.transition[:, :, 0]
    selection = filtered.selection[:, :, 0]
    noise = selection @ filtered.state_cov[:, :, 0] @ selection.T
    states = filtered.predicted_state[:, origins]  # [S, O]
    spreads = np.moveaxis(filtered.predicted_state_cov[:, :, origins], -1, 0)  # [O, S, S]
    means, variances = [], []
    for _ in range(horizon):
        means.append((design @ states)[0])
        variances.append((design @ spreads @ design.T)[:, 0, 0])
        states = transition @ states
        spreads = transition @ spreads @ transition.T + noise
    return np.stack(means, axis=1), np.stack(variances, axis=1)
