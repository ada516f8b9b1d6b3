"""Distances by layer, direction, quantity and step: which numbers inside a network the two do not share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from parity.report import facts
from parity.report.facts import Grid
from parity.verdict import AGREES, Divergence, Node

COLUMNS = 96  # more steps are put together, so that a panel fits on a page
_EDGES = (1e-15, 1e-13, 1e-11, AGREES, 1e-7, 1e-5, 1e-3, 1e-1)  # between the colours

LEGEND = ("≤ 10⁻¹⁵", "10⁻¹³", "10⁻¹¹", "10⁻⁹", "10⁻⁷", "10⁻⁵", "10⁻³", "0.1", "more")


class Cell(NamedTuple):
    """One quantity at one step (or the largest of several)."""

    level: str  # the class of its colour, d0 to d8, or "none"
    distance: str
    label: str  # the node, in words
    mark: str  # "", "root" (of the first divergence), "wrong" (by itself)
    verdict: str


class Panel(NamedTuple):
    """One layer in one direction, in a free run or with every step given the oracle's inputs."""

    title: str
    steps: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # quantity, cells


class Maps(NamedTuple):
    """All panels of a case; `forced` is empty where the candidate's step is not known."""

    phase: str
    free: tuple[Panel, ...]
    forced: tuple[Panel, ...]


def maps(divergence: Divergence) -> Maps:
    """Return the heat maps of a divergence."""
    marks: dict[Node, str] = dict.fromkeys(divergence.wrong, "wrong") | dict.fromkeys(
        divergence.places, "root"
    )
    panels = (
        tuple(_panel(grid, marks) for grid in facts.grids(distances))
        for distances in (divergence.free, divergence.forced)
    )
    return Maps(divergence.phase, *panels)


def level(distance: float | None) -> str:
    """Return the class of a distance's colour."""
    if distance is None:
        return "none"
    return f"d{sum(not distance <= edge for edge in _EDGES)}"


def _panel(grid: Grid, marks: Mapping[Node, str]) -> Panel:
    size = math.ceil(len(grid.steps) / COLUMNS)
    groups = [range(start, min(start + size, len(grid.steps))) for start in range(0, len(grid.steps), size)]
    steps = tuple(_span([grid.steps[column] for column in group]) for group in groups)
    rows = tuple(
        (quantity, tuple(_cell(grid, quantity, distances, group, marks) for group in groups))
        for quantity, distances in zip(grid.quantities, grid.distances, strict=True)
    )
    return Panel(grid.title, steps, rows)


def _cell(
    grid: Grid, quantity: str, distances: Sequence[float | None], group: range, marks: Mapping[Node, str]
) -> Cell:
    nodes = [Node(grid.part, grid.layer, grid.direction, grid.steps[column], quantity) for column in group]
    known = [(distances[column], node) for column, node in zip(group, nodes, strict=True)]
    distance, node = max(known, key=lambda pair: -1.0 if pair[0] is None else pair[0])
    found = [marks[node] for node in nodes if node in marks]
    mark = "root" if "root" in found else "wrong" if found else ""
    if distance is None:
        return Cell("none", "not computed", str(node), mark, "")
    verdict = "agrees" if distance <= AGREES else "differs"
    return Cell(level(distance), f"{distance:.2e}" if distance else "0", str(node), mark, verdict)


def _span(steps: Sequence[int]) -> str:
    return str(steps[0]) if len(steps) == 1 else f"{steps[0]}–{steps[-1]}"
