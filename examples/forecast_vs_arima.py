# %% [markdown]
"""ARIMA or a recurrent network? Four series, many horizons, from many origins (many to one).

    python -m examples.forecast_vs_arima

The lecture says: ARIMA is better on little data and for short horizons, networks are better on much data and for
long horizons. Here both forecast the same held-out values, from every origin that fits, and neither sees anything
behind the origin. Two simple forecasts stand beside them: the value of the season before (seasonal naive), and
that value corrected by a line through the latest difference between two seasons (regression). The LSTM gives all
horizons at once, as a correction of the regression; SARIMA is fitted by maximum likelihood. Look for where the
curves of the first figure cross, and count a series' length in seasons rather than in values.
"""

# %% The imports
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import jaxrnn
import parity
from examples.common import drawing, judging, sarima
from examples.common.lesson import Lesson
from examples.common.results import Outcome, Score
from examples.common.series import SERIES, Series, following, mase, rmse, seasonal_naive
from examples.common.training import learn
from jaxrnn.data import Standardizer
from jaxrnn.models import Forecaster


# %% The sizes
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    epochs: int = 150
    hidden: int = 32
    names: tuple[str, ...] = ("airline", "sunspots", "CO2", "demand")


SIZES: dict = {
    "small": Size(epochs=3, hidden=8, names=("airline", "sunspots")),
    "default": Size(),
    "full": Size(epochs=600, hidden=96),
}
PASSES = {"demand": 0.1}  # of the epochs: this series has ten times the windows of the others


# %% The data
class Windows(NamedTuple):
    """What the network reads before each origin, and what comes after it, on the transformed scale."""

    inputs: np.ndarray  # [O, T, 2]: differences from the season before, and the values themselves
    naive: np.ndarray  # [O, H]: the latest value that lies whole seasons before the one to forecast
    truth: np.ndarray  # [O, H]


def windows(series: Series, origins: np.ndarray) -> Windows:
    """Return the windows of a series before the origins, and what follows."""
    values, period = series.forward(series.values), series.period
    differences = np.concatenate([np.zeros(period), values[period:] - values[:-period]])
    steps = origins[:, None] + np.arange(-series.window, 0)
    naive = seasonal_naive(values, origins, series.horizon, period)
    inputs = np.stack([differences[steps], values[steps]], axis=-1)
    return Windows(inputs, naive, following(values, origins, series.horizon))


