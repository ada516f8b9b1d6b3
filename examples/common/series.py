"""Four series that the forecasts of the lessons are judged on, the simplest forecast, and measures of error."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from examples.common import packages


@dataclass(frozen=True)
class Series:
    """A series, and how it is forecast: each of the last `held_out` values from what came before it.

    forward, inverse: from the unit to the scale on which a season's swing stays about the same, and back.
    period: steps in a season. step: what one step is, say "month". horizon: how many are forecast at once.
    window: how many a network reads before them.
    """

    name: str
    values: np.ndarray  # [N]
    unit: str
    step: str
    period: int
    horizon: int
    held_out: int
    window: int
    forward: Callable[[Any], np.ndarray]
    inverse: Callable[[Any], np.ndarray]

    @property
    def start(self) -> int:
        """The index of the first value that is held out."""
        return len(self.values) - self.held_out

    @property
    def origins(self) -> np.ndarray:
        """The indices of the first values of all forecasts whose values are all held out."""
        return np.arange(self.start, len(self.values) - self.horizon + 1)


# The data


def airline() -> Series:
    """Return the passengers of international airlines, 1949 to 1960 (Box & Jenkins, 1970)."""
    lines = packages.SKTIME.read("sktime/datasets/data/Airline/Airline.csv").decode().split()
    values = np.array([float(line.split(",")[1]) for line in lines[1:]])
    return Series("airline", values, "thousand passengers", "month", 12, 24, 36, 12, np.log, np.exp)


def sunspots() -> Series:
    """Return the yearly number of sunspots, 1700 to 2008; their cycle is 11 years long, and not exactly."""
    from statsmodels.datasets import sunspots

    values = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float64)
    return Series("sunspots", values, "sunspots", "year", 11, 24, 72, 22, np.sqrt, _squared)


def co2() -> Series:
    """Return carbon dioxide above Mauna Loa: means of the weeks of each month, 1958 to 2001.

    The five months without any measurement, all before 1965, are interpolated.
    """
    from statsmodels.datasets import co2

    months = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    return Series("CO2", months.to_numpy(np.float64), "ppm", "month", 12, 48, 120, 24, np.asarray, np.asarray)


def demand() -> Series:
    """Return the electricity that England and Wales used in half-hours of summer 2000 (Taylor, 2003).

    Its season is the week, within which the days are much alike.
    """
    tree = ast.parse(packages.PMDARIMA.read("pmdarima/datasets/taylor.py"))  # parsed, not run
    (values,) = (n.elts for n in ast.walk(tree) if isinstance(n, ast.List) and len(n.elts) > 1000)
    gigawatts = np.array([ast.literal_eval(value) for value in values]) / 1000
    return Series("demand", gigawatts, "GW", "half-hour", 336, 48, 672, 48, np.asarray, np.asarray)


def _squared(root: Any) -> np.ndarray:
    """Undo a square root; what a model forecasts below zero is zero."""
    return np.maximum(root, 0.0) ** 2


SERIES: dict[str, Callable[[], Series]] = {
    "airline": airline,
    "sunspots": sunspots,
    "CO2": co2,
    "demand": demand,
}


# Forecasts of many steps from many origins


def following(values: Float[np.ndarray, " N"], origins: np.ndarray, horizon: int) -> Float[np.ndarray, "O H"]:
    """Return the `horizon` values from each origin on."""
    return values[origins[:, None] + np.arange(horizon)]


def seasonal_naive(
    values: Float[np.ndarray, " N"], origins: np.ndarray, horizon: int, period: int
) -> Float[np.ndarray, "O H"]:
    """Return the latest value before each origin that lies whole seasons before the one to forecast."""
    steps = np.arange(horizon)
    return values[origins[:, None] + steps - period * (1 + steps // period)]


def rmse(forecasts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the root mean squared error over the first axis, for each horizon."""
    return np.sqrt(np.mean((forecasts - truth) ** 2, axis=0))


def mase(forecasts: np.ndarray, truth: np.ndarray, past: Float[np.ndarray, " N"], period: int) -> float:
    """Return the mean absolute scaled error of Hyndman & Koehler (2006): 1 is a seasonal naive forecast's.

    The unit is the mean absolute difference of values of the past that are one season apart, so that series of
    any unit can be compared.
    """
    unit = np.mean(np.abs(past[period:] - past[:-period]))
    return float(np.mean(np.abs(forecasts - truth)) / unit)
