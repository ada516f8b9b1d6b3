"""The course's stock forecast, in JAX and in PyTorch at once, from the same initial bits.

    python -m examples.stock_forecast                                 # as in the notebook: four tickers
    python -m examples.stock_forecast --one-ticker --ticker AAPL --model lstm --split clean

A two-layer network reads 19 daily closes and predicts the 20th. The two frameworks train epoch by epoch side by
side; printed are the gap of their losses, the RMSE in dollars beside that of yesterday's close, and a
parity verdict on the trained models. `docs/stock_forecast.md` explains and shows the results. PyTorch's half
is `examples/stock_forecast_torch.py`; where PyTorch is missing, JAX runs alone.
"""

import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from click.core import ParameterSource
from flax import nnx
from jaxtyping import Array, Float

import jaxrnn
import parity
from examples import figures, stock_results
from examples.stock_results import OnEpoch, Run, Side
from jaxrnn.data import ForecastDataset, Windows, forecast_dataset
from jaxrnn.models import Forecaster
from jaxrnn.train import Epochs

TICKERS = ("AAPL", "GOOG", "IBM", "MSFT")

# The model

LAYERS: dict[str, Any] = {"rnn": jaxrnn.RNN, "lstm": jaxrnn.LSTM, "gru": jaxrnn.GRU}
HIDDEN, DEPTH = 32, 2


def build(name: str, seed: int) -> Forecaster:
    """Return the untrained forecaster, with the bits that PyTorch draws after ``torch.manual_seed(seed)``."""
    model = Forecaster(LAYERS[name], 1, HIDDEN, DEPTH, rngs=nnx.Rngs(seed))
    return jaxrnn.init.like_torch(model, seed)


# The data

DAYS, LOOK_BACK, TEST_FRACTION = 1303, 20, 0.2


class Prices(NamedTuple):
    """Daily closes of one company, as quoted: in these years none of the four split its shares."""

    ticker: str
    dates: np.ndarray  # [N] datetime64
    closes: np.ndarray  # [N] dollars


def prices(ticker: str) -> Prices:
    """Return the last 1303 closes of a ticker, up to 2013-03-01; the data are in the public domain (Quandl)."""
    try:
        stocks = importlib.import_module("bokeh_sampledata.stocks")
    except ModuleNotFoundError:
        raise click.ClickException(
            "the prices are in bokeh_sampledata, which is not installed; pip install 'jaxrnn[examples]'"
        ) from None
    table = getattr(stocks, ticker)
    dates, closes = np.array(table["date"], "datetime64[D]"), np.array(table["close"])
    return Prices(ticker, dates[-DAYS:], closes[-DAYS:])


@dataclass(frozen=True)
class Recipe:
    """How prices become windows, what the network starts from, and which epoch's weights are kept.

    The defaults are the notebook's: the scaler sees the whole series, the plain RNN carries its state from
    one epoch into the next, and the weights of the last epoch are kept.
    """

    scale_on: Literal["all", "train"] = "all"
    carry_state: bool = True
    validation_fraction: float = 0.0
    judge: Literal["validation", "test"] | None = None  # the windows that choose the epoch


NOTEBOOK = Recipe()
CLEAN = Recipe(scale_on="train", carry_state=False, validation_fraction=0.1, judge="validation")
SPLITS = {"notebook": NOTEBOOK, "clean": CLEAN}


def dataset(closes: Float[np.ndarray, " N"], recipe: Recipe) -> ForecastDataset:
    """Return scaled windows, 19 closes and the 20th to predict: 1283, of which the last 257 are for the test.

    The test windows are the same days under every recipe, so that their errors can be compared. The first of
    them look back at closes of the training range, which is no leak: yesterday is known.
    """
    return forecast_dataset(
        closes,
        LOOK_BACK,
        TEST_FRACTION,
        scale_on=recipe.scale_on,
        validation_fraction=recipe.validation_fraction,
        share_history=True,
        last_window=False,
    )


# The training

LEARNING_RATE = 0.01


def squared_error(model: Forecaster, batch: Windows) -> Float[Array, ""]:
    """Return the mean squared error; every call starts from a state of zeros."""
    prediction, _ = model(jnp.asarray(batch.inputs))
    return jnp.mean((prediction - batch.targets) ** 2)


def carried_squared_error(model: Forecaster, batch: Windows, state: Any) -> tuple[Float[Array, ""], Any]:
    """Return the mean squared error from a given state, and the state for the next call."""
    prediction, state = model(jnp.asarray(batch.inputs), state)
    return jnp.mean((prediction - batch.targets) ** 2), state


