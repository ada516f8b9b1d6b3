"""The figures of the examples: drawn without a display, in colours that the colour-blind can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from examples.common.drawing import BLACK, BLUE, GREY, ORANGE, SKY, VERMILLION, save, tidy
from examples.stock_results import Run, dollars

ROUNDOFF = 2.0**-24  # of float32
ZOOM = 60  # trading days


def losses(path: Path, runs: Sequence[Run]) -> None:
    """Draw the training loss of both frameworks, one column per model, and below it their relative gap."""
    rows = 2 if runs[0].torch is not None else 1
    figure = Figure(figsize=(1.2 + 3.2 * len(runs), 2.2 + 1.7 * rows), layout="constrained")
    axes = figure.subplots(
        rows, len(runs), squeeze=False, sharex=True, sharey="row", height_ratios=(1.6, 1)[:rows]
    )
    for run, column in zip(runs, axes.T, strict=True):
        epochs = np.arange(1, len(run.jax.loss) + 1)
        top = column[0]
        top.set_title(run.model.upper())
        if run.torch is not None:
            top.plot(epochs, run.torch.loss, color=ORANGE, linewidth=4, alpha=0.75, label="PyTorch")
            _gaps(column[1], epochs, run.gaps)
        top.plot(epochs, run.jax.loss, color=BLUE, linewidth=1.4, label="JAX")
        top.set_yscale("log")
        tidy(top)
        column[-1].set_xlabel("epoch")
    axes[0, 0].set_ylabel("training loss\n(mean squared error, scaled)")
    axes[0, -1].legend(frameon=False)
    if rows == 2:
        axes[1, 0].set_ylabel("relative gap")
        axes[1, 0].set_ylim(ROUNDOFF / 16, 20 * max(ROUNDOFF, *(run.gaps.max() for run in runs)))
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, ncols=3, loc="outside lower center")
    figure.suptitle(f"{runs[0].ticker}, {runs[0].split} split: training from the same initial bits")
    save(figure, path)


def _gaps(ax: Axes, epochs: np.ndarray, gaps: np.ndarray) -> None:
    """Draw the gap of each epoch; an exact zero, which has no place on a logarithmic axis, as a mark below."""
    equal = gaps == 0
    ax.plot(
        epochs[~equal], gaps[~equal], ".", color=VERMILLION, markersize=4, label="|JAX - PyTorch| / PyTorch"
    )
    ax.plot(epochs[equal], np.full(equal.sum(), ROUNDOFF / 4), "|", color=GREY, label="the same bits")
    ax.axhline(ROUNDOFF, color=BLACK, linewidth=0.8, linestyle=":", label="roundoff of float32")
    where = int(gaps.argmax())
    ax.text(
        0.97,
        0.93,
        f"largest: {gaps[where]:.1e}, epoch {epochs[where]}",
        transform=ax.transAxes,
        ha="right",
        va="top",
    )
    ax.set_yscale("log")
    tidy(ax)


def forecast(path: Path, run: Run, dates: np.ndarray, closes: np.ndarray, train: Any, test: Any) -> None:
    """Draw closes and forecasts as the notebook does, and below the end of the test range beside persistence.

    `train` and `test` have the indices of their days and the forecasts in dollars.
    """
    figure = Figure(figsize=(9, 6.6), layout="constrained")
    whole, end = figure.subplots(2, 1, height_ratios=(1.3, 1))
    whole.plot(dates, closes, color=BLACK, linewidth=0.8, label="close")
    whole.plot(dates[train.days], train.dollars, color=SKY, linewidth=1.2, label="forecast, training range")
    whole.plot(dates[test.days], test.dollars, color=VERMILLION, linewidth=1.2, label="forecast, test range")
    whole.axvline(dates[test.days[0]], color=GREY, linewidth=0.8, linestyle=":")
    whole.set_title(f"{run.ticker}, {run.model.upper()} in JAX, {run.split} split: one-day forecasts")
    days = test.days[-ZOOM:]
    end.plot(dates[days], closes[days], color=BLACK, linewidth=1.2, marker=".", markersize=4, label="close")
    label = f"persistence: RMSE ${dollars(run.persistence_test_rmse)}"
    end.plot(dates[days], closes[days - 1], color=BLUE, linewidth=1.2, linestyle="--", label=label)
    label = f"{run.model.upper()}: RMSE ${dollars(run.jax.test_rmse)}"
    end.plot(dates[days], test.dollars[-ZOOM:], color=VERMILLION, linewidth=1.4, label=label)
    end.set_title(
        f"the last {len(days)} days of the test range; RMSE over all {len(test.days)}", fontsize="medium"
    )
    for ax in (whole, end):
        locator = AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.set_ylabel("close (dollars)")
        ax.set_xlabel("trading day")
        ax.legend(frameon=False)
        tidy(ax)
    save(figure, path)


def errors(path: Path, runs: Sequence[Run]) -> None:
    """Draw the test RMSE of every model beside persistence, one panel per ticker, each in its own dollars."""
    tickers = list(dict.fromkeys(run.ticker for run in runs))
    figure = Figure(figsize=(2 + 2.3 * len(tickers), 3.6), layout="constrained")
    for ax, ticker in zip(figure.subplots(1, len(tickers), squeeze=False)[0], tickers, strict=True):
        of_ticker = [run for run in runs if run.ticker == ticker]
        places = np.arange(len(of_ticker))
        theirs = [run.torch.test_rmse for run in of_ticker if run.torch is not None]
        width = 0.38 if theirs else 0.7
        if theirs:
            ax.bar(places - width / 2, theirs, width, color=ORANGE, label="PyTorch")
        ours = [run.jax.test_rmse for run in of_ticker]
        ax.bar(places + (width / 2 if theirs else 0), ours, width, color=BLUE, label="JAX")
        baseline = of_ticker[0].persistence_test_rmse
        ax.axhline(baseline, color=BLACK, linestyle="--", linewidth=1.2, label="persistence")
        ax.set_title(f"{ticker}\npersistence ${dollars(baseline)}", fontsize="medium")
        ax.set_xticks(places, [run.model.upper() for run in of_ticker])
        tidy(ax)
    figure.axes[0].set_ylabel("test RMSE (dollars)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=len(labels), loc="outside lower center")
    figure.suptitle(f"Test error, {runs[0].split} split")
    save(figure, path)


def long_training(path: Path, exact: Any, truncated: Any, baselines: Any, bias: Mapping[int, Any]) -> None:
    """Draw held-out bits per byte against updates, and the truncated gradient's error against its window."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    learning, cost = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for curve, color, name in ((exact, BLUE, "exact"), (truncated, ORANGE, "truncated")):
        label = f"{name}: {curve.passes[-1]:.0f} passes, {curve.updates[-1]} updates"
        learning.plot(
            curve.updates, curve.bits, color=color, linewidth=1.4, marker=".", markersize=4, label=label
        )
    for bits, style, name in ((baselines.unigram, ":", "bytes"), (baselines.bigram, "--", "pairs of bytes")):
        learning.axhline(bits, color=BLACK, linewidth=0.8, linestyle=style, label=f"frequencies of {name}")
    learning.set_xscale("symlog", linthresh=1)
    learning.set_xlim(left=0)
    learning.set_xlabel("updates")
    learning.set_ylabel("held-out bits per byte")
    cost.loglog(list(bias), [each.relative_error for each in bias.values()], color=VERMILLION, marker=".")
    cost.set_xlabel("k2 = k1, steps")
    cost.set_ylabel("|truncated - exact| / |exact|")
    cost.set_title("error of the truncated gradient", fontsize="medium")
    learning.set_title("learning", fontsize="medium")
    learning.legend(frameon=False, fontsize="small")
    for ax in (learning, cost):
        tidy(ax)
    save(figure, path)
