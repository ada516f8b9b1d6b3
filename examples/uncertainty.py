# %% [markdown]
"""How sure is a forecast? The noise of the world, and what the network does not know (many to one).

    python -m examples.uncertainty

A network with two outputs for each number, mean and variance, is trained by the likelihood: the variance is the
stochastic part, noise that more data would not remove. Five such networks from different initial weights, trained
at once as one compiled program, disagree where the data left something open: the spread of their means is the
epistemic part. Dropout left on while forecasting (MC dropout) gives such a spread from one network. On a series
that was made with a known noise one can see whether the first part is right, and that far from the training data it
is the second one that grows. On CO2 and electricity, count how often the truth falls into the intervals.
"""

# %% The imports
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from scipy.stats import norm

import jaxrnn
import parity
from examples.common import drawing, judging, sarima
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score
from examples.common.series import SERIES, Series
from examples.common.training import learn
from examples.forecast_vs_arima import Shortcut, Windows, origins_before, windows
from jaxrnn.data import Standardizer
from jaxrnn.losses import gaussian_nll_loss
from jaxrnn.models import GaussianForecaster


# %% The sizes
@dataclass(frozen=True)
class Size:
    """What the run costs."""

    steps: int = 1500  # of the optimizer, at most
    hidden: int = 32
    members: int = 5
    masks: int = 30
    names: tuple[str, ...] = ("known noise", "CO2", "demand")


SIZES: dict = {
    "small": Size(steps=60, hidden=8, members=2, masks=3, names=("known noise", "CO2")),
    "default": Size(),
    "full": Size(steps=6000, hidden=64, members=10, masks=100),
}
DROPOUT = 0.1


# %% The data
def known_noise() -> Series:
    """Return a sine of period 25 with noise whose standard deviation follows it, from 0.05 to 0.35."""
    steps = np.arange(2600)
    noise = np.random.default_rng(0).normal(size=len(steps)) * deviation(steps)
    values = clean(steps) + noise
    return Series("known noise", values, "no unit", "step", 25, 25, 600, 50, np.asarray, np.asarray)


def clean(steps: np.ndarray) -> np.ndarray:
    """Return the made series without its noise."""
    return np.sin(2 * np.pi * steps / 25)


