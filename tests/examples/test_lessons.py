"""Every lesson runs, as a command and as a notebook, at its small size; its notebook is that of its source."""

import json

import jax
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("jupytext")

from examples import notebooks
from examples.common import results
from examples.common.lesson import Lesson
from examples.common.results import Agreement, Outcome, Score

LESSONS = notebooks.lessons()


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", LESSONS)
def test_the_notebook_is_that_of_the_source(name):
    kept = (notebooks.FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert kept == notebooks.text(name), "python -m examples.notebooks writes it anew"


@pytest.mark.parametrize("name", LESSONS)
def test_the_sizes_of_a_lesson_are_three_and_differ(name):
    sizes = LESSONS[name].sizes
    assert list(sizes) == ["small", "default", "full"]
    assert len(set(sizes.values())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_the_notebook_of_a_lesson_runs_at_its_small_size(name, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = notebooks.notebook(name)
    for cell in notebook.cells:
        cell.source = cell.source.replace(notebooks.SIZE, 'size = "small"')
    notebook.cells[-1].source += f"""
from examples.common import results
from pathlib import Path
results.write(Path({str(tmp_path)!r}), "{name}", outcome, {{}}, 0.0)
"""
    nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(notebooks.ROOT)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    outcome, content = results.read(tmp_path / "results.json")
    assert sum("image/png" in output.get("data", {}) for output in shown) >= len(content["figures"])
    assert all(np.isfinite([score.value, score.baseline_value]).all() for score in outcome.scores)
    assert outcome.agrees
    assert all((tmp_path / f"{figure}.png").stat().st_size > 5000 for figure in content["figures"])


# The command, on a lesson that takes no time

SCORES = (
    Score("GRU", "accuracy (%)", 61.25, "coin", 50.0),
    Score("GRU", "loss", 2.0, "none", 1.0, False, "noise"),
)


def lesson(outcome):
    def run(size, *, seed, judged):
        """Do nothing."""
        return outcome

    from examples.names import SIZES

    return Lesson("nothing", SIZES, run)


def test_a_lesson_writes_what_it_prints_and_it_reads_back(tmp_path):
    outcome = Outcome(SCORES, (Agreement("GRU", "EQUIVALENT", 22, 1e-6, (5, 5)),), remarks=("No more.",))
    command = lesson(outcome).command()
    done = CliRunner().invoke(command, ["--output", str(tmp_path), "--no-torch", "--full", "--seed", "3"])
    assert done.exit_code == 0, done.output
    for words in ("61.2", "accuracy (%)", "no: noise", "EQUIVALENT", "5 of 5", "No more."):
        assert words in done.output
    back, content = results.read(tmp_path / "results.json")
    assert back == outcome
    assert content["settings"]["size"] == "full"
    assert content["settings"]["seed"] == 3
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["environment"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    "agreement", [Agreement("GRU", "DIVERGENT", 22, 1e-6), Agreement("GRU", "EQUIVALENT", 22, 1e-6, (4, 5))]
)
def test_a_lesson_whose_frameworks_do_not_agree_fails(agreement, tmp_path):
    command = lesson(Outcome(SCORES, (agreement,))).command()
    done = CliRunner().invoke(command, ["--output", str(tmp_path), "--no-torch"])
    assert done.exit_code == 1
    assert "do not agree" in done.output
    assert (tmp_path / "results.json").exists()


def test_a_score_beats_its_baseline_in_the_direction_of_its_metric():
    assert [score.beats for score in SCORES] == [True, False]
    assert Score("GRU", "loss", 1.0, "none", 2.0, higher_is_better=False).beats
