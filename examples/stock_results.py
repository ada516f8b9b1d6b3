"""What the stock forecast found: scores, tables, JSON, and the generated parts of its page in `docs/`."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from parity.environment import environment


@dataclass(frozen=True)
class Side:
    """One framework's run: the loss of every epoch, the epoch whose weights were kept, RMSE in dollars."""

    loss: tuple[float, ...]
    kept_epoch: int
    train_rmse: float
    test_rmse: float


@dataclass(frozen=True)
class Run:
    """One model trained on one ticker, beside persistence, and beside PyTorch where it is installed.

    drift: the largest difference between the two trained sets of weights, relative to the largest weight of
        the same tensor. Rounding, amplified by training: reported, not judged.
    verdict: what `parity.compare` says of the two models when both hold PyTorch's trained weights.
    sensitivity: the relative (rms) change of any tensor that this verdict would have detected.
    """

    ticker: str
    model: str
    split: str
    seed: int
    persistence_train_rmse: float  # dollars
    persistence_test_rmse: float
    jax: Side
    torch: Side | None = None
    drift: float | None = None
    verdict: str | None = None
    sensitivity: float | None = None
    tensors: int | None = None

    @property
    def gaps(self) -> np.ndarray:
        """Relative gap ``|loss_jax - loss_torch| / loss_torch`` of every epoch; empty without PyTorch."""
        if self.torch is None:
            return np.array([])
        theirs = np.asarray(self.torch.loss)
        return np.abs(np.asarray(self.jax.loss) - theirs) / theirs

    @property
    def skill(self) -> float:
        """Test RMSE of the JAX model in units of persistence's; below 1 is better than yesterday's close."""
        return self.jax.test_rmse / self.persistence_test_rmse


def largest_gap(runs: Iterable[Run]) -> str:
    """Return the largest relative gap of the loss over all epochs and runs, and where it is, in words."""
    gap, run = max(((run.gaps.max(), run) for run in runs), key=lambda pair: pair[0])
    epochs = len(run.gaps)
    return f"{gap:.1e} ({run.ticker}, {run.model.upper()}, epoch {int(run.gaps.argmax()) + 1} of {epochs})"


def against_persistence(runs: Sequence[Run]) -> str:
    """Return in words how many runs beat persistence."""
    better = sum(run.skill < 1 for run in runs)
    best, worst = min(run.skill for run in runs), max(run.skill for run in runs)
    return (
        f"{better} of {len(runs)} models beat persistence; their test RMSE is {best:.2f} to {worst:.2f} times "
        "that of yesterday's close"
    )


# On the terminal

OnEpoch = Callable[[str, float, float | None], None]  # what is trained, loss of JAX, loss of PyTorch


@contextmanager
def progress(total: int) -> Iterator[OnEpoch]:
    """Show a bar with the losses of both frameworks, on a terminal; elsewhere nothing is printed."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=total)

        def on_epoch(what: str, ours: float, theirs: float | None) -> None:
            losses = f"loss {ours:.6g}" if theirs is None else f"loss {ours:.6g} JAX, {theirs:.6g} PyTorch"
            bar.update(task, advance=1, description=f"{what:10} {losses}")

        yield on_epoch


def report(runs: Sequence[Run]) -> None:
    """Print the table, the largest gap of the losses, and what there is to conclude."""
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    console.print(table(runs))
    if runs[0].torch is not None:
        console.print(f"Largest relative gap of the training loss: {largest_gap(runs)}")
    console.print(f"{against_persistence(runs)}.")


def table(runs: Sequence[Run]) -> Table:
    """Return the runs as a table; RMSE in dollars on the test range."""
    headings, rows = cells(runs)
    title = "Test RMSE in dollars; ratio: JAX over persistence"
    result = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    for number, heading in enumerate(headings):
        result.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows:
        result.add_row(*row)
    return result


def cells(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of the table."""
    both = all(run.torch is not None for run in runs)
    judged = any(run.jax.kept_epoch + 1 < len(run.jax.loss) for run in runs)
    headings = ["ticker", "model", "persistence", *["PyTorch"] * both, "JAX", "ratio"]
    headings += ["epoch kept"] * judged + ["largest loss gap", "weights apart", "parity"] * both
    rows = []
    for run in runs:
        row = [run.ticker, run.model.upper(), dollars(run.persistence_test_rmse)]
        row += [dollars(run.torch.test_rmse)] if run.torch is not None else []
        row += [dollars(run.jax.test_rmse), f"{run.skill:.2f}", *[_kept(run)] * judged]
        if run.torch is not None:
            row += [f"{run.gaps.max():.1e}", f"{run.drift:.1e}", str(run.verdict)]
        rows.append(row)
    return headings, rows


def _kept(run: Run) -> str:
    """Return the epoch whose weights were kept, counted from 1; of both frameworks, should they differ."""
    sides = [run.jax] if run.torch is None else [run.torch, run.jax]
    return ", ".join(dict.fromkeys(str(side.kept_epoch + 1) for side in sides))


def dollars(value: float) -> str:
    """Return an amount of dollars in words, to the cent, or below a dollar to a tenth of one."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


# As files


def write_json(path: Path, runs: Sequence[Run], settings: Mapping[str, Any]) -> None:
    """Write everything that was measured, with the versions it was measured with."""
    content = {
        "schema": "stock_forecast/1",
        "environment": environment(),
        "settings": dict(settings),
        "runs": [
            dataclasses.asdict(run)
            | {
                "skill": run.skill,
                "largest_gap": float(run.gaps.max()) if run.gaps.size else None,
                "largest_gap_epoch": int(run.gaps.argmax()) if run.gaps.size else None,  # counted from 0
            }
            for run in runs
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
