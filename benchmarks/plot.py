"""Records as a picture: bars of the ratio to torch for named sizes, lines of cost against T, B or H for sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.jobs import OURS
from benchmarks.runs import Record
from benchmarks.sizes import AXES
from benchmarks.table import shape_of

SUFFIXES = (".png", ".svg", ".pdf")
INSTALL = "matplotlib is not installed: pip install 'jaxrnn[bench]'"

# A colour and a marker for each library, told apart by any eye (Okabe and Ito, 2008; olive in place of their
# yellow, which is pale on white), and a hatch or line for each variant.
_LIBRARIES = {
    "jaxrnn": ("#0072B2", "o"),
    "plain scan": ("#56B4E9", "P"),
    "torch": ("#D55E00", "s"),
    "nnx": ("#009E73", "^"),
    "linen": ("#999933", "v"),
    "haiku": ("#CC79A7", "D"),
    "equinox": ("#E69F00", "X"),
    "keras": ("#555555", "*"),
}
_OTHER = ("#000000", ".")  # the features of jaxrnn
_HATCHES = ("", "///", "...", "xxx", "+++")
_LINES = ("-", "--", ":", "-.", (0, (5, 1)))
_TICKS = [number * 10.0**power for power in range(-4, 5) for number in (1, 2, 5)]
_WORDS = {"T": "steps T", "B": "batch B", "H": "hidden features H"}


class Look(NamedTuple):
    """How a contender is drawn."""

    colour: str
    marker: str
    hatch: str
    line: Any


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return the look of each contender: its library's colour and marker, and its own hatch and line."""
    found: dict[str, Look] = {}
    for name in names:
        library = next((each for each in _LIBRARIES if name.startswith(each)), None)
        colour, marker = _LIBRARIES[library] if library else _OTHER
        variant = sum(look.colour == colour for look in found.values()) % len(_HATCHES)
        found[name] = Look(colour, marker, _HATCHES[variant], _LINES[variant])
    return found


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the records that have results into a file; its suffix says which kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = [record for record in records if "contenders" in record]
    named = [record for record in found if not record["size"]["axis"]]
    swept = [record for record in found if record["size"]["axis"]]
    panels = [(_bars, group) for group in _groups(named)] + [(_curves, group) for group in _groups(swept)]
    if not panels:
        raise ValueError("there is no result to draw.")
    style = looks(dict.fromkeys(each["name"] for record in found for each in record["contenders"]))
    figure, axes = pyplot.subplots(
        len(panels), figsize=(13, 3.4 * len(panels)), squeeze=False, layout="constrained"
    )
    for (panel, group), axis in zip(panels, axes[:, 0], strict=True):
        panel(axis, group, style)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _groups(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records panel by panel: what may share one has the same kind, mode, allocator and axis."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        around = record["size"]["name"].split(" ")[0] if record["size"]["axis"] else ""
        key = (
            record["features"],
            record["kind"],
            record["mode"],
            record["allocator"],
            record["size"]["axis"],
            around,
        )
        found.setdefault(key, []).append(record)
    return list(found.values())


def _title(record: Record) -> str:
    words = [record["kind"].upper(), {"train": "training step", "forward": "forward"}[record["mode"]]]
    return ", ".join(words + [f"allocator {record['allocator']}"] * (record["allocator"] != "default"))


def _bars(axis: Any, records: Sequence[Record], style: dict[str, Look]) -> None:
    """Draw each contender's time over torch's, or over jaxrnn's where torch was not measured."""
    names = list(dict.fromkeys(each["name"] for record in records for each in record["contenders"]))
    base = "torch" if "torch" in names and not records[0]["features"] else OURS
    names.remove(base)
    width = 0.84 / max(1, len(names))
    ratios = {name: np.array([_ratio(record, name, base) for record in records]) for name in names}
    for number, (name, values) in enumerate(ratios.items()):
        places = np.arange(len(records)) + (number - (len(names) - 1) / 2) * width
        look = style[name]
        options = {"color": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.3}
        axis.bar(
            places, values - 1, width, bottom=1, label=name, **options
        )  # from 1, down where it is faster
    axis.axhline(1, color="black", linewidth=1)
    every = np.concatenate([[1.0], *ratios.values()])
    low, high = min(0.5, 0.8 * float(np.nanmin(every))), max(2.0, 1.25 * float(np.nanmax(every)))
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axis.set_yscale("log")
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ylim(low, high)
    axis.minorticks_off()
    axis.grid(axis="y", alpha=0.25)
    axis.set_axisbelow(True)
    axis.set_xticks(range(len(records)), [_label(record) for record in records], fontsize=7)
    axis.set_ylabel(f"time / {base}'s time")
    axis.set_title(f"{_title(records[0])}: below 1 is faster than {base}", loc="left", fontsize=10)


def _label(record: Record) -> str:
    noisy = " (noisy)" if record["noisy"] else ""
    return f"{record['size']['name']}{noisy}\n{shape_of(record)}"


def _ratio(record: Record, name: str, base: str) -> float:
    seconds = {each["name"]: np.array(each["seconds"]) for each in record["contenders"]}
    if name not in seconds or base not in seconds:
        return float("nan")
    return float(np.median(seconds[name] / seconds[base]))


def _curves(axis: Any, records: Sequence[Record], style: dict[str, Look]) -> None:
    """Draw each contender's time against what is swept, and below them what no contender can beat."""
    swept = records[0]["size"]["axis"]
    records = sorted(records, key=lambda record: record["size"][AXES[swept]])
    values = [record["size"][AXES[swept]] for record in records]
    for name in dict.fromkeys(each["name"] for record in records for each in record["contenders"]):
        times = [
            {each["name"]: each["median_ms"] for each in record["contenders"]}.get(name) for record in records
        ]
        look = style[name]
        axis.plot(
            values,
            times,
            label=name,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markersize=4,
        )
    roofline = [max(record["bound_ms"], record["memory_ms"]) for record in records]
    axis.plot(values, roofline, label="roofline", color="black", linewidth=2, linestyle=(0, (1, 1)))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    noisy = [" (noisy)" if record["noisy"] else "" for record in records]
    axis.set_xticks(values, [f"{value}{word}" for value, word in zip(values, noisy, strict=True)])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.set_xlabel(_WORDS[swept])
    axis.set_ylabel("time [ms]")
    axis.set_title(
        f"{_title(records[0])}, around {records[0]['size']['name'].split(' ')[0]}", loc="left", fontsize=10
    )
