"""What a plan found: as a table, as JSON, as a picture of memory against the length of the sequence."""

from __future__ import annotations

import dataclasses
import io
import textwrap
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jaxrnn.plan.programs import Custom, Network, Program, to_json
from jaxrnn.plan.search import Point
from jaxrnn.plan.topologies import GIB, Target

SCHEMA = "jaxrnn-plan/1"
SUFFIXES = (".png", ".svg", ".pdf")
INSTALL = "matplotlib is not installed: pip install matplotlib"
WIDTH = 160  # of a table that goes into no terminal, at most
_TEXT_WIDTH = 118
_PACKAGES = ("jaxrnn", "jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
# Told apart by any eye (Okabe and Ito, 2008; olive in place of their yellow, which is pale on white).
_LOOKS = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "X"), ("#56B4E9", "P"),
    ("#999933", "v"), ("#555555", "*"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One memory policy. Bytes, FLOPs and seconds are those of one device and one training step.

    memory, means: the policy as it was asked for, and what it came to.
    fits: the compiler's word; None where it could not be asked, for the reason in `error`.
    device_bytes: of the device's memory, arguments, results and the program itself included; of what does not
        fit, what the compiler says would be needed, or None. host_bytes: of the host's memory.
    flops, streamed_bytes, exact: see `jaxrnn.plan.counting.Work`.
    recompute: FLOPs over those of a step that computes no product twice.
    least_seconds, bound: see `roofline`.
    collectives: instructions inside loops that wait for other devices.
    implementation: of each direction.
    profile_seconds: by libtpu's static profile; where there is none, `profile_error` says why.
    longest, refused: the most steps that the compiler took, and the fewest above them that it refused.
    points: all lengths that were compiled.
    """

    memory: str
    means: str = ""
    fits: bool | None = None
    device_bytes: int | None = None
    host_bytes: int | None = None
    compile_seconds: float | None = None
    flops: int | None = None
    streamed_bytes: int | None = None
    exact: bool = True
    recompute: float | None = None
    least_seconds: float | None = None
    bound: str | None = None
    collectives: int | None = None
    implementation: tuple[str, ...] = ()
    profile_seconds: float | None = None
    profile_error: str | None = None
    longest: int | None = None
    refused: int | None = None
    points: tuple[Point, ...] = ()
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """A plan: a training step of `program` on `target` under each memory policy. Printing it shows the table."""

    program: Program
    target: Target
    rows: tuple[Row, ...]
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: dict(_versions()))

    def __getitem__(self, memory: str) -> Row:
        """Return the row of a policy, by its name as it was asked for."""
        for row in self.rows:
            if row.memory == str(memory):
                return row
        raise KeyError(f"{memory!r} is not one of {[row.memory for row in self.rows]}.")

    def to_json(self) -> dict[str, Any]:
        """Return the plan in plain types."""
        target = {
            "name": self.target.name,
            "devices": self.target.devices,
            "usable_bytes": self.target.usable_bytes,
            "peak_flops": self.target.peak_flops,
            "bandwidth": self.target.bandwidth,
        }
        rows = [dataclasses.asdict(row) | {"points": [p._asdict() for p in row.points]} for row in self.rows]
        return {
            "schema": SCHEMA,
            "program": to_json(self.program),
            "target": target,
            "versions": self.versions,
            "rows": rows,
        }

    def __str__(self) -> str:
        shown = io.StringIO()
        Console(file=shown, width=WIDTH, highlight=False, emoji=False).print(self)
        return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())

    def __rich__(self) -> RenderableType:
        texts = [textwrap.fill(note, _TEXT_WIDTH) for note in (*self._title(), *self._notes())]
        return Group(*map(Text, texts[:2]), self._table(), *map(Text, texts[2:]))

    def plot(self, path: str | Path) -> None:
        """Draw memory against T for each policy, and the limit; the suffix says which kind of file."""
        draw(self, Path(path))

    def _title(self) -> tuple[str, str]:
        target, count = self.target, self.target.devices
        one = "device" if target.chip is None or target.chip.cores > 1 else "chip"
        several = "" if count == 1 else "s, the batch shared"
        return (
            f"one training step of {described(self.program)}",
            f"on {target.name}: {count} {one}{several}, {target.usable_bytes / GIB:.2f} GiB each "
            f"({target.usable_is})",
        )

    def _table(self) -> Table:
        columns = [column for column in _COLUMNS if column.always or any(map(column.cell, self.rows))]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column.name, justify=column.justify, overflow="fold")
        for row in self.rows:
            style = "" if row.fits else "red"
            table.add_row(*(Text(column.cell(row)) for column in columns), style=style)
        return table

    def _notes(self) -> Iterator[str]:
        target = self.target
        yield (
            "device, TFLOP: of one device, of matrix products. work: these over those of a step that computes none "
            "twice. collectives: inside loops."
        )
        dtype = self.program.dtype if isinstance(self.program, Network) else "bfloat16"
        peak = target.peak(dtype)
        if peak and target.bandwidth:
            yield (
                f"at least: roofline, the larger of FLOPs / {peak / 1e12:.0f} TFLOP/s and streamed bytes / "
                f"{target.bandwidth / 1e9:.0f} GB/s (published). Latency of the loops is not in it, and it is "
                "most of the time of small batches."
            )
        if any(row.profile_seconds for row in self.rows):
            yield "profile: libtpu's static estimate of cycles, without a saturated HBM; not compared with a TPU."
        if any(row.longest for row in self.rows):
            yield "longest T: compiled and taken; at most one per cent more, or what is shown as refused, was not."
        for row in self.rows:
            for reason in filter(None, (row.error, row.profile_error)):
                yield f"{row.memory}: {reason}"


def described(program: Program) -> str:
    """Return a program in words."""
    if isinstance(program, Custom):
        return f"{program.factory}, T = {program.steps:,}"
    layers = f"{program.layers} x " if program.layers > 1 else ""
    kind = f"{layers}{'bidirectional ' if program.bidirectional else ''}{program.kind}"
    if program.vocabulary:
        kind = f"a language model ({program.vocabulary} tokens, embedding, {kind}, readout)"
    dtypes = program.dtype + (
        "" if program.param_dtype == program.dtype else f", parameters {program.param_dtype}"
    )
    return (
        f"{kind}, T = {program.steps:,}, B = {program.batch}, I = {program.input_features}, "
        f"H = {program.hidden_features}, {dtypes}"
    )


def roofline(flops: int, streamed_bytes: int, target: Target, dtype: str) -> tuple[float, str] | None:
    """Return the seconds that no program beats by these figures, and what binds: "compute" or "memory".

    The larger of FLOPs over the device's published peak and streamed bytes over its published bandwidth. A step of
    a loop also waits for its products, which is not in it: with few rows an unrolled loop takes ten times as long.
    """
    peak = target.peak(dtype)
    if peak is None or target.bandwidth is None:
        return None
    return max((flops / peak, "compute"), (streamed_bytes / target.bandwidth, "memory"))


# The table ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Column:
    name: str
    cell: Any  # of a row: its text
    justify: Any = "right"
    always: bool = True


def _gib(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / GIB:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.3g} MiB"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _fits(row: Row) -> str:
    return "error" if row.fits is None else "yes" if row.fits else "no"


def _memory(row: Row) -> str:
    return row.memory + (f" = {row.means}" if row.means not in ("", row.memory) else "")


def _teraflops(row: Row) -> str:
    if row.flops is None:
        return ""
    tera = row.flops / 1e12
    return ("" if row.exact else "> ") + (f"{tera:,.0f}" if tera >= 1000 else f"{tera:.3g}")


def _least(row: Row) -> str:
    return f"{_seconds(row.least_seconds)} ({row.bound})" if row.bound else ""


def _longest(row: Row) -> str:
    if row.longest is None and row.refused is None:
        return ""
    return f"{row.longest or 0:,}"


_COLUMNS = (
    _Column("memory", _memory, "left"),
    _Column("fits", _fits, "left"),
    _Column("device", lambda row: _gib(row.device_bytes)),
    _Column("host", lambda row: _gib(row.host_bytes) if row.host_bytes else "", always=False),
    _Column("compile", lambda row: _seconds(row.compile_seconds)),
    _Column("TFLOP", _teraflops),
    _Column("work", lambda row: f"{row.recompute:.2f} x" if row.recompute else "", always=False),
    _Column("at least", _least, always=False),
    _Column("profile", lambda row: _seconds(row.profile_seconds), always=False),
    _Column("collectives", lambda row: "" if row.collectives is None else str(row.collectives)),
    _Column("by", lambda row: ", ".join(row.implementation), "left", always=False),
    _Column("longest T", _longest, always=False),
    _Column("refused", lambda row: f"{row.refused:,}" if row.refused else "", always=False),
)


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


# The picture -------------------------------------------------------------------------------------------------


def draw(report: Report, path: Path) -> None:
    """Draw memory against T: a line for each policy through what fitted, crosses for what was refused."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for number, row in enumerate(report.rows):
        colour, marker = _LOOKS[number % len(_LOOKS)]
        points = sorted(point for point in row.points if point.bytes)
        axis.plot(*_along(points), color=colour, marker=marker, markersize=4, label=row.memory)
        axis.plot(
            *_along([p for p in points if not p.fits]), color=colour, marker="x", linestyle="", markersize=9
        )
    limit = report.target.usable_bytes / GIB
    axis.axhline(limit, color="black", linestyle="--", label=f"{report.target.name}: {limit:.2f} GiB")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("steps T (crosses: refused)")
    axis.set_ylabel("memory of a device [GiB]")
    axis.set_title(described(report.program), loc="left", fontsize=9)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _along(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    return [p.steps for p in points], [(p.bytes or 0) / GIB for p in points]
