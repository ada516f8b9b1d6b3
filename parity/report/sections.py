"""What a page can be given besides the report itself: tables and line plots under a heading.

    report.to_html("report.html", sections=[Section("Trajectory", [LinePlot(...), Table(...)])])

A training run's losses with the envelope of rounding noise, or the kill matrix of a selftest, are shown this way.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STYLES = ("candidate", "reference", "limit", "quiet", "pass", "fail")


@dataclass(frozen=True)
class Line:
    """A line of a plot; `style` is one of `STYLES`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "candidate"

    def __post_init__(self) -> None:
        _require_style(self.style)
        _require_lengths(self.name, {"x": self.x, "y": self.y})


@dataclass(frozen=True)
class Band:
    """An area between two lines, for instance the envelope of a quantity over several seeds."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: str = "reference"

    def __post_init__(self) -> None:
        _require_style(self.style)
        _require_lengths(self.name, {"x": self.x, "low": self.low, "high": self.high})


@dataclass(frozen=True)
class Mark:
    """A place on the horizontal axis that is marked by an upright line."""

    name: str
    x: float


@dataclass(frozen=True)
class LinePlot:
    """Lines and bands over common axes; on a logarithmic axis, what is not positive is left out."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    log_x: bool = False
    log_y: bool = False
    caption: str = ""
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers; cells that are `good` or `bad` words are coloured so."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    good: frozenset[str] = frozenset({"killed", "passed", "EQUIVALENT"})
    bad: frozenset[str] = frozenset({"survived", "failed", "DIVERGENT", "ERROR"})
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: a row of {len(row)}, expected {len(self.columns)}: {row}."
                )


@dataclass(frozen=True)
class Section:
    """A heading with tables and plots under it, shown after the cases."""

    title: str
    blocks: Sequence[LinePlot | Table]
    text: str = ""


def _require_style(style: str) -> None:
    if style not in STYLES:
        raise ValueError(f"style={style!r} is not one of {list(STYLES)}.")


def _require_lengths(name: str, columns: dict[str, Sequence[float]]) -> None:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name!r}: the columns have lengths {lengths}; give one number per point.")
