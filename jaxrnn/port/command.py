"""`jaxrnn port`: from the name of a class to a file, and a list of what it could not translate."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from jaxrnn.bad_input import refusal
from jaxrnn.port.file import port_source
from jaxrnn.port.problems import Problem
from jaxrnn.source import Place, find_modules_here, read
from jaxrnn.whole_files import write_whole


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="PKG.MOD[:NAME,...]")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to the terminal."
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.pass_context
def command(context: click.Context, source: str, output: Path | None, overwrite: bool) -> None:
    """Write classes of torch.nn.Module, and functions, again in JAX, from their source.

    PKG.MOD:NAME names one of them, FILE.py or NOTEBOOK.ipynb all of a file, where code in no function becomes one.
    Names, branches and comments stay. What has no translation raises NotImplementedError at its place, and is
    listed with its line and the reason; the exit code is then 1. Nothing is imported, and PyTorch is not needed.
    """
    try:
        path, wanted = _found(source)
        if output is not None and output.exists() and not overwrite:
            raise ValueError(f"{output} exists; pass --overwrite to replace it.")
        program = read(path)
        ported = port_source(program.text, wanted, name=path.name)
        if output is None:
            click.echo(ported.code, nl=False)
        else:
            write_whole(output, lambda file: file.write(ported.code.encode()))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise refusal(error) from error
    console = Console(stderr=True)
    if output is not None:
        console.print(Text(f"{', '.join(ported.names)} in {output}"))
    _list(console, program.places, "not translated", ported.untranslated)
    _list(console, program.places, "to know", ported.notes)
    context.exit(1 if ported.untranslated else 0)


def _list(console: Console, places: Sequence[Place], title: str, problems: Sequence[Problem]) -> None:
    for line, code, why in problems:
        console.print(Text(f"{places[line - 1]}: {title}: {code}: {why}."), soft_wrap=True)


def _found(source: str) -> tuple[Path, list[str]]:
    """Return the file that a module's name or a path stands for, and the names behind the colon."""
    module, colon, classes = source.partition(":")
    wanted = [name.strip() for name in classes.split(",")] if colon else []
    if module.endswith((".py", ".ipynb")):
        return Path(module), wanted
    find_modules_here()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"there is no module {module!r} ({error}); give the path of its file instead."
        ) from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(
            f"there is no Python file of a module {module!r}; give the path of the file instead."
        )
    return Path(spec.origin), wanted
