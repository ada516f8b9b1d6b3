"""The command line, a module per command.

Exit codes: 0 equivalent, 1 divergent, 2 usage or harness error, 3 inconclusive, 4 a package is missing,
5 nothing compared. When several apply: 2, then 1, 4, 5, 3.
"""

from __future__ import annotations

import traceback
from typing import Any

import click

from parity.cli.calibrate_limits import calibrate
from parity.cli.capture_runs import capture, compare
from parity.cli.check_models import check
from parity.cli.findings import findings
from parity.cli.listing import env, list_cases
from parity.cli.prove_losses import loss
from parity.cli.prove_optimizers import optim
from parity.cli.run_cases import run
from parity.cli.selftest_run import selftest
from parity.cli.train_runs import train
from parity.verdict import EXIT_ERROR


class _Main(click.Group):
    """A group whose crash is told apart from a divergence: Python's and click's own exit code for both is 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted; nothing is decided", err=True)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception:
            traceback.print_exc()
        return ctx.exit(EXIT_ERROR)


@click.group(cls=_Main)
def main() -> None:
    """Judge whether two models, one in PyTorch and one in JAX, are the same.

    Exit codes: 0 equivalent, 1 divergent, 2 usage or harness error, 3 inconclusive, 4 a package is missing,
    5 nothing compared.
    """


for command in (
    run,
    check,
    loss,
    optim,
    train,
    capture,
    compare,
    list_cases,
    env,
    selftest,
    calibrate,
    findings,
):
    main.add_command(command)
