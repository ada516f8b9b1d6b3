"""The designed probes of forecasters."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import BATCH, FEATURES, HIDDEN, STEPS, masks, normal
from parity.gates import Array
from parity.probe import SCALES, Probe

TICKERS = ("AAPL", "GOOG", "IBM", "MSFT")
LOOK_BACK, WINDOWS_EACH = 20, 7


@dataclass(frozen=True)
class ForecasterCall(Call):
    """Windows of a series, drawn at random or (`stocks`) real closing prices of several companies."""

    states: int = 1
    stocks: bool = False

    def _scales(self, probe_set: str) -> list[float]:
        """Leave out what is chaotic on the long windows of real prices.

        A tanh network with 4 times the weights amplifies a rounding error to 6 % within 19 steps.
        """
        return [scale for scale in SCALES[probe_set] if scale <= 1 or not self.stocks]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        x = stock_windows() if self.stocks else normal(rng, (BATCH, STEPS, FEATURES))
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(x,),
            weight_scale=scale,
            arg_names=("x",),
            outputs=("prediction", "h_n", "c_n")[: 1 + self.states],
            batch_axes={"prediction": 0, "h_n": 1, "c_n": 1},
        )


@dataclass(frozen=True)
class GaussianCall(Call):
    """Windows whose continuation is forecast with a variance; what is dropped is injected."""

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(rng.standard_normal((BATCH, STEPS, FEATURES)).astype(np.float32),),
            kwargs={"dropout_masks": masks(rng, {"dropout": (HIDDEN,)})},
            weight_scale=scale,
            arg_names=("x",),
            outputs=("mean", "variance"),
            batch_axes={"mean": 0, "variance": 0},
        )


def stock_windows() -> Array:
    """Return windows [28, 19, 1] of scaled daily closes, evenly spread over the test part of each series.

    The data are those of `bokeh_sampledata` (Quandl WIKI, public domain).
    """
    from jaxrnn.data import forecast_dataset

    stocks = importlib.import_module("bokeh_sampledata.stocks")
    windows = []
    for ticker in TICKERS:
        closes = np.asarray(getattr(stocks, ticker)["adj_close"], np.float64)
        inputs = forecast_dataset(closes, LOOK_BACK, test_fraction=0.2).test.inputs
        windows.append(inputs[np.linspace(0, len(inputs) - 1, WINDOWS_EACH).astype(int)])
    return np.concatenate(windows)
