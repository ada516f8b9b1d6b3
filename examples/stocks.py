# %% [markdown]
"""Four cells read the same stock: RNN, GRU, LSTM and LSTM with peepholes side by side (many to one).

    python -m examples.stocks

The lecture's first notebook, with all of its cells in one figure: 19 daily closes are read and the 20th is
forecast. What to see: the forecasts look alike, follow the price like a shadow, and none of them is as good as
saying that tomorrow's close will be today's. `docs/stock_forecast.md` explains why, habit by habit; here the
scaler is fitted on the training days, and validation chooses the epoch.
"""

# %% The imports
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score
from examples.stock_forecast import (
    CLEAN,
    LEARNING_RATE,
    LOOK_BACK,
    Prices,
    dataset,
    predict,
    prices,
    rmse,
    squared_error,
)
from jaxrnn.data import ForecastDataset
from jaxrnn.models import Forecaster


# %% The sizes
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 200
    hidden: int = 32
    layers: int = 2


SIZES: dict = {
    "small": Size(epochs=5, hidden=8),
    "default": Size(),
    "full": Size(epochs=1000, hidden=64),
}
TICKER = "GOOG"
CELLS = (jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM)


# %% The models and their training
def train(cell: type, data: ForecastDataset, size: Size, seed: int) -> Forecaster:
    """Return a forecaster trained on all training windows at once: the weights of the best validation."""
    model = Forecaster(cell, 1, size.hidden, size.layers, rngs=nnx.Rngs(seed))
    batch, check = jax.device_put((data.train, data.validation))
    jaxrnn.train.fit(
        model,
        nnx.Optimizer(model, jaxrnn.optim.adam(LEARNING_RATE), wrt=nnx.Param),
        squared_error,
        lambda epoch: [batch],
        epochs=size.epochs,
        validate=nnx.jit(lambda model: squared_error(model, check)),
        description=cell.__name__,
    )
    return model


def judge(cell: type, model: Forecaster, data: ForecastDataset, size: Size) -> Agreement:
    """Judge a trained forecaster by its mirror, on 16 windows of the test."""
    twin = judging.mirror(model, "Forecaster", cell, 1, size.hidden, size.layers)
    outputs = ("prediction", "h_n", "c_n") if "LSTM" in cell.__name__ else ("prediction", "h_n")
    axes = {"prediction": 0, "h_n": 1, "c_n": 1}
    rows = data.test.inputs[:: len(data.test.inputs) // 16][:16]
    probe = parity.Probe("held-out windows", (rows,), outputs=outputs, batch_axes=axes)
    return judging.judge(cell.__name__, model, twin, probe)


# %% The figure
ZOOM = 60  # trading days


def draw(series: Prices, first: int, forecasts: dict[str, np.ndarray]) -> Figure:
    """Draw the forecasts of all cells over the test days, which start at `first`, and the last of them again."""
    days = first + np.arange(len(forecasts["RNN"]))
    figure = drawing.new(9.4, 6.8)
    whole, end = figure.subplots(2, 1, height_ratios=(1, 1.2))
    for ax, shown in ((whole, days), (end, days[-ZOOM:])):
        dates = series.dates[shown]
        ax.plot(dates, series.closes[shown], color=drawing.BLACK, linewidth=1.1, label="close")
        for name, dollars in forecasts.items():
            style = drawing.CELL_STYLES[name]
            ax.plot(dates, dollars[-len(shown) :], linewidth=1.5, label=name, **style)
        locator = AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.set_ylabel("close (dollars)")
        ax.set_xlabel("trading day")
        drawing.tidy(ax)
    before = series.closes[days[-ZOOM:] - 1]
    end.plot(series.dates[days[-ZOOM:]], before, color=drawing.GREY, linewidth=1.1, label="yesterday's close")
    whole.set_title(f"{series.ticker}: forecasts for the {len(days)} days of the test", fontsize="medium")
    end.set_title(f"the last {ZOOM} of them, beside yesterday's close", fontsize="medium")
    handles, labels = end.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=6, loc="outside lower center")
    return figure


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Forecast a stock by four recurrent cells, beside yesterday's close."""
    series = prices(TICKER)
    data = dataset(series.closes, CLEAN)
    persistence = rmse(data, data.test, data.test.inputs[:, -1])
    scores, agreements, forecasts = [], [], {}
    for cell in CELLS:
        model, name = train(cell, data, size, seed), cell.__name__
        said = predict(model, data.test.inputs)
        forecasts[name] = data.scaler.inverse(said)[:, 0]
        note = "prices rise above all that it was trained on, and yesterday's close follows them"
        error = rmse(data, data.test, said)
        scores.append(
            Score(name, f"RMSE ({TICKER}, dollars)", error, "yesterday's close", persistence, False, note)
        )
        if judged:
            agreements.append(judge(cell, model, data, size))
    first = len(data.train.inputs) + len(data.validation.inputs) + LOOK_BACK - 1
    highest = series.closes[: len(data.train.inputs) + LOOK_BACK - 1].max()
    return Outcome(
        scores=tuple(scores),
        agreements=tuple(agreements),
        figures={"cells": draw(series, first, forecasts)},
        remarks=(
            f"Highest close: {highest:.0f} dollars in training, {series.closes[first:].max():.0f} in the test.",
        ),
    )


LESSON = Lesson("stocks", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
