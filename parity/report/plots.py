"""Plots as SVG text, each with a legend and the table behind it. Colours are classes; the page's style has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from parity.report.facts import number
from parity.report.sections import LinePlot, Table

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 12, 44  # margins that hold the axes


class Key(NamedTuple):
    """An entry of a legend: how it looks (`line`, `dashed`, `dots`, `area`), which style, what it means."""

    mark: str
    style: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A plot ready for the page."""

    title: str
    svg: str
    description: str  # for those who do not see it
    legend: tuple[Key, ...] = ()
    caption: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Axis:
    """Maps numbers to places between `start` and `stop`, logarithmically or not."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    label: str = ""

    def __call__(self, value: float) -> float:
        """Return the place of a number; what is outside is put on the edge."""
        value = min(max(value, self.low), self.high)
        scale = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(value) - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places worth a label, with the label."""
        return _decades(self.low, self.high) if self.log else _rounds(self.low, self.high)


def axis(
    values: Iterable[float],
    start: float,
    stop: float,
    *,
    log: bool = False,
    label: str = "",
    least: float = 1.0,
) -> Axis:
    """Make an axis that holds some values; a logarithmic one spans at least `least` decades."""
    known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(known), max(known)) if known else (1.0, 10.0)
    if log:
        low, high = low / 1.3, high * 1.3
        if high / low < 10**least:
            middle = math.sqrt(low * high)
            low, high = middle / 10 ** (least / 2), middle * 10 ** (least / 2)
    elif low == high:
        low, high = low - 0.5, high + 0.5
    return Axis(low, high, start, stop, log, label)


def line_plot(plot: LinePlot) -> Figure:
    """Draw lines and bands, with a table of all their points."""
    curves = [(line.x, line.y) for line in plot.lines]
    curves += [(band.x, edge) for band in plot.bands for edge in (band.low, band.high)]
    places = [value for xs, _ in curves for value in xs] + [mark.x for mark in plot.marks]
    x = _horizontal(places, plot.log_x, plot.x_label, least=0.3)
    y = _vertical((value for _, ys in curves for value in ys), plot.log_y, plot.y_label)
    parts = [_frame(x, y)]
    for band in plot.bands:
        outline = [*zip(band.x, band.high, strict=True), *reversed(list(zip(band.x, band.low, strict=True)))]
        parts.append(f'<path class="band {band.style}" d="{_path(outline, x, y)}Z"/>')
    for line in plot.lines:
        points = list(zip(line.x, line.y, strict=True))
        parts.append(f'<path class="line {line.style}" d="{_path(points, x, y)}"/>')
        if len(points) <= 40:
            parts.append(_dots(points, x, y, line.style))
    for place, mark in enumerate(plot.marks):
        parts.append(_mark(mark.name, x(mark.x), _TOP + 10 + 12 * place))
    legend = [Key("area", band.style, band.name) for band in plot.bands]
    legend += [
        Key("dashed" if line.style == "reference" else "line", line.style, line.name) for line in plot.lines
    ]
    marks = [f"{mark.name} at {mark.x:g}" for mark in plot.marks]
    return Figure(
        plot.title,
        _svg(parts),
        f"{plot.y_label} over {plot.x_label}: {', '.join((*(key.text for key in legend), *marks))}",
        tuple(legend),
        plot.caption,
        _points(plot),
    )


class Cloud(NamedTuple):
    """Points of one style."""

    style: str
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scatter:
    """Clouds of points in a log-log plot, with lines y = slope x, and a table in place of the points."""

    title: str
    x_label: str
    y_label: str
    clouds: Sequence[Cloud]
    slopes: Sequence[tuple[str, float]] = ()
    caption: str = ""
    table: Table | None = field(default=None, repr=False)


