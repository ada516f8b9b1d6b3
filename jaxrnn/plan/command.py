"""`jaxrnn plan`: from the command line to a plan, and from it to a table, a file and a picture."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jaxrnn.plan import MissingCompilerError, plan, policies
from jaxrnn.plan.programs import DTYPES, KINDS
from jaxrnn.plan.report import INSTALL, SUFFIXES, WIDTH

FILE = click.Path(dir_okay=False, path_type=Path)
SIZE = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--hidden", "hidden_features", type=SIZE, help="Hidden features H.")
@click.option("--input", "input_features", type=SIZE, help="Input features I, or those of the embedding; 64.")
@click.option("--batch", type=SIZE, help="Rows B, shared by the chips of a slice.")
@click.option("--steps", type=SIZE, required=True, help="Steps T.")
@click.option("--layers", type=SIZE, default=1, show_default=True)
@click.option("--bidirectional", is_flag=True)
@click.option("--vocabulary", type=SIZE, help="Plan a language model over so many tokens, by scan_loss.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--param-dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--step", metavar="PKG.MOD:FACTORY", help="A training step of your own; see jaxrnn.plan.")
@click.option(
    "--memory",
    multiple=True,
    metavar="POLICY",
    help="gates, carry, h, sqrt, segments, offload, 2048, 65536,256, '2048 offload', '2 GiB'; several times for "
    "several. By default the first six; for a step of your own, gates.",
)
@click.option(
    "--topology",
    "--backend",
    default="v5e",
    show_default=True,
    help="v4, v5e, v5p, v6e, v7x, a slice such as v5e:4x4, h100, or cpu.",
)
@click.option("--longest", is_flag=True, help="Find the longest sequence that fits; compiles often.")
@click.option("--profile", is_flag=True, help="Ask libtpu for its static estimate of cycles; slow, may fail.")
@click.option("--json", "json_path", type=FILE, help="Write the plan here.")
@click.option("--plot", "plot_path", type=FILE, help="Draw memory against T here: .png, .svg or .pdf.")
@click.pass_context
def command(
    context: click.Context,
    memory: tuple[str, ...],
    json_path: Path | None,
    plot_path: Path | None,
    **options: Any,
) -> None:
    """Say what a training step of a KIND of layer needs, and whether it fits, before it runs.

    The device's own compiler is asked, once for each memory policy; no device is needed.

    Exit codes: 0 something fits, 1 nothing does, 2 wrong usage, or a compiler that is not installed.
    """
    _check_files(json_path, plot_path)
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting the compiler", total=None)
        try:
            found = plan(
                **options,
                memory=[policies.parse(text) for text in memory] or None,
                curve=plot_path is not None,
                say=lambda text: progress.update(task, description=f"compiling: {text}"),
            )
        except (ValueError, MissingCompilerError) as error:
            raise click.UsageError(str(error)) from error
    shown = Console(highlight=False, markup=False, emoji=False)
    if not shown.is_terminal:
        shown.width = WIDTH
    shown.print(found)
    if json_path is not None:
        json_path.write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
    if plot_path is not None:
        found.plot(plot_path)
    context.exit(0 if any(row.fits for row in found.rows) else 1)


def _check_files(json_path: Path | None, plot_path: Path | None) -> None:
    if plot_path is not None:
        if plot_path.suffix not in SUFFIXES:
            raise click.UsageError(f"--plot {plot_path}: expected a name that ends in {', '.join(SUFFIXES)}.")
        if importlib.util.find_spec("matplotlib") is None:
            raise click.UsageError(f"--plot: {INSTALL}.")
    for option, path in (("--json", json_path), ("--plot", plot_path)):
        if path is not None and not os.access(path.absolute().parent, os.W_OK):
            raise click.UsageError(
                f"{option} {path}: cannot write into {path.absolute().parent}; create it first."
            )
