"""What each habit of the notebook's stock forecast costs, and the numbers and figures of its page in `docs/`."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from examples import stock_results
from examples.common import pages
from examples.stock_forecast import (
    CLEAN,
    LAYERS,
    NOTEBOOK,
    TICKERS,
    Recipe,
    Trained,
    draw,
    load_twin,
    prices,
    train,
    train_all,
)
from examples.stock_results import OnEpoch, Run
from parity.environment import environment, one_line

FRESH_STATE = "state from zeros in every epoch"
# What the notebook does, one change at a time, and the whole that is recommended instead.
HABITS = {
    "as in the notebook": NOTEBOOK,
    FRESH_STATE: dataclasses.replace(NOTEBOOK, carry_state=False),
    "scaler fitted on the training range": dataclasses.replace(NOTEBOOK, scale_on="train"),
    "epoch chosen on the test range": dataclasses.replace(NOTEBOOK, judge="test"),
    "clean split": CLEAN,
}
SEEDS = (0, 1, 2)
EPOCHS = 100

PAGE = Path(__file__).parents[1] / "docs" / "stock_forecast.md"
BLOCKS = ("summary", "notebook", "clean", "study", "environment")  # what is generated in it
FIGURES = {  # in docs/figures: in the output folder
    "stock_losses.png": "notebook/losses_GOOG.png",
    "stock_forecast_rnn.png": "notebook/forecast_GOOG_rnn.png",
    "stock_forecast_lstm.png": "notebook/forecast_GOOG_lstm.png",
    "stock_forecast_gru.png": "notebook/forecast_GOOG_gru.png",
    "stock_rmse.png": "notebook/rmse.png",
    "stock_clean_forecast.png": "clean/forecast_AAPL_rnn.png",
    "stock_clean_rmse.png": "clean/rmse.png",
}


def habits(name: str) -> dict[str, Recipe]:
    """Return the habits to study in one model: only the notebook's plain RNN carries its state."""
    return {habit: recipe for habit, recipe in HABITS.items() if name == "rnn" or habit != FRESH_STATE}


def study(epochs: int, on_epoch: OnEpoch) -> dict[str, list[Run]]:
    """Return the runs of every model and habit, by JAX alone, on all tickers and from several seeds."""
    found: dict[str, list[Run]] = {}
    for name in LAYERS:
        for habit, recipe in habits(name).items():
            runs = found.setdefault(f"{name.upper()}, {habit}", [])
            for ticker in TICKERS:
                series = prices(ticker)
                for seed in SEEDS:
                    trained = train(
                        series, name, habit, recipe, epochs=epochs, seed=seed, twin=None, on_epoch=on_epoch
                    )
                    runs.append(trained.run)
            jax.clear_caches()  # every run has compiled a training step of its own
    return found


def study_table(found: Mapping[str, Sequence[Run]]) -> str:
    """Return test RMSE over persistence, the median of the seeds and behind it the range, in Markdown."""
    rows = []
    for label, runs in found.items():
        cells = []
        for ticker in TICKERS:
            skills = [run.skill for run in runs if run.ticker == ticker]
            cells.append(f"{np.median(skills):.2f} ({min(skills):.2f} to {max(skills):.2f})")
        rows.append([label, *cells])
    return pages.markdown(["test RMSE / persistence", *TICKERS], rows)


def write_docs(output: Path) -> None:
    """Run everything, draw it, and put it into `docs/stock_forecast.md`."""
    pages.replace_blocks(PAGE.read_text("utf-8"), dict.fromkeys(BLOCKS, ""))  # or raise at once
    twin = load_twin(True)
    pairs = 2 * len(TICKERS) * len(LAYERS)
    alone = len(TICKERS) * len(SEEDS) * sum(len(habits(name)) for name in LAYERS)
    finished: dict[str, list[Trained]] = {}
    seconds = {}
    with stock_results.progress((pairs + alone) * EPOCHS) as on_epoch:
        for split in ("notebook", "clean"):
            start = time.process_time()
            options = {"epochs": EPOCHS, "seed": 0, "twin": twin, "on_epoch": on_epoch}
            finished[split] = train_all(TICKERS, LAYERS, split, **options)
            seconds[split] = time.process_time() - start
        found = study(EPOCHS, on_epoch)
    runs = {split: [trained.run for trained in each] for split, each in finished.items()}
    draw(output / "notebook", "GOOG", finished["notebook"])
    draw(output / "clean", "AAPL", finished["clean"])
    for split, each in runs.items():
        settings = {"split": split, "epochs": EPOCHS, "seed": 0, "cpu_seconds": round(seconds[split])}
        stock_results.write_json(output / split / "results.json", each, settings)
    everything = [run for each in found.values() for run in each]
    stock_results.write_json(output / "study.json", everything, {"epochs": EPOCHS, "seeds": list(SEEDS)})
    for name, source in FIGURES.items():
        shutil.copyfile(output / source, PAGE.parent / "figures" / name)
    page = pages.replace_blocks(PAGE.read_text("utf-8"), blocks(runs, found, seconds))
    PAGE.write_text(page, "utf-8")


def blocks(
    runs: Mapping[str, Sequence[Run]], found: Mapping[str, Sequence[Run]], seconds: Mapping[str, float]
) -> dict[str, str]:
    """Return what the page says between its markers, in Markdown; the names are those of `BLOCKS`."""
    both = [*runs["notebook"], *runs["clean"]]
    gap = {split: stock_results.largest_gap(each) for split, each in runs.items()}
    equivalent = sum(run.verdict == "EQUIVALENT" for run in both)
    summary = [
        f"* Largest relative gap of the training loss, notebook's split: {gap['notebook']}.",
        f"* The same, clean split: {gap['clean']}.",
        f"* Trained weights, JAX beside PyTorch: at most {max(run.drift or 0.0 for run in both):.1e} apart, "
        "relative to the largest weight of the tensor.",
        f"* Verdict of `parity.compare` on the trained models: EQUIVALENT for {equivalent} of {len(both)}.",
        f"* Notebook's split: {stock_results.against_persistence(runs['notebook'])}.",
        f"* Clean split: {stock_results.against_persistence(runs['clean'])}.",
    ]
    return {
        "summary": "\n".join(summary),
        "notebook": pages.markdown(*stock_results.cells(runs["notebook"])),
        "clean": pages.markdown(*stock_results.cells(runs["clean"])),
        "study": study_table(found),
        "environment": f"{one_line(environment())}; {seconds['notebook']:.0f} CPU seconds for one split.",
    }
