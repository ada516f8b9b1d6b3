"""What a command says of input that it cannot use."""

import click


class BadInput(click.ClickException):
    """Input the command cannot use: one line on stderr and exit code 2."""

    exit_code = 2
