"""The course's stock forecast: its data, its lock-step with PyTorch, its files and its page."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("bokeh_sampledata")
pytest.importorskip("matplotlib")

from examples import stock_forecast, stock_results, stock_study
from examples.common.pages import replace_blocks
from examples.stock_forecast import CLEAN, NOTEBOOK, TICKERS, dataset, main, prices, rmse
from examples.stock_results import Run, Side

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(autouse=True)
def threads_as_before():
    """The command lets PyTorch use one thread; the tests after it should not notice."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


def run(tmp_path, *arguments):
    result = CliRunner().invoke(main, ["--output", str(tmp_path), *arguments])
    assert result.exit_code == 0, result.output
    return result


def results(tmp_path, split="notebook"):
    return json.loads((tmp_path / split / "results.json").read_text("utf-8"))


# The data


@pytest.mark.parametrize("ticker", TICKERS)
def test_the_windows_are_those_of_the_notebook(ticker):
    data = dataset(prices(ticker).closes, NOTEBOOK)
    assert data.train.inputs.shape == (1026, 19, 1)
    assert data.test.inputs.shape == (257, 19, 1)
    closes = prices(ticker).closes
    assert len(closes) == 1303
    # Window w ends with the close to predict, w + 19; float32 rounds it by at most 2^-24 of the range, twice.
    dollars = data.scaler.inverse(np.concatenate([data.train.targets, data.test.targets])[:, 0])
    np.testing.assert_allclose(dollars, closes[19:-1], atol=np.ptp(closes) * 2.0**-23)


@pytest.mark.parametrize(
    ("ticker", "dollars"), [("AAPL", 11.41), ("GOOG", 9.08), ("IBM", 2.04), ("MSFT", 0.367)]
)
@pytest.mark.parametrize("recipe", [NOTEBOOK, CLEAN])
def test_persistence_costs_the_same_dollars_under_every_split(ticker, dollars, recipe):
    data = dataset(prices(ticker).closes, recipe)
    found = rmse(data, data.test, data.test.inputs[:, -1])
    assert found == pytest.approx(
        dollars, abs=0.005 if dollars > 1 else 0.0005
    )  # the known numbers' last digit
    closes = prices(ticker).closes[-258:-1]  # the notebook's windows leave out the last day
    before = prices(ticker).closes[-259:-2]
    # Two float32 numbers of a range of at most 700 dollars.
    assert found == pytest.approx(np.sqrt(np.mean((closes - before) ** 2)), abs=1e-4)


def test_the_clean_scaler_knows_nothing_of_the_days_after_training():
    closes = prices("AAPL").closes
    data = dataset(closes, CLEAN)
    seen = len(data.train.inputs) + 19
    changed = closes.copy()
    changed[seen:] *= 10  # validation and test
    other = dataset(changed, CLEAN)
    assert (other.scaler.low, other.scaler.high) == (data.scaler.low, data.scaler.high)
    np.testing.assert_array_equal(other.train.inputs, data.train.inputs)
    np.testing.assert_array_equal(other.train.targets, data.train.targets)


def test_the_scaler_of_the_notebook_knows_the_test_range():
    closes = prices("AAPL").closes
    changed = closes.copy()
    changed[-257:] *= 10
    before, after = dataset(closes, NOTEBOOK), dataset(changed, NOTEBOOK)
    assert after.scaler.high > before.scaler.high
    assert not np.array_equal(after.train.inputs, before.train.inputs)


def test_the_clean_split_trains_validates_and_tests_on_days_in_order():
    data = dataset(prices("IBM").closes, CLEAN)
    targets = np.concatenate([data.train.targets, data.validation.targets, data.test.targets])
    dollars = data.scaler.inverse(targets[:, 0])
    np.testing.assert_allclose(dollars, prices("IBM").closes[19:-1], atol=1e-4)  # float32 of 140 dollars
    assert len(data.validation.targets) == 128


# The run


