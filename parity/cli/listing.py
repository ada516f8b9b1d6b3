"""`parity list` and `parity env`."""

from __future__ import annotations

import importlib
import importlib.util

import click
from rich.table import Table

from parity.cases import CASES
from parity.environment import environment
from parity.report.terminal import make_console


@click.command("list")
def list_cases() -> None:
    """List the registered cases."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "what is compared", "needs"):
        table.add_column(heading, no_wrap=heading == "case")
    for case in CASES:
        table.add_row(case.id, case.summary, case.missing() or "ready")
    make_console().print(table)


@click.command()
def env() -> None:
    """Show versions, devices, precisions and threads: what decides about numbers."""
    for name in ("jax", "torch"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in environment().items():
        table.add_row(name, value)
    make_console().print(table)
