"""Records as a table: for people at a terminal, or as tab-separated values for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.jobs import OURS
from benchmarks.runs import Document, Record

JOB_COLUMNS = ("size", "shape", "kind", "mode", "allocator", "ratio is")
COLUMNS = ("contender", "ms", "least ms", "ratio", "95 %", "of bound", "compile s", "temp MB")


def show(documents: Sequence[Document]) -> None:
    """Print every record, and what follows from all of them."""
    console = Console(highlight=False, markup=False, emoji=False)
    records = [record for document in documents for record in document["records"]]
    if not console.is_terminal:
        for row in tsv(records):
            click.echo("\t".join(row))
        return
    for document in documents:
        console.print(Text(machine_line(document["machine"]), "dim"))
        for record in document["records"]:
            _show_record(record, console)
    _show_summary(records, console)


def machine_line(machine: dict[str, Any]) -> str:
    """Return the machine in a line."""
    versions = [
        f"{name} {machine['packages'][name]}"
        for name in ("jax", "flax", "torch")
        if machine["packages"][name]
    ]
    noisy = " (noisy)" if machine["peaks_noisy"] else ""
    return (
        f"{machine['cpu']}, {machine['usable_cores']} cores, {machine['gemm_gflops']:.0f} GFLOP/s, "
        f"{machine['memory_gbytes']:.0f} GB/s{noisy} | {' '.join(versions)} | {machine['date'][:10]}"
    )


def shape_of(record: Record) -> str:
    """Return a size in numbers: B32 T128 I128 H256 L2 D2."""
    size = record["size"]
    names = ("batch", "steps", "input_features", "hidden_features", "layers", "directions")
    shape = [f"{letter}{size[name]}" for letter, name in zip("BTIHLD", names, strict=True)]
    shape = shape[:4] + [each for each in shape[4:] if not each.endswith("1")]
    return " ".join(shape + [f"{size['calls']} calls"] * (size["calls"] > 1))


def share_of_bound(record: Record, contender: dict[str, Any]) -> float:
    """Return how much of a contender's time its matrix products would take at the machine's peak."""
    own = (contender["flops"] or record["flops"]) / record["flops"]
    return own * record["bound_ms"] / contender["median_ms"]


def _cells(record: Record, contender: dict[str, Any]) -> list[str]:
    ratio, low, high = contender["ratio"]
    compiled, temp = contender["compile_seconds"], contender["temp_bytes"]
    return [
        contender["name"],
        f"{contender['median_ms']:.4g}",
        f"{contender['min_ms']:.4g}",
        f"{ratio:.3f}",
        f"{low:.3f}-{high:.3f}",
        f"{share_of_bound(record, contender):.1%}",
        "" if compiled is None else f"{compiled:.2f}",
        "" if temp is None else f"{temp / 1e6:.1f}",
    ]


def tsv(records: Iterable[Record]) -> Iterator[list[str]]:
    """Yield a header and one row per contender, those that were skipped and jobs that failed included."""
    yield [*JOB_COLUMNS, *COLUMNS, "rounds", "dropped", "noisy", "note"]
    for record in records:
        job = [record["size"]["name"], shape_of(record), record["kind"], record["mode"], record["allocator"]]
        blank = [""] * (len(COLUMNS) - 1)
        if "error" in record:
            yield [*job, "", "", *blank, "", "", "", f"failed: {record['error']}"]
            continue
        rounds = [str(record["rounds"]), str(record["dropped"]), "noisy" if record["noisy"] else ""]
        for each in record["contenders"]:
            yield [*job, record["ratio_is"], *_cells(record, each), *rounds, each["note"]]
        for name, reason in record["skipped"].items():
            yield [*job, "", name, *blank, "", "", "", f"skipped: {reason}"]


# At a terminal --------------------------------------------------------------------------------------------


def _show_record(record: Record, console: Console) -> None:
    heading = Text(f"\n{record['size']['name']} {record['kind']} {record['mode']}", "bold")
    heading.append(f"  {shape_of(record)}", "default")
    if record["allocator"] != "default":
        heading.append(f"  allocator {record['allocator']}", "default")
    if "error" in record:
        console.print(heading)
        console.print(Text(f"  failed: {record['error']}", "bold red"))
        return
    dropped = f", {record['dropped']} dropped" if record["dropped"] else ""
    heading.append(f"  {record['rounds']} rounds{dropped}, bound {record['bound_ms']:.4g} ms", "dim")
    if record["noisy"]:
        heading.append("  NOISY: other processes computed", "yellow")
    console.print(heading)
    table = _plain(*(record["ratio_is"] if name == "ratio" else name for name in COLUMNS))
    for each in record["contenders"]:
        table.add_row(*map(Text, _cells(record, each)))
    console.print(table)
    notes = [f"{each['name']}: {each['note']}" for each in record["contenders"] if each["note"]]
    for line in [*notes, *(f"{name} skipped: {reason}" for name, reason in record["skipped"].items())]:
        console.print(Text(f"  {line}", "dim"))


def _show_summary(records: Iterable[Record], console: Console) -> None:
    numbers = ("times", "mean ratio", "least", "most", "faster", "even", "slower")
    table = _plain("jaxrnn against", "mode", "allocator", *numbers)
    for row in summary(records):
        table.add_row(*map(Text, row))
    if table.row_count:
        console.print(
            Text("\njaxrnn's time over the contender's; faster or slower with 95 % confidence", "dim")
        )
        console.print(Text("(mean: geometric; noisy jobs are left out)", "dim"))
        console.print(table)


def summary(records: Iterable[Record]) -> Iterator[list[str]]:
    """Yield what all records say of jaxrnn against each contender, for each mode and allocator.

    Noisy records say nothing: one busy core slows torch's threads down a hundredfold, and XLA's hardly.
    """
    found: dict[tuple[str, str, str], list[list[float]]] = {}
    for record in records:
        if record["features"] or record.get("noisy"):
            continue
        for each in record.get("contenders", ()):
            if each["name"] != OURS:
                key = (each["name"], record["mode"], record["allocator"])
                found.setdefault(key, []).append(each["ratio"])
    for key, ratios in found.items():
        medians = [median for median, _, _ in ratios]
        mean = math.exp(math.fsum(map(math.log, medians)) / len(medians))
        faster, slower = sum(high < 1 for _, _, high in ratios), sum(low > 1 for _, low, _ in ratios)
        even = len(ratios) - faster - slower
        numbers = [f"{each:.2f}" for each in (mean, min(medians), max(medians))]
        yield [*key, str(len(ratios)), *numbers, str(faster), str(even), str(slower)]


def _plain(first: str, *rest: str) -> Table:
    """Return a table without lines, all columns but the first with numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for heading in rest:
        table.add_column(heading, justify="right")
    return table