def origins_before(series: Series, end: int) -> np.ndarray:
    """Return the origins that have a window and the seasons before it, and whose values end before `end`."""
    seasons = -(-series.horizon // series.period) * series.period
    first = max(series.period + series.window, seasons)
    return np.arange(first, end - series.horizon + 1)


@dataclass(frozen=True)
class Shortcut:
    """A forecast by regression on the latest difference from the season before, a line for each horizon::

        forecast_h = naive_h + a_h + b_h difference

    Between b = 0, the seasonal naive forecast, and b = 1, which takes the difference to last.
    """

    offset: np.ndarray  # [H]
    slope: np.ndarray  # [H]

    @classmethod
    def fit(cls, seen: Windows) -> "Shortcut":
        """Fit the lines by least squares."""
        latest = np.stack([np.ones(len(seen.inputs)), seen.inputs[:, -1, 0]], axis=1)
        return cls(*np.linalg.lstsq(latest, seen.truth - seen.naive)[0])

    def __call__(self, seen: Windows) -> np.ndarray:
        """Return the forecasts [O, H]."""
        return seen.naive + self.offset + self.slope * seen.inputs[:, -1:, 0]


# %% The model and its training
class Trained(NamedTuple):
    """A network, and the scales and the shortcut around it, all fitted on the same windows."""

    network: Forecaster
    inputs: Standardizer
    unit: float  # of what the network says
    shortcut: Shortcut


def squared_error(network, batch):
    """Return the mean squared error over all horizons."""
    return jnp.mean((network(jnp.asarray(batch[0]))[0] - batch[1]) ** 2)


def train(
    series: Series, size: Size, origins: np.ndarray, check: np.ndarray, epochs: int, seed: int
) -> tuple[Trained, int]:
    """Return a network trained on the windows at `origins`, and for how many epochs.

    The windows at `check`, if there are any, choose the epoch.
    """
    seen, unseen = windows(series, origins), windows(series, check)
    shortcut = Shortcut.fit(seen)
    inputs = Standardizer.fit(seen.inputs.reshape(-1, 2))
    unit = float(np.std(seen.truth - shortcut(seen)))
    arrays, held_out = (
        (
            inputs.transform(part.inputs).astype("f4"),
            ((part.truth - shortcut(part)) / unit).astype("f4"),
        )
        for part in (seen, unseen)
    )
    network = Forecaster(jaxrnn.LSTM, 2, size.hidden, 1, series.horizon, rngs=nnx.Rngs(seed))
    history = learn(
        network,
        squared_error,
        arrays,
        description=series.name,
        epochs=epochs,
        batch_size=min(32, len(origins)),
        learning_rate=1e-3,
        seed=seed,
        validate=nnx.jit(lambda network: squared_error(network, held_out)) if len(check) else None,
    )
    kept = epochs if history.best_epoch is None else history.best_epoch + 1
    return Trained(network, inputs, unit, shortcut), kept


def train_on_all(series: Series, size: Size, seed: int) -> Trained:
    """Return a network trained on all that is not held out, for as many epochs as validation has chosen.

    The validation's windows are the last fifth before the test; no value that they are asked for is one that the
    training was asked for.
    """
    epochs = max(2, round(size.epochs * PASSES.get(series.name, 1.0)))
    everything = origins_before(series, series.start)
    check = everything[-(len(everything) // 5) :]
    _, kept = train(series, size, origins_before(series, check[0]), check, epochs, seed)
    return train(series, size, everything, everything[:0], kept, seed)[0]


def forecast(trained: Trained, seen: Windows) -> np.ndarray:
    """Return the network's forecasts [O, H], on the transformed scale."""
    inputs = trained.inputs.transform(seen.inputs).astype("f4")
    return trained.shortcut(seen) + trained.unit * np.asarray(predictions(trained.network, inputs))


predictions = nnx.jit(lambda network, inputs: network(inputs)[0])


# %% The baselines and the scores
class Compared(NamedTuple):
    """The held-out values of a series, and what was forecast for them, in the series' unit."""

    series: Series
    truth: np.ndarray  # [O, H]
    forecasts: dict[str, np.ndarray]  # [O, H] each


def compare(series: Series, trained: Trained) -> Compared:
    """Return the forecasts of all methods from the same origins."""
    values = series.forward(series.values)
    origins, horizon = series.origins, series.horizon
    seen = windows(series, origins)
    classic = sarima.forecast(sarima.MODELS[series.name], values, series.start, origins, horizon).mean
    said = {
        "LSTM": forecast(trained, seen),
        "SARIMA": classic,
        "regression": trained.shortcut(seen),
        "seasonal naive": seen.naive,
    }
    truth = following(series.values, origins, horizon)
    return Compared(series, truth, {name: series.inverse(each) for name, each in said.items()})


def scores(compared: Compared, count: int, weights: int) -> list[Score]:
    """Return the errors over all horizons, at the first step, and over the last quarter of the horizons."""
    series, truth = compared.series, compared.truth
    past = series.values[: series.start]
    name, last = f"LSTM, {series.name}", slice(-(series.horizon // 4), None)
    note = f"{weights} weights, {count} windows, but no more than {series.start / series.period:.0f} seasons"
    made = []
    for baseline in ("seasonal naive", "regression", "SARIMA"):
        scaled = [mase(compared.forecasts[who], truth, past, series.period) for who in ("LSTM", baseline)]
        made.append(Score(name, "MASE, all horizons", scaled[0], baseline, scaled[1], False, note))
    for part, label in ((slice(0, 1), "first step"), (last, "last quarter of the horizons")):
        errors = [
            float(np.sqrt(np.mean((compared.forecasts[who] - truth)[:, part] ** 2)))
            for who in ("LSTM", "SARIMA")
        ]
        made.append(
            Score(name, f"RMSE ({series.unit}), {label}", errors[0], "SARIMA", errors[1], False, note)
        )
    return made


def crossing(compared: Compared) -> str:
    """Return in words at which horizons the LSTM's error is below SARIMA's."""
    series = compared.series
    errors = {name: rmse(each, compared.truth) for name, each in compared.forecasts.items()}
    better = errors["LSTM"] < errors["SARIMA"]
    beyond = np.flatnonzero(~better)
    where = f"{better.sum()} of {series.horizon}"
    if better.any() and not better.all() and beyond[-1] + 1 < series.horizon:
        where += f", all beyond {beyond[-1] + 1} {series.step}s among them"
    length = f"{series.start} {series.step}s, {series.start / series.period:.0f} seasons of {series.period}"
    return (
        f"{series.name}: {length} before the test; {len(series.origins)} origins in it; the LSTM's RMSE is "
        f"below that of SARIMA {sarima.MODELS[series.name]} at this many horizons: {where}."
    )


# %% The figures
STYLES: dict[str, dict] = {
    "LSTM": {"color": drawing.BLUE, "linewidth": 1.8},
    "SARIMA": {"color": drawing.VERMILLION, "linestyle": "--", "linewidth": 1.6},
    "regression": {"color": drawing.GREEN, "linestyle": "-.", "linewidth": 1.3},
    "seasonal naive": {"color": drawing.GREY, "linestyle": ":", "linewidth": 1.6},
}


def draw(everything: list[Compared], what: str) -> Figure:
    """Draw for each series the error against the horizon ("errors"), or one forecast ("forecasts")."""
    rows = (len(everything) + 1) // 2
    figure = drawing.new(9.4, 0.7 + 2.9 * rows)
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, compared in zip(axes, everything, strict=False):
        series, origin = compared.series, len(compared.truth) // 2
        steps = np.arange(1, series.horizon + 1)
        if what == "forecasts":
            before = series.values[series.origins[origin] - series.horizon : series.origins[origin]]
            known = np.concatenate([before, compared.truth[origin]])
            ax.plot(
                np.arange(1 - series.horizon, series.horizon + 1), known, color="k", label="what happened"
            )
            ax.axvline(0.5, color=drawing.GREY, linewidth=0.8)
        for name, style in STYLES.items():
            found = compared.forecasts[name]
            line = found[origin] if what == "forecasts" else rmse(found, compared.truth)
            ax.plot(steps, line, label=name, **style)
        if what == "errors":
            ax.set_ylim(bottom=0)
        ax.set_ylabel(series.unit if what == "forecasts" else f"RMSE ({series.unit})")
        ax.set_xlabel(f"{series.step}s ahead")
        ax.set_title(series.name, fontsize="medium")
        drawing.tidy(ax)
    for ax in axes[len(everything) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=5, loc="outside lower center")
    return figure


# %% The run
def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Forecast four series by an LSTM, by SARIMA and by two simpler methods."""
    compared, found, agreements = [], [], []
    for name in size.names:
        series = SERIES[name]()
        trained = train_on_all(series, size, seed)
        compared.append(compare(series, trained))
        weights = sum(w.size for w in jaxrnn.state_dict(trained.network).values())
        count = len(origins_before(series, series.start))
        found += scores(compared[-1], count, weights)
        if judged:
            twin = judging.mirror(
                trained.network, "Forecaster", jaxrnn.LSTM, 2, size.hidden, 1, series.horizon
            )
            outputs = ("prediction", "h_n", "c_n")
            axes = {"prediction": 0, "h_n": 1, "c_n": 1}
            rows = trained.inputs.transform(windows(series, series.origins[:8]).inputs).astype("f4")
            probe = parity.Probe("held-out windows", (rows,), outputs=outputs, batch_axes=axes)
            agreements.append(judging.judge(f"LSTM, {name}", trained.network, twin, probe))
    return Outcome(
        scores=tuple(found),
        agreements=tuple(agreements),
        figures={what: draw(compared, what) for what in ("errors", "forecasts")},
        remarks=tuple(map(crossing, compared)),
    )


LESSON = Lesson("forecast_vs_arima", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
