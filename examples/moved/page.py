"""The tables of docs/moved.md, from the measured results beside its figures."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from examples.common import results
from examples.common.pages import markdown, replace_blocks
from examples.moved.common import FOLDER, Findings, Move, read

PAGE = FOLDER.parent / "moved.md"
Rows = Callable[[Findings], Iterable[list[str]]]


def write(moves: Mapping[str, Move], page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the tables of a page anew, from the results of all networks in a folder."""
    page.write_text(replace_blocks(page.read_text("utf-8"), blocks(moves, folder)), "utf-8")


def blocks(moves: Mapping[str, Move], folder: Path) -> dict[str, str]:
    """Return the generated parts of the page by name."""
    found = {name: read(name, folder)[0] for name in moves}
    networks = [[name, move.network, _source(move), move.licence] for name, move in moves.items()]
    tables = {
        name: markdown(
            ("network", *headings), [[of, *row] for of, each in found.items() for row in rows(each)]
        )
        for name, (headings, rows) in TABLES.items()
    }
    remarks = "\n".join(f"* {name}: {remark}" for name, each in found.items() for remark in each.remarks)
    heading = ("name", "network", "weights", "licence")
    return {
        "networks": markdown(heading, networks),
        **tables,
        "remarks": remarks,
        "made": _made(moves, folder),
    }


def _source(move: Move) -> str:
    return f"{move.package.name} {move.package.version}, `{Path(move.file).name}`"


def _checks(found: Findings) -> Iterable[list[str]]:
    for check in found.checks:
        same = "" if check.equal is None else f"{check.equal[0]} of {check.equal[1]} equal"
        apart = "" if check.difference is None else f"{check.difference:.0e}"
        yield [check.quantity, check.oracle, same or apart]


def _mistakes(found: Findings) -> Iterable[list[str]]:
    for each in found.mistakes:
        yield [each.done, each.quantity, results.short(each.wrong), results.short(each.right)]


def _timings(found: Findings) -> Iterable[list[str]]:
    for each in found.timings:
        yield [each.task, str(each.examples), results.short(each.torch_ms), results.short(each.jax_ms)]


TABLES: dict[str, tuple[tuple[str, ...], Rows]] = {
    "verdicts": (
        ("with", "JAX against PyTorch", "tensors", "would be found"),
        lambda found: [row[:4] for row in results.agreement_rows(found.agreements)],
    ),
    "checks": (("what", "computed again by", "largest difference"), _checks),
    "mistakes": (("done otherwise", "what becomes of it", "then", "moved"), _mistakes),
    "timings": (("one example", "in a call", "PyTorch (ms)", "JAX (ms)"), _timings),
}


def _made(moves: Mapping[str, Move], folder: Path) -> str:
    """Return with what the results were measured, which is the same for all."""
    made = {
        ", ".join(f"{name} {environment[name]}" for name in ("jax", "flax", "torch", "python", "cores"))
        for environment in (read(name, folder)[1]["environment"] for name in moves)
    }
    return f"Measured on a CPU with {'; '.join(sorted(made))}."
