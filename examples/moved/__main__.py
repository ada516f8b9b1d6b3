"""The networks that were moved: `python -m examples.moved` lists, `run` runs some, `docs` writes their page."""

import importlib
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from examples.common import judging
from examples.moved import common, page
from examples.moved.common import Findings, Move

NAMES = ("g2p_en", "resemblyzer", "textgenrnn", "chars2vec")


def moves() -> dict[str, Move]:
    """Return all moves by name: what the modules of this package call `MOVE`."""
    return {name: importlib.import_module(f"examples.moved.{name}").MOVE for name in NAMES}


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """List the networks that were moved from packages, run them, or write their page in docs/."""
    if context.invoked_subcommand is None:
        for name, move in moves().items():
            click.echo(f"{name:12} {move.network} ({move.package.version}, {move.licence})")


@main.command("run")
@click.argument("names", nargs=-1)
@click.option("--small", is_flag=True, help="Few inputs: a minute, and numbers that say little.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=Path("outputs/moved"))
def run_moves(names: tuple[str, ...], small: bool, output: Path) -> None:
    """Move networks, NAMES or all, and say what was found."""
    _run(names, small, output)


@main.command()
@click.option("--run", is_flag=True, help="Run all networks first, with all inputs.")
def docs(run: bool) -> None:
    """Write the tables of docs/moved.md from the results in docs/moved/."""
    if run:
        _run((), False, common.FOLDER)
    page.write(moves())
    click.echo(page.PAGE)


def _run(names: tuple[str, ...], small: bool, output: Path) -> None:
    known = moves()
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no network is called {', '.join(unknown)}; there are {', '.join(known)}.")
    if not judging.torch_is_installed():
        raise click.ClickException("the networks are judged by PyTorch: pip install 'jaxrnn[torch]'")
    for name in names or known:
        found = known[name].run(small)
        common.write(name, found, output)
        show(name, found)
    click.echo(f"Results and figures are in {output}.")


def show(name: str, found: Findings) -> None:
    """Print what was found, as the tables of the page have it."""
    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    for headings, rows in page.TABLES.values():
        table = Table("network", *headings, box=None, pad_edge=False, header_style="bold")
        for row in rows(found):
            table.add_row(name, *row)
        console.print(table, end="\n\n")
    for remark in found.remarks:
        console.print(remark)
    if any(agreement.verdict != "EQUIVALENT" for agreement in found.agreements):
        raise click.ClickException(f"{name}: JAX and PyTorch do not agree.")


if __name__ == "__main__":
    main()