def scatter(plot: Scatter) -> Figure:
    """Draw clouds of points; those at zero lie on the lower edge, which is labelled so."""
    points = [point for cloud in plot.clouds for point in cloud.points]
    x = _horizontal((size for size, _ in points), True, plot.x_label)
    y = _vertical((error for _, error in points), True, plot.y_label)
    exact = any(error == 0 for _, error in points)
    if exact:
        y = Axis(y.low / 10, y.high, y.start, y.stop, True, y.label)
    parts = [_frame(x, y)]
    for place, (name, slope) in enumerate(plot.slopes):
        ends = _clipped(slope, x, y)
        if ends:
            parts.append(f'<path class="line limit" d="{_path(ends, x, y)}"/>')
            right, up = x(ends[-1][0]) - 4, y(ends[-1][1]) + (14 if place % 2 else -5)  # on either side
            parts.append(f'<text class="label" x="{right:.0f}" y="{up:.0f}" text-anchor="end">{name}</text>')
    parts += [_dots(cloud.points, x, y, cloud.style) for cloud in plot.clouds]
    if exact:
        parts.append(f'<text class="label" x="{_LEFT + 4}" y="{y.start - 6}">exact</text>')
    legend = [Key("dots", cloud.style, cloud.name) for cloud in plot.clouds]
    legend += (
        [Key("line", "limit", f"{' and '.join(name for name, _ in plot.slopes)} of the magnitude")]
        if plot.slopes
        else []
    )
    words = f"{plot.y_label} against {plot.x_label}, {len(points)} points"
    return Figure(plot.title, _svg(parts), words, tuple(legend), plot.caption, plot.table)


def histogram(
    title: str, label: str, values: Sequence[tuple[float, bool]], limits: Sequence[float], caption: str
) -> Figure:
    """Draw how many values, each with whether it passed, lie in each quarter of a decade; limits as lines."""
    inside = [(min(max(value, 1e-3), 1e9), passed) for value, passed in values]
    bins: dict[int, list[int]] = {}
    for value, passed in inside:
        bins.setdefault(math.floor(4 * math.log10(value)), [0, 0])[passed] += 1
    edges = [10 ** (edge / 4) for place in bins for edge in (place, place + 1)]
    x = _horizontal([*edges, *(limit for limit in limits), 0.1, 10], True, label)
    highest = max((sum(counts) for counts in bins.values()), default=1)
    y = _vertical([0, highest * 1.08], False, "tensors")
    parts = [_frame(x, y)]
    for place, (bad, good) in sorted(bins.items()):
        left, right = x(10 ** (place / 4)), x(10 ** ((place + 1) / 4))
        for style, base, count in (("pass", 0, good), ("fail", good, bad)):
            if count:
                top, bottom = y(base + count), y(base)
                parts.append(
                    f'<rect class="bar {style}" x="{left + 0.5:.1f}" y="{top:.1f}" '
                    f'width="{right - left - 1:.1f}" height="{bottom - top:.1f}"/>'
                )
    for limit in limits:
        parts.append(_mark(f"limit {limit:g}", x(limit), _TOP + 10))
    rows = [
        (f"{number(10 ** (place / 4))} to {number(10 ** ((place + 1) / 4))}", good, bad)
        for place, (bad, good) in sorted(bins.items())
    ]
    legend = (
        Key("area", "pass", "passed"),
        Key("area", "fail", "did not pass"),
        Key("line", "limit", "limit"),
    )
    words = f"{len(values)} tensors by {label}; the limit is {' or '.join(f'{limit:g}' for limit in limits)}"
    table = Table(title, (label, "passed", "did not pass"), rows)
    return Figure(title, _svg(parts), words, legend, caption, table)


# Pieces ---------------------------------------------------------------------------------------------------


def _horizontal(values: Iterable[float], log: bool, label: str, least: float = 1.0) -> Axis:
    return axis(values, _LEFT, WIDTH - _RIGHT, log=log, label=label, least=least)


def _vertical(values: Iterable[float], log: bool, label: str) -> Axis:
    return axis(values, HEIGHT - _BOTTOM, _TOP, log=log, label=label)


def _mark(text: str, place: float, height: float) -> str:
    """Draw an upright line with its meaning beside it, on the side where there is room."""
    left = place > (WIDTH + _LEFT) / 2
    aside = f'x="{place - 4:.1f}" text-anchor="end"' if left else f'x="{place + 4:.1f}"'
    return (
        f'<path class="line limit" d="M{place:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
        f'<text class="label" {aside} y="{height}">{escape(text)}</text>'
    )


