"""`parity list` and `parity env`."""

from __future__ import annotations

import importlib
import importlib.util

import click

from parity.cases import CASES
from parity.cli.shared import plain_table
from parity.environment import environment
from parity.report.terminal import make_console


@click.command("list")
def list_cases() -> None:
    """List the registered cases."""
    table = plain_table("case", "what is compared", "needs")
    table.columns[0].no_wrap = True
    for case in CASES:
        table.add_row(case.id, case.summary, case.missing() or "ready")
    make_console().print(table)


@click.command()
def env() -> None:
    """Show versions, devices, precisions and threads: what decides about numbers."""
    for name in ("jax", "torch"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    table = plain_table(header=False)
    for name, value in environment().items():
        table.add_row(name, value)
    make_console().print(table)