@needs_torch
@pytest.mark.parametrize(
    "name", ["rnn", pytest.param("lstm", marks=pytest.mark.slow), pytest.param("gru", marks=pytest.mark.slow)]
)
def test_jax_and_torch_train_in_lock_step_and_are_judged_equivalent(tmp_path, name):
    output = run(tmp_path, "--one-ticker", "--model", name, "--epochs", "3").output
    found = results(tmp_path)
    (only,) = found["runs"]
    assert len(only["jax"]["loss"]) == len(only["torch"]["loss"]) == 3
    # From the same bits: 19 steps of 2 layers with some 4 roundings of 6e-8 each, were none of them to cancel.
    assert only["largest_gap"] < 1e-5
    assert f"{only['largest_gap']:.1e} (GOOG, {name.upper()}, epoch" in output
    assert only["verdict"] == "EQUIVALENT"
    assert only["tensors"] > 30
    assert only["jax"]["test_rmse"] == pytest.approx(
        only["torch"]["test_rmse"], rel=1e-4
    )  # ten times the gap
    # Adam moves a weight by up to 0.01 whatever the gradient's size, and so a rounding where that is near zero.
    assert 0 <= only["drift"] < 1e-2
    assert only["persistence_test_rmse"] == pytest.approx(9.08, abs=0.005)
    assert {"jax", "torch", "python"} <= set(found["environment"])
    for file in ("losses_GOOG.png", f"forecast_GOOG_{name}.png", "rmse.png"):
        content = (tmp_path / "notebook" / file).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 150_000


@needs_torch
def test_another_seed_in_torch_is_seen_in_the_gap(tmp_path, monkeypatch):
    twin = pytest.importorskip("examples.stock_forecast_torch")
    build = twin.build
    monkeypatch.setattr(twin, "build", lambda name, hidden, depth, seed: build(name, hidden, depth, seed + 1))
    run(tmp_path, "--one-ticker", "--model", "rnn", "--epochs", "1")
    assert results(tmp_path)["runs"][0]["largest_gap"] > 1e-2


