"""`jaxrnn doctor`: from the command line to a report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from rich.console import Console

from jaxrnn.bad_input import refusal
from jaxrnn.doctor import RULES, Built, build, examine, read
from jaxrnn.doctor.report import shown, table_of, to_json
from jaxrnn.source import find_modules_here

_WIDTH = 116  # where nobody looks at a terminal
_FACTORY = re.compile(r"[^:]+:[A-Za-z_]\w*")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("targets", metavar="TARGET...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Write the findings to stdout as JSON.")
@click.option("--rules", is_flag=True, help="List the rules, what each fault costs and what to do instead.")
@click.pass_context
def command(context: click.Context, targets: tuple[str, ...], as_json: bool, rules: bool) -> None:
    """Look for classic faults of recurrent programs that no error reports, in PyTorch and what was ported from it.

    TARGET is a .py file, an .ipynb notebook, or pkg.mod:factory (or file.py:factory), a class or function that
    returns a module: it is built, and what it holds sharpens what is read in its files. Files that are named
    together are read together, such as a reference and its port. A comment `# jaxrnn: ignore[rule]` silences
    its line.

    Exit codes: 0 nothing found, 1 something, 2 a target that cannot be used.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _WIDTH
    if rules:
        if targets or as_json:
            raise click.UsageError("--rules lists the rules, and goes with nothing else.")
        console.print(table_of(RULES))
        return
    if not targets:
        raise click.UsageError("name a file, a notebook or pkg.mod:factory; --rules lists the rules.")
    files, built = _resolved(targets)
    try:
        findings = examine([read(path) for path in files], built)
    except (OSError, ValueError) as error:
        raise refusal(error) from error
    names = [str(path) for path in files]
    if as_json:
        click.echo(json.dumps(to_json(findings, names), indent=1))
    else:
        console.print(shown(findings, names), crop=False)
    context.exit(1 if findings else 0)


def _resolved(targets: tuple[str, ...]) -> tuple[list[Path], list[Built]]:
    """Return the files to read, each once, and what was built."""
    find_modules_here()
    files: list[Path] = []
    built = []
    for target in targets:
        if not _FACTORY.fullmatch(target):
            files.append(Path(target))
            continue
        try:
            built.append(build(target))
        except (OSError, TypeError, ValueError) as error:
            raise refusal(error) from error
        files += built[-1].files
    return list({path.resolve(): path for path in files}.values()), built