def training(
    model: Forecaster,
    data: ForecastDataset,
    *,
    epochs: int,
    learning_rate: float,
    carry: np.ndarray | None,
    judge: Windows | None,
) -> Epochs:
    """Return the training run, to be iterated: one full batch of all training windows per epoch."""
    batch = jax.device_put(data.train)
    return Epochs(
        model,
        nnx.Optimizer(model, jaxrnn.optim.adam(learning_rate), wrt=nnx.Param),
        squared_error if carry is None else carried_squared_error,
        lambda epoch: [batch],
        epochs=epochs,
        carry=carry,
        validate=None if judge is None else lambda model: _error(model, judge),
    )


def predict(model: Forecaster, inputs: Float[np.ndarray, "W T 1"]) -> Float[np.ndarray, "W 1"]:
    """Return the scaled predictions for windows, each from a state of zeros."""
    return np.asarray(_forward(model, inputs))


_error = nnx.jit(squared_error)
_forward = nnx.jit(lambda model, inputs: model(inputs)[0])


# Both frameworks in lock-step


class Predictions(NamedTuple):
    """The JAX model's forecasts of one part of the series."""

    days: np.ndarray  # [W] which days of the series they are for
    dollars: np.ndarray  # [W]


class Trained(NamedTuple):
    """A finished run, with what its figure draws."""

    run: Run
    prices: Prices
    train: Predictions
    test: Predictions


def train(
    series: Prices,
    name: str,
    split: str,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    twin: ModuleType | None,
    on_epoch: OnEpoch,
) -> Trained:
    """Train one model on one series in both frameworks; `twin` is PyTorch's half, or None for JAX alone.

    `split` is the recipe's name, for the record.
    """
    data = dataset(series.closes, recipe)
    carries = recipe.carry_state and name == "rnn"
    options: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": LEARNING_RATE,
        "carry": np.zeros((DEPTH, len(data.train.inputs), HIDDEN), np.float32) if carries else None,
        "judge": None if recipe.judge is None else getattr(data, recipe.judge),
    }
    ours = build(name, seed)
    training_runs: list[Any] = [training(ours, data, **options)]
    if twin is not None:
        theirs = twin.build(name, HIDDEN, DEPTH, seed)
        training_runs.append(twin.training(theirs, data, **options))
    for turn in zip(*training_runs, strict=True):
        on_epoch(f"{series.ticker} {name.upper()}", turn[0].loss, turn[1].loss if twin is not None else None)

    run = Run(
        ticker=series.ticker,
        model=name,
        split=split,
        seed=seed,
        persistence_train_rmse=rmse(data, data.train, data.train.inputs[:, -1]),
        persistence_test_rmse=rmse(data, data.test, data.test.inputs[:, -1]),
        jax=_side(training_runs[0].history, data, partial(predict, ours)),
    )
    if twin is not None:
        run = dataclasses.replace(
            run,
            torch=_side(training_runs[1].history, data, partial(twin.predict, theirs)),
            drift=drift(jaxrnn.state_dict(ours), twin.weights(theirs)),
            **verdict(name, theirs, data.test.inputs),
        )
    test_start = len(data.train.inputs) + len(data.validation.inputs)
    return Trained(
        run, series, _forecasts(ours, data, data.train, 0), _forecasts(ours, data, data.test, test_start)
    )


def train_all(tickers: Iterable[str], names: Iterable[str], split: str, **options: Any) -> list[Trained]:
    """Train every model on every ticker; the options are those of `train`."""
    names = tuple(names)
    return [
        train(prices(ticker), name, split, SPLITS[split], **options) for ticker in tickers for name in names
    ]


def rmse(data: ForecastDataset, windows: Windows, predictions: Float[np.ndarray, "W 1"]) -> float:
    """Return the root mean squared error of scaled predictions, in dollars."""
    errors = data.scaler.inverse(predictions) - data.scaler.inverse(windows.targets)
    return float(np.sqrt(np.mean(errors**2)))


