"""Figures without a display, in colours that the colour-blind can tell apart."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito (2008), "Color universal design", https://jfly.uni-koeln.de/color/
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
PURPLE, GREY = "#CC79A7", "#8a8a8a"

# One colour and one dash for a cell, in every figure.
CELL_STYLES: dict[str, dict[str, Any]] = {
    "RNN": {"color": ORANGE, "linestyle": "--"},
    "GRU": {"color": GREEN, "linestyle": "-."},
    "LSTM": {"color": BLUE, "linestyle": "-"},
    "PeepholeLSTM": {"color": PURPLE, "linestyle": ":"},
}
MAP = "cividis"  # for images of numbers


def new(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that makes room for its labels."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(ax: Axes) -> None:
    """Take away what carries no information, and draw a grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)


def over_epochs(ax: Axes) -> None:
    """Say that an axis counts epochs, and mark whole ones only."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, path: Path) -> None:
    """Write a figure; without the program's version, the same numbers give the same bytes."""
    figure.savefig(path, dpi=95, metadata={"Software": None})