@needs_torch
def test_a_verdict_other_than_equivalent_fails_the_command(tmp_path, monkeypatch):
    found = {"verdict": "DIVERGENT", "tensors": 33, "sensitivity": None}
    monkeypatch.setattr(stock_forecast, "verdict", lambda name, theirs, inputs: found)
    arguments = ["--output", str(tmp_path), "--one-ticker", "--model", "rnn", "--epochs", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "DIVERGENT" in result.output
    assert results(tmp_path)["runs"][0]["verdict"] == "DIVERGENT"


@needs_torch
@pytest.mark.slow
def test_the_verdict_sees_a_bug_in_the_model(monkeypatch):
    twin = pytest.importorskip("examples.stock_forecast_torch")
    monkeypatch.setitem(stock_forecast.LAYERS, "gru", _BiasedGRU)
    inputs = dataset(prices("GOOG").closes, NOTEBOOK).test.inputs
    assert stock_forecast.verdict("gru", twin.build("gru", 32, 2, 0), inputs)["verdict"] == "DIVERGENT"


class _BiasedGRU(stock_forecast.LAYERS["gru"]):
    """A GRU with a bug: a thousandth is added to its input."""

    def __call__(self, input, hx=None, **options):
        return super().__call__(input + 1e-3, hx, **options)


def test_without_torch_jax_runs_alone(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    output = run(tmp_path, "--one-ticker", "--model", "gru", "--epochs", "2").output
    (only,) = results(tmp_path)["runs"]
    assert only["torch"] is None
    assert only["largest_gap"] is None
    assert only["jax"]["loss"][1] < only["jax"]["loss"][0]
    assert "PyTorch" not in output
    result = CliRunner().invoke(main, ["--output", str(tmp_path), "--torch"])
    assert result.exit_code == 1
    assert "pip install 'jaxrnn[torch]'" in result.output


@pytest.mark.parametrize(
    ("name", "recipe", "shape"),
    [
        ("rnn", NOTEBOOK, (2, 1026, 32)),
        ("lstm", NOTEBOOK, None),
        ("gru", NOTEBOOK, None),
        ("rnn", CLEAN, None),
    ],
)
def test_the_plain_rnn_alone_carries_its_state_and_only_in_the_notebooks_way(
    monkeypatch, name, recipe, shape
):
    class Seen(Exception):
        pass

    def training(model, data, *, carry, **options):
        raise Seen(None if carry is None else carry.shape)

    monkeypatch.setattr(stock_forecast, "training", training)
    with pytest.raises(Seen) as caught:
        stock_forecast.train(
            prices("GOOG"), name, "split", recipe, epochs=1, seed=0, twin=None, on_epoch=lambda *losses: None
        )
    assert caught.value.args == (shape,)


def test_the_clean_split_keeps_the_epoch_with_the_best_validation(tmp_path, monkeypatch):
    errors = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(stock_forecast, "_error", lambda model, judge: next(errors))
    run(tmp_path, "--no-torch", "--one-ticker", "--model", "rnn", "--epochs", "3", "--split", "clean")
    assert results(tmp_path, "clean")["runs"][0]["jax"]["kept_epoch"] == 1


def test_write_docs_takes_no_options_that_it_would_ignore(tmp_path):
    result = CliRunner().invoke(
        main, ["--write-docs", "--output", str(tmp_path), "--epochs", "3", "--model", "gru"]
    )
    assert result.exit_code == 2
    assert "leave out --model, --epochs" in result.output


@needs_torch
@pytest.mark.slow
def test_the_losses_stay_together_for_the_whole_run(tmp_path):
    run(tmp_path, "--one-ticker")
    for each in results(tmp_path)["runs"]:
        assert len(each["jax"]["loss"]) == 100
        # Measured: 2.3e-6 at most. Nine times that is left for other roundings on other machines; optax.adam in
        # place of jaxrnn.optim.adam gives 5e-5 and 7e-5.
        assert each["largest_gap"] < 2e-5
        assert each["verdict"] == "EQUIVALENT"
        assert each["skill"] > 1  # yesterday's close is the better forecast


# The results and the page


def _run(ticker="GOOG", losses=((2.0, 1.0), (2.0, 1.0)), test_rmse=3.0, kept=1):
    ours, theirs = (Side(tuple(loss), kept, 1.0, test_rmse) for loss in losses)
    return Run(ticker, "rnn", "notebook", 0, 1.0, 2.0, ours, theirs, 1e-6, "EQUIVALENT", 1e-6, 33)


def test_the_largest_gap_is_relative_to_torch_and_names_its_place():
    runs = [_run(), _run("IBM", losses=((2.0, 1.1), (2.0, 1.0)))]
    assert stock_results.largest_gap(runs) == "1.0e-01 (IBM, RNN, epoch 2 of 2)"


def test_models_better_than_persistence_are_counted():
    assert stock_results.against_persistence([_run(test_rmse=1.0), _run(test_rmse=3.0)]) == (
        "1 of 2 models beat persistence; their test RMSE is 0.50 to 1.50 times that of yesterday's close"
    )


def test_the_kept_epoch_is_shown_where_it_is_not_the_last():
    assert "epoch kept" not in stock_results.cells([_run()])[0]
    headings, rows = stock_results.cells([_run(kept=0)])
    assert rows[0][headings.index("epoch kept")] == "1"


def test_the_generated_parts_of_the_page_can_be_replaced():
    page = stock_study.PAGE.read_text("utf-8")
    new = replace_blocks(page, {name: f"new {name}" for name in stock_study.BLOCKS})
    for name in stock_study.BLOCKS:
        assert f"<!-- begin {name} -->\nnew {name}\n<!-- end {name} -->" in new
    assert replace_blocks(new, dict.fromkeys(stock_study.BLOCKS, "")) == replace_blocks(
        page, dict.fromkeys(stock_study.BLOCKS, "")
    )
    with pytest.raises(ValueError, match="other: expected one pair of"):
        replace_blocks(page, {"other": ""})


def test_the_page_shows_every_block_and_every_figure():
    runs = [_run(ticker) for ticker in TICKERS]
    made = stock_study.blocks(
        {"notebook": runs, "clean": runs}, {"RNN, as in the notebook": runs}, {"notebook": 1.0, "clean": 1.0}
    )
    assert tuple(made) == stock_study.BLOCKS
    assert made["study"].splitlines()[2] == "| RNN, as in the notebook" + " | 1.50 (1.50 to 1.50)" * 4 + " |"
    page = stock_study.PAGE.read_text("utf-8")
    for name in stock_study.FIGURES:
        assert f"(figures/{name})" in page
        assert (stock_study.PAGE.parent / "figures" / name).stat().st_size < 150_000


def test_only_the_plain_rnn_has_a_state_to_study():
    assert set(stock_study.habits("rnn")) - set(stock_study.habits("lstm")) == {stock_study.FRESH_STATE}
    assert stock_study.habits("gru")["clean split"] == CLEAN