def drift(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of two sets of weights, each relative to its tensor's largest weight."""
    return max(float(np.max(np.abs(ours[name] - w)) / np.max(np.abs(w))) for name, w in theirs.items())


def verdict(name: str, theirs: Any, inputs: Float[np.ndarray, "W T 1"]) -> dict[str, Any]:
    """Judge the JAX model by the trained PyTorch model: outputs, states, gradients and one step of Adam.

    Both hold PyTorch's trained weights: two models can be judged to be the same function only on equal
    weights, and rounding has moved the two trained sets apart. The inputs are every eighth test window.
    """
    outputs = ("prediction", "h_n", "c_n") if name == "lstm" else ("prediction", "h_n")
    axes = {"prediction": 0, "h_n": 1, "c_n": 1}
    probe = parity.Probe(name="test windows", args=(inputs[::8],), outputs=outputs, batch_axes=axes)
    report = parity.compare(parity.port(theirs, build(name, 0)), theirs, probe)
    return {"verdict": report.verdict, "tensors": report.compared, "sensitivity": report.numeric_sensitivity}


def _side(history: Any, data: ForecastDataset, predict: Callable[[np.ndarray], np.ndarray]) -> Side:
    kept = len(history.train_loss) - 1 if history.best_epoch is None else history.best_epoch
    scores = [rmse(data, part, predict(part.inputs)) for part in (data.train, data.test)]
    return Side(history.train_loss, kept, *scores)


def _forecasts(model: Forecaster, data: ForecastDataset, windows: Windows, first: int) -> Predictions:
    days = first + LOOK_BACK - 1 + np.arange(len(windows.inputs))  # a window's target is its last day
    return Predictions(days, data.scaler.inverse(predict(model, windows.inputs))[:, 0])


# The command


def load_twin(wanted: bool | None) -> ModuleType | None:
    """Return PyTorch's half, or None where PyTorch is not wanted, or not installed and not asked for."""
    installed = importlib.util.find_spec("torch") is not None
    if wanted and not installed:
        raise click.ClickException("--torch: PyTorch is not installed; pip install 'jaxrnn[torch]'")
    if wanted is False or not installed:
        return None
    twin = importlib.import_module("examples.stock_forecast_torch")
    twin.use_one_thread()
    return twin


def draw(folder: Path, drawn: str, finished: Sequence[Trained]) -> None:
    """Draw losses and forecasts of one ticker, and the errors of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for trained in finished:
        run, series = trained.run, trained.prices
        if run.ticker == drawn:
            path = folder / f"forecast_{drawn}_{run.model}.png"
            figures.forecast(path, run, series.dates, series.closes, trained.train, trained.test)
    runs = [trained.run for trained in finished]
    figures.losses(folder / f"losses_{drawn}.png", [run for run in runs if run.ticker == drawn])
    figures.errors(folder / "rmse.png", runs)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--ticker", type=click.Choice(TICKERS), default="GOOG", help="The one to draw [GOOG].")
@click.option("--all-tickers/--one-ticker", default=True, help="Train on all four [default], or on --ticker.")
@click.option("--model", "models", type=click.Choice(list(LAYERS)), multiple=True, help="Repeatable [all].")
@click.option("--epochs", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--split", type=click.Choice(list(SPLITS)), default="notebook", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--torch/--no-torch", "with_torch", default=None, help="Train PyTorch too [if installed].")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("outputs/stock_forecast"), show_default=True
)
@click.option("--write-docs", is_flag=True, help="Run all that docs/stock_forecast.md shows; write it there.")
@click.pass_context
def main(
    context: click.Context,
    ticker: str,
    all_tickers: bool,
    models: tuple[str, ...],
    epochs: int,
    split: str,
    seed: int,
    with_torch: bool | None,
    output: Path,
    write_docs: bool,
) -> None:
    """Train forecasters of daily closes in JAX and PyTorch, side by side from the same initial bits.

    Tables go to the terminal, results.json and the figures to OUTPUT/SPLIT.
    """
    if write_docs:
        _only_with_defaults(context, allowed={"write_docs", "output"})
        importlib.import_module("examples.stock_study").write_docs(output)
        return
    start = time.process_time()
    twin = load_twin(with_torch)
    tickers, names = TICKERS if all_tickers else (ticker,), tuple(dict.fromkeys(models)) or tuple(LAYERS)
    with stock_results.progress(len(tickers) * len(names) * epochs) as on_epoch:
        finished = train_all(tickers, names, split, epochs=epochs, seed=seed, twin=twin, on_epoch=on_epoch)
    runs = [trained.run for trained in finished]
    draw(output / split, ticker, finished)
    seconds = round(time.process_time() - start)
    settings = {"split": split, "epochs": epochs, "seed": seed, "cpu_seconds": seconds}
    stock_results.write_json(output / split / "results.json", runs, settings)
    stock_results.report(runs)
    click.echo(f"Figures and results.json are in {output / split}; {seconds} CPU seconds.")
    if not all(run.verdict in (None, "EQUIVALENT") for run in runs):
        raise click.ClickException("the trained models are not equivalent; see the column 'parity'.")


def _only_with_defaults(context: click.Context, allowed: set[str]) -> None:
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in allowed
        and context.get_parameter_source(str(option.name)) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"--write-docs runs all that the page shows: leave out {', '.join(given)}.")


if __name__ == "__main__":
    main()
