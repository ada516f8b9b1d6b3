"""`jaxrnn bench`: from the command line to jobs, and from their records to a table, a file and a plot."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine, plans, plot, runs, table
from benchmarks.contenders import PEERS
from benchmarks.jobs import ALLOCATORS, Job
from benchmarks.runs import Document
from benchmarks.sizes import AXES, KINDS, MODES

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--size", "sizes", multiple=True, metavar="B,T,I,H[,L[,D]]", help="Any other size.")
@click.option(
    "--random", type=click.IntRange(min=1), metavar="N", help="N random sizes, on which no code was tuned."
)
@click.option(
    "--sweep",
    "axes",
    type=click.Choice(list(AXES)),
    multiple=True,
    help="From a quarter to four times NAME's.",
)
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="The network; the grid's by default."
)
@click.option("--mode", "modes", type=click.Choice(MODES), multiple=True, help="Both by default.")
@click.option("--peer", "peers", type=click.Choice(list(PEERS)), multiple=True, help="All by default.")
@click.option("--features", is_flag=True, help="jaxrnn alone: what lengths, resets and a projection cost.")
@click.option(
    "--allocator",
    type=click.Choice([*ALLOCATORS, "all"]),
    default="default",
    show_default=True,
    help="glibc's memory as it is, in huge pages, or never given back (GLIBC_TUNABLES).",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds of rounds for a job.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; all cores by default. XLA takes all.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of random sizes, inputs and order.",
)
@click.option("--json", "json_path", type=FILE, help="Write the results here, after every job.")
@click.option("--plot", "plot_path", type=FILE, help="Draw them here: .png, .svg or .pdf.")
@click.option("--show", is_flag=True, help="Measure nothing: the NAMEs are files that --json wrote.")
@click.pass_context
def bench(
    context: click.Context,
    names: tuple[str, ...],
    json_path: Path | None,
    plot_path: Path | None,
    show: bool,
    **options: Any,
) -> None:
    """Time jaxrnn beside torch and JAX's other recurrent networks, in turns; every job in a fresh process.

    The NAMEs are course, charlm, medium, large, long, bidirectional and stream; all of them where no size is given.
    The table is tab-separated where the output is no terminal.

    Exit codes: 0 measured, 1 a job failed (wrong results are never timed), 2 wrong usage.
    """
    _check_plot(plot_path)
    _check_folder("--json", json_path)
    if show:
        _refuse_beside_show(context)
        documents = _read(names)
    else:
        documents = [_measure(_jobs(names, **options), _command(context), json_path)]
    table.show(documents)
    records = [record for document in documents for record in document["records"]]
    failed = sum("error" in record for record in records)
    if plot_path is not None and failed < len(records):
        plot.draw(records, plot_path)
    if failed:
        click.echo(f"{failed} of {len(records)} jobs failed.", err=True)
        context.exit(1)


# What is asked for ----------------------------------------------------------------------------------------


def _jobs(
    names: Sequence[str],
    *,
    sizes: Sequence[str],
    random: int | None,
    axes: Sequence[str],
    allocator: str,
    peers: Sequence[str],
    threads: int | None,
    seed: int,
    **options: Any,
) -> list[Job]:
    """Make the options' jobs; what is wrong with them is wrong usage."""
    allocators = list(ALLOCATORS) if allocator == "all" else [allocator]
    if "hugetlb" in allocators:
        _check_huge_pages()
    if options["features"] and peers:
        raise click.UsageError("--features measure jaxrnn alone: leave --peer out.")
    try:
        chosen = plans.entries(names, sizes=sizes, random=random or 0, seed=seed, axes=axes)
        return plans.jobs(
            chosen,
            allocators=allocators,
            peers=peers or tuple(PEERS),
            threads=threads or machine.usable_cores(),
            seed=seed,
            **options,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _refuse_beside_show(context: click.Context) -> None:
    if not context.params["names"]:
        raise click.UsageError("--show needs files: name some that --json wrote.")
    stated = _stated(context).keys() - {"--show", "--plot"}
    if stated:
        raise click.UsageError(f"{', '.join(sorted(stated))}: --show measures nothing; leave it out.")


def _stated(context: click.Context) -> dict[str, Any]:
    """Return the options that the command line states."""
    return {
        parameter.opts[0]: context.params[parameter.name]
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        and parameter.name in context.params
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    }


def _command(context: click.Context) -> str:
    """Return the command line, as it could be typed again."""
    words = ["jaxrnn", "bench", *context.params["names"]]
    for option, value in _stated(context).items():
        for each in value if isinstance(value, tuple) else [value]:
            words += [option] if each is True else [option, str(each)]
    return shlex.join(words)


def _read(names: Sequence[str]) -> list[Document]:
    try:
        return [runs.read(Path(name)) for name in names]
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _check_huge_pages() -> None:
    described = machine.describe()
    version = [int(part) for part in platform.libc_ver()[1].split(".")[:2] if part.isdigit()]
    if platform.libc_ver()[0] != "glibc" or version < [2, 35] or described["huge_pages"] in (None, "never"):
        raise click.UsageError(
            f"--allocator hugetlb needs glibc 2.35 and transparent huge pages that are not 'never'; here are "
            f"{described['libc'] or 'another libc'} and {described['huge_pages']!r}. Leave it at default."
        )


def _check_plot(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix not in plot.SUFFIXES:
        raise click.UsageError(f"--plot {path}: expected a name that ends in {', '.join(plot.SUFFIXES)}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError(f"--plot: {plot.INSTALL}.")
    _check_folder("--plot", path)


def _check_folder(option: str, path: Path | None) -> None:
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise click.UsageError(
            f"{option} {path}: cannot write into {path.absolute().parent}; create it first."
        )


# What is done ---------------------------------------------------------------------------------------------


def _measure(jobs: Sequence[Job], command: str, path: Path | None) -> Document:
    """Run the jobs, with progress on stderr; every record is saved as soon as it is there."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        TextColumn("{task.description:42}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Once a second: what this process computes beside a child counts as foreign.
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as progress:
        task = progress.add_task("", total=len(jobs))

        def save(document: Document) -> None:
            progress.update(task, completed=len(document["records"]))
            if path is not None:
                runs.write(document, path)

        def say(text: str) -> None:
            progress.update(task, description=text)

        try:
            return runs.run(jobs, command, say, save)
        except runs.ChildError as error:
            raise click.ClickException(f"the machine could not be measured: {error}") from error