def _svg(parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'


def _frame(x: Axis, y: Axis) -> str:
    """Draw the axes: thin lines at the ticks of y, labels, and what each axis shows."""
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value, label in y.ticks():
        parts.append(f'<path class="rule" d="M{_LEFT} {y(value):.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y(value) + 3.5:.1f}" text-anchor="end">{label}</text>')
    for value, label in x.ticks():
        parts.append(f'<path class="tick" d="M{x(value):.1f} {bottom}v4"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 17}" text-anchor="middle">{label}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="title" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>'
    )
    height = (_TOP + bottom) / 2
    parts.append(
        f'<text class="title" transform="translate(13 {height:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.label)}</text>'
    )
    return "".join(parts)


def _path(points: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return the path through points; where one cannot be drawn, the line is interrupted."""
    path, pen = [], "M"
    for point in points:
        if _drawable(point, x, y):
            path.append(f"{pen}{x(point[0]):.1f} {y(point[1]):.1f}")
        pen = "L" if _drawable(point, x, y) else "M"
    return "".join(path)


def _dots(points: Iterable[tuple[float, float]], x: Axis, y: Axis, style: str) -> str:
    """Return all dots as one path of strokes without length: a tenth of the size of circles."""
    raised = ((size, max(error, y.low)) for size, error in points)
    places = (f"M{x(p[0]):.1f} {y(p[1]):.1f}h0" for p in raised if _drawable(p, x, y))
    return f'<path class="dots {style}" d="{"".join(dict.fromkeys(places))}"/>'


def _drawable(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return all(
        math.isfinite(value) and (value > 0 or not along.log)
        for value, along in zip(point, (x, y), strict=True)
    )


def _clipped(slope: float, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the ends of y = slope x inside the frame."""
    low, high = max(x.low, y.low / slope), min(x.high, y.high / slope)
    return [(low, slope * low), (high, slope * high)] if low < high else []


def _points(plot: LinePlot) -> Table:
    """Return all points as a table: a row for each x, a column for each line and edge of a band."""
    columns: dict[str, dict[float, float]] = {}
    for line in plot.lines:
        columns[line.name] = dict(zip(line.x, line.y, strict=True))
    for band in plot.bands:
        columns[f"{band.name}, low"] = dict(zip(band.x, band.low, strict=True))
        columns[f"{band.name}, high"] = dict(zip(band.x, band.high, strict=True))
    places = sorted({x for column in columns.values() for x in column})
    rows = [[x, *(column.get(x) for column in columns.values())] for x in places]
    return Table(plot.title, (plot.x_label, *columns), rows)


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return powers of ten, six at most; over less than a decade and a half, also 2 and 5 times."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if math.log10(high / low) < 1.5:
        found = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [(value, _multiple(value)) for value in found if low <= value <= high]
    step = max(1, math.ceil((last - first) / 5))
    return [(10.0**e, _power(e)) for e in range(first, last + 1, step)]


def _power(exponent: int) -> str:
    named = {0: "1", 1: "10", -1: "0.1"}
    return named.get(exponent, "10" + str(exponent).translate(_SUPERSCRIPTS))


def _multiple(value: float) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    digit, _, exponent = f"{value:.0e}".partition("e")
    return _power(int(exponent)) if digit == "1" else f"{digit}·{_power(int(exponent))}"


def _rounds(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers: 1, 2 or 5 times a power of ten, six at most."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * multiple for multiple in (1, 2, 5, 10) if size * multiple >= rough)
    first = math.ceil(low / step - 1e-9)
    found = [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:g}") for value in found]


def growth(steps: Sequence[float]) -> float | None:
    """Return the exponent p of errors that grow like t^p, by least squares; None of fewer than three."""
    points = [(math.log(t), math.log(error)) for t, error in enumerate(steps, start=1) if error > 0]
    if len(points) < 3:
        return None
    middle = [sum(values) / len(points) for values in zip(*points, strict=True)]
    across = sum((t - middle[0]) ** 2 for t, _ in points)
    return sum((t - middle[0]) * (error - middle[1]) for t, error in points) / across
