"""What a lesson found: scores beside baselines, verdicts of parity, figures; as tables and as a file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from examples.common import drawing
from parity.environment import environment


@dataclass(frozen=True)
class Score:
    """A model's metric on data that it was not trained on, beside that of an honest baseline.

    model: which one, and where there are several data sets on which. metric: its name, with the unit.
    note: why, where the baseline is not beaten.
    """

    model: str
    metric: str
    value: float
    baseline: str
    baseline_value: float
    higher_is_better: bool = True
    note: str = ""

    @property
    def beats(self) -> bool:
        """Whether it is better than the baseline."""
        difference = self.value - self.baseline_value
        return difference > 0 if self.higher_is_better else difference < 0


@dataclass(frozen=True)
class Agreement:
    """What the judge says of a trained model and of its mirror in PyTorch with the same weights.

    compared: how many tensors, of outputs, gradients and one step of Adam. sensitivity: the relative (rms) change
    of any tensor that would have been found. identical: of the tokens decoded in both, how many are equal, of how
    many.
    """

    model: str
    verdict: str
    compared: int
    sensitivity: float | None
    identical: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a lesson's `run` returns; figures by name, `remarks` in sentences."""

    scores: tuple[Score, ...]
    agreements: tuple[Agreement, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether JAX and PyTorch gave the same, everywhere that was looked at."""
        return all(
            agreement.verdict == "EQUIVALENT"
            and (agreement.identical is None or agreement.identical[0] == agreement.identical[1])
            for agreement in self.agreements
        )


SCORES = ("model", "metric", "held-out", "baseline", "its", "better")
AGREEMENTS = ("trained model", "JAX against PyTorch", "tensors", "would be found", "tokens equal")


def score_rows(scores: Sequence[Score]) -> list[list[str]]:
    """Return the cells of a table of scores, in the columns `SCORES`."""
    return [
        [
            score.model,
            score.metric,
            short(score.value),
            score.baseline,
            short(score.baseline_value),
            "yes" if score.beats else f"no: {score.note}" if score.note else "no",
        ]
        for score in scores
    ]


def agreement_rows(agreements: Sequence[Agreement]) -> list[list[str]]:
    """Return the cells of a table of verdicts, in the columns `AGREEMENTS`."""
    return [
        [
            each.model,
            each.verdict,
            str(each.compared),
            "" if each.sensitivity is None else f"{each.sensitivity:.0e}",
            "" if each.identical is None else f"{each.identical[0]} of {each.identical[1]}",
        ]
        for each in agreements
    ]


def short(value: float) -> str:
    """Return three significant digits, or all of a number's integer part."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def tables(outcome: Outcome) -> list[Table]:
    """Return the tables for a terminal."""
    made = [_table(SCORES, score_rows(outcome.scores))]
    if outcome.agreements:
        made.append(_table(AGREEMENTS, agreement_rows(outcome.agreements)))
    return made


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


# As files


def write(folder: Path, lesson: str, outcome: Outcome, settings: Mapping[str, Any], seconds: float) -> None:
    """Write `results.json` and the figures, `NAME.png`, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in outcome.figures.items():
        drawing.save(figure, folder / f"{name}.png")
    content = {
        "schema": "lesson/1",
        "lesson": lesson,
        "settings": dict(settings),
        "seconds": round(seconds),
        "scores": [dataclasses.asdict(score) for score in outcome.scores],
        "agreements": [dataclasses.asdict(agreement) for agreement in outcome.agreements],
        "figures": list(outcome.figures),
        "remarks": list(outcome.remarks),
        "environment": environment(),
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def read(path: Path) -> tuple[Outcome, dict[str, Any]]:
    """Read `results.json` back: scores, verdicts and remarks without figures, and the whole content."""
    content = json.loads(path.read_text("utf-8"))
    scores = tuple(Score(**score) for score in content["scores"])
    agreements = tuple(
        Agreement(**{**each, "identical": None if each["identical"] is None else tuple(each["identical"])})
        for each in content["agreements"]
    )
    return Outcome(scores, agreements, remarks=tuple(content["remarks"])), content