def deviation(steps: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the noise."""
    return 0.2 - 0.15 * np.cos(2 * np.pi * steps / 25)


MADE = {**SERIES, "known noise": known_noise}


# %% The model: several networks as one
class Ensemble(nnx.Module):
    """Networks of one kind with weights of their own, side by side along a first axis of every weight.

    Deep ensembles (Lakshminarayanan et al., 2017), https://arxiv.org/abs/1612.01474. `jax.vmap` makes one program
    of them; they share nothing, so their gradients and their steps of Adam are those of networks alone.
    """

    def __init__(self, *sizes: int, members: int, rngs: nnx.Rngs):
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs: nnx.Rngs) -> GaussianForecaster:
            return GaussianForecaster(jaxrnn.LSTM, *sizes, dropout=DROPOUT, rngs=rngs)

        self.members = create(rngs.split(members))

    def __call__(self, x: Any) -> Any:
        """Return means and variances [M, B, O] for x [B, T, I]."""
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)

    def first(self) -> GaussianForecaster:
        """Return the first of the networks alone."""
        graph, state = nnx.split(self.members)
        return nnx.merge(graph, jax.tree.map(lambda array: array[0], state))


class Mixture(NamedTuple):
    """A forecast by several means and variances, in the series' transformed scale."""

    mean: np.ndarray  # [O, H]
    stochastic: np.ndarray  # [O, H] variance
    epistemic: np.ndarray  # [O, H] variance

    @property
    def variance(self) -> np.ndarray:
        """The variance of the mixture: the mean of the variances, and the variance of the means."""
        return self.stochastic + self.epistemic

    @classmethod
    def of(cls, means: np.ndarray, variances: np.ndarray) -> "Mixture":
        """Mix [M, O, H] over the first axis."""
        return cls(means.mean(0), variances.mean(0), means.var(0))


# %% The training
class Trained(NamedTuple):
    """An ensemble, the scales around it, and the simple forecast that it corrects."""

    ensemble: Ensemble
    inputs: Standardizer
    unit: float
    shortcut: Callable[[Windows], np.ndarray]

    def read(self, seen: Windows) -> np.ndarray:
        """Return what the networks read."""
        return self.inputs.transform(seen.inputs).astype("f4")


def likelihood(ensemble, batch):
    """Return the negative log likelihood, the mean of all values and the sum of the members."""
    mean, variance = ensemble(jnp.asarray(batch[0]))
    target = jnp.broadcast_to(jnp.asarray(batch[1]), mean.shape)
    return len(mean) * gaussian_nll_loss(mean, target, variance)


def train(series: Series, size: Size, seed: int) -> Trained:
    """Return an ensemble for what a simple forecast leaves open; validation chooses the epoch."""
    everything = origins_before(series, series.start)
    check = everything[-(len(everything) // 5) :]
    seen, unseen = (windows(series, part) for part in (origins_before(series, check[0]), check))
    shortcut: Callable[[Windows], np.ndarray] = Shortcut.fit(seen)
    if series.name == "known noise":  # in which the noise of the season before does not come again
        middle = seen.truth.mean()
        shortcut = lambda windows: np.full(windows.truth.shape, middle)  # noqa: E731
    trained = Trained(
        Ensemble(2, size.hidden, 1, series.horizon, members=size.members, rngs=nnx.Rngs(seed)),
        Standardizer.fit(seen.inputs.reshape(-1, 2)),
        float(np.std(seen.truth - shortcut(seen))),
        shortcut,
    )
    arrays, held_out = (
        (trained.read(part), ((part.truth - shortcut(part)) / trained.unit).astype("f4"))
        for part in (seen, unseen)
    )
    trained.ensemble.train()
    learn(
        trained.ensemble,
        likelihood,
        arrays,
        description=f"{size.members} networks, {series.name}",
        epochs=-(-size.steps // (len(seen.truth) // 32)),
        batch_size=32,
        learning_rate=1e-3,
        clip=None,  # the norm would be that of all members together
        seed=seed,
        validate=nnx.jit(lambda ensemble: likelihood(ensemble, held_out)),
    )
    return trained


# %% The forecasts
forward = nnx.jit(lambda network, inputs: network(inputs))


def mixed(trained: Trained, seen: Windows, means: Any, variances: Any) -> Mixture:
    """Return a forecast from what networks said [M, O, H]."""
    unit = trained.unit
    said = Mixture.of(np.asarray(means, np.float64), np.asarray(variances, np.float64))
    return Mixture(
        trained.shortcut(seen) + unit * said.mean, unit**2 * said.stochastic, unit**2 * said.epistemic
    )


def forecasts(trained: Trained, series: Series, seen: Windows, masks: int) -> dict[str, Mixture]:
    """Return the forecasts of the ensemble, of its first member, of that with dropout, and of the baselines."""
    inputs = trained.read(seen)
    trained.ensemble.eval()
    means, variances = forward(trained.ensemble, inputs)
    alone = trained.ensemble.first()
    alone.train()
    dropped = [forward(alone, inputs) for _ in range(masks)]
    found = {
        "ensemble": mixed(trained, seen, means, variances),
        "MC dropout": mixed(trained, seen, *map(np.stack, zip(*dropped, strict=True))),
        "one network": mixed(trained, seen, means[:1], variances[:1]),
        "seasonal naive": naive(series, seen),
    }
    if series.name in sarima.MODELS:
        values = series.forward(series.values)
        model = sarima.MODELS[series.name]
        classic = sarima.forecast(model, values, series.start, series.origins, series.horizon)
        found["SARIMA"] = Mixture(classic.mean, classic.variance, 0 * classic.variance)
    return found


def naive(series: Series, seen: Windows) -> Mixture:
    """Return the seasonal naive forecast, with mean and variance of its errors before the test for each horizon."""
    past = windows(series, origins_before(series, series.start))
    errors = past.truth - past.naive
    variance = np.broadcast_to(errors.var(axis=0), seen.naive.shape)
    return Mixture(seen.naive + errors.mean(axis=0), variance, np.zeros_like(variance))


# %% The scores
LEVELS = (0.5, 0.8, 0.95)


def coverage(forecast: Mixture, truth: np.ndarray, level: float) -> float:
    """Return which share of the truth lies in the central interval that should have `level` of it."""
    half = norm.ppf((1 + level) / 2) * np.sqrt(forecast.variance)
    return float(np.mean(np.abs(truth - forecast.mean) <= half))


def nll(forecast: Mixture, truth: np.ndarray) -> float:
    """Return the mean negative log likelihood of a value, by the normal distribution of mean and whole variance."""
    variance = forecast.variance
    return float(np.mean(0.5 * (np.log(2 * math.pi * variance) + (truth - forecast.mean) ** 2 / variance)))


def miss(forecast: Mixture, truth: np.ndarray) -> float:
    """Return by how many percentage points the coverage of the intervals is off, in the mean over the levels."""
    return float(np.mean([100 * abs(coverage(forecast, truth, level) - level) for level in LEVELS]))


def scores(series: Series, found: dict[str, Mixture], truth: np.ndarray) -> list[Score]:
    """Return likelihoods and coverages of the ensemble beside the baselines, and beside cheaper ways to it."""
    made = []
    for baseline in ("seasonal naive", "SARIMA", "one network", "MC dropout"):
        if baseline not in found:
            continue
        who = f"ensemble, {series.name}"
        losses, misses = (
            [measure(found[name], truth) for name in ("ensemble", baseline)] for measure in (nll, miss)
        )
        note = "its likelihood is better all the same" if losses[0] < losses[1] else ""
        made.append(Score(who, "NLL per value", losses[0], baseline, losses[1], False))
        made.append(Score(who, "coverage off by (points)", misses[0], baseline, misses[1], False, note))
    return made


def coverages(series: Series, found: dict[str, Mixture], truth: np.ndarray) -> str:
    """Return in words how much of the truth the intervals hold."""
    shares = {
        name: " / ".join(f"{100 * coverage(forecast, truth, level):.0f}" for level in LEVELS)
        for name, forecast in found.items()
    }
    listed = ", ".join(f"{name} {share}" for name, share in shares.items())
    return f"{series.name}: of the truth, the intervals of 50 / 80 / 95 % hold {listed} %."


# %% Where nothing is known
SHIFTS = np.linspace(-6, 6, 49)


def shifted(trained: Trained, series: Series) -> np.ndarray:
    """Return stochastic and epistemic deviation [2, S], where the values read are shifted by `SHIFTS`.

    The mean over windows and horizons; in units of the spread that the values read have in training.
    """
    seen = windows(series, series.origins[:: series.period // 4])
    found = []
    for shift in SHIFTS:
        inputs = trained.read(seen) + np.array([0, shift], "f4")
        said = mixed(trained, seen, *forward(trained.ensemble, inputs))
        found.append([np.sqrt(said.stochastic).mean(), np.sqrt(said.epistemic).mean()])
    return np.array(found).T


def against_the_truth(
    series: Series, seen: Windows, forecast: Mixture, parts: np.ndarray
) -> tuple[Score, str]:
    """Return how near a forecast is to what the series was made with, and what shifting its inputs does."""
    steps = series.origins[:, None] + np.arange(series.horizon)
    truth = Mixture(clean(steps), deviation(steps) ** 2, np.zeros(steps.shape))
    losses = nll(forecast, seen.truth), nll(truth, seen.truth)
    note = "it is what the series was made with: nothing can be better"
    score = Score(f"ensemble, {series.name}", "NLL per value", losses[0], "the truth", losses[1], False, note)
    ratio = np.mean(np.sqrt(forecast.stochastic) / deviation(steps))
    middle = len(SHIFTS) // 2
    grown = [part[[0, -1]].mean() / part[middle] for part in parts]
    remark = (
        f"{series.name}: the stochastic part's deviation is {ratio:.2f} times the known one in the mean. "
        f"If what is read is shifted by {SHIFTS[-1]:.0f} deviations it grows {grown[0]:.1f} times, "
        f"the epistemic one {grown[1]:.1f} times."
    )
    return score, remark


# %% The figures
METHODS: dict[str, dict] = {
    "ensemble": {"color": drawing.BLUE, "marker": "o"},
    "MC dropout": {"color": drawing.GREEN, "marker": "s", "linestyle": "-."},
    "one network": {"color": drawing.PURPLE, "marker": "v", "linestyle": ":"},
    "SARIMA": {"color": drawing.VERMILLION, "marker": "^", "linestyle": "--"},
    "seasonal naive": {"color": drawing.GREY, "marker": "x", "linestyle": ":"},
}


class Judged(NamedTuple):
    """A series with all that was forecast of it."""

    series: Series
    seen: Windows
    found: dict[str, Mixture]


def bands(everything: list[Judged]) -> Figure:
    """Draw a forecast of each series, with the interval of 95 % and the part of it that is epistemic."""
    figure = drawing.new(9.4, 0.8 + 2.4 * len(everything))
    for ax, (series, seen, found) in zip(
        np.atleast_1d(figure.subplots(len(everything))), everything, strict=True
    ):
        row = len(seen.truth) // 2
        steps = np.arange(1, series.horizon + 1)
        forecast = Mixture(*(part[row] for part in found["ensemble"]))
        half = 1.96 * np.sqrt(forecast.variance)
        inner = half * np.sqrt(forecast.epistemic / forecast.variance)
        before = series.forward(series.values)[series.origins[row] - series.horizon : series.origins[row]]
        known = np.concatenate([before, seen.truth[row]])
        ax.fill_between(
            steps,
            forecast.mean - half,
            forecast.mean + half,
            color=drawing.SKY,
            alpha=0.4,
            lw=0,
            label="95 %, both parts",
        )
        ax.fill_between(
            steps,
            forecast.mean - inner,
            forecast.mean + inner,
            color=drawing.ORANGE,
            alpha=0.8,
            lw=0,
            label="epistemic part alone",
        )
        ax.plot(steps, forecast.mean, color=drawing.BLUE, label="ensemble's mean")
        ax.plot(
            np.arange(1 - series.horizon, series.horizon + 1),
            known,
            "k.-",
            lw=0.8,
            ms=4,
            label="what happened",
        )
        if series.name == "known noise":
            place = series.origins[row] + steps - 1
            for sign in (-1, 1):
                edge = clean(place) + sign * 1.96 * deviation(place)
                ax.plot(steps, edge, color="k", ls="--", lw=0.9, label="95 %, as made" if sign > 0 else None)
        ax.axvline(0.5, color=drawing.GREY, linewidth=0.8)
        ax.set_title(series.name, fontsize="medium")
        ax.set_xlabel(f"{series.step}s ahead")
        ax.set_ylabel("value" if series.unit == "no unit" else series.unit)
        ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        drawing.tidy(ax)
    return figure


def reliability(everything: list[Judged]) -> Figure:
    """Draw how much of the truth lies in intervals that should hold a given share."""
    figure = drawing.new(9.4, 3.9)
    levels = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95])
    axes = np.atleast_1d(figure.subplots(1, len(everything), sharey=True))
    for ax, (series, seen, found) in zip(axes, everything, strict=True):
        ax.plot([0, 100], [0, 100], color="k", linewidth=0.8, label="as it should be")
        for name, style in METHODS.items():
            if name in found:
                shares = [100 * coverage(found[name], seen.truth, level) for level in levels]
                ax.plot(100 * levels, shares, markersize=4, linewidth=1.3, label=name, **style)
        ax.set_title(series.name, fontsize="medium")
        ax.set_xlabel("interval (%)")
        drawing.tidy(ax)
    axes[0].set_ylabel("held-out values in it (%)")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=6, loc="outside lower center", fontsize="small")
    return figure


def outside(parts: np.ndarray) -> Figure:
    """Draw both parts against how far what is read lies from what was trained on."""
    figure = drawing.new(6.4, 3.6)
    ax = figure.subplots()
    ax.axvspan(-1, 1, color=drawing.GREY, alpha=0.15, lw=0, label="within a deviation of the training data")
    for part, name, color, style in zip(
        parts, ("stochastic", "epistemic"), (drawing.SKY, drawing.ORANGE), ("--", "-"), strict=True
    ):
        ax.plot(SHIFTS, part, style, color=color, linewidth=2, label=f"{name} part")
    ax.set_xlabel("shift of the values read (training deviations)")
    ax.set_ylabel("standard deviation of the forecast")
    ax.set_yscale("log")
    marks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
    ax.minorticks_off()
    figure.legend(frameon=False, fontsize="small", ncols=3, loc="outside lower center")
    drawing.tidy(ax)
    return figure


# %% The run
def judge(trained: Trained, series: Series, size: Size) -> Agreement:
    """Judge the first member by its mirror."""
    alone = trained.ensemble.first()
    sizes = 2, size.hidden, 1, series.horizon
    twin = judging.mirror(alone, "GaussianForecaster", jaxrnn.LSTM, *sizes, dropout=DROPOUT)
    rows = trained.read(windows(series, series.origins[:8]))
    probe = parity.Probe("held-out windows", (rows,), outputs=("mean", "variance"))
    return judging.judge(f"first member, {series.name}", alone, twin, probe)


def run(size: Size, *, seed: int, judged: bool) -> Outcome:
    """Forecast with two kinds of uncertainty, and count how often the truth lies where it should."""
    everything, made, agreements, remarks, figures = [], [], [], [], {}
    for name in size.names:
        series = MADE[name]()
        trained, seen = train(series, size, seed), windows(series, series.origins)
        found = forecasts(trained, series, seen, size.masks)
        everything.append(Judged(series, seen, found))
        made += scores(series, found, seen.truth)
        remarks.append(coverages(series, found, seen.truth))
        if name == "known noise":
            parts = shifted(trained, series)
            more, remark = against_the_truth(series, seen, found["ensemble"], parts)
            made.append(more)
            remarks.append(remark)
            figures["outside"] = outside(parts)
        if judged:
            agreements.append(judge(trained, series, size))
    figures = {"bands": bands(everything), "coverage": reliability(everything), **figures}
    return Outcome(tuple(made), tuple(agreements), figures, tuple(remarks))


LESSON = Lesson("uncertainty", SIZES, run)

# %% tags=["command"]
main = LESSON.command()

if __name__ == "__main__":
    main()
