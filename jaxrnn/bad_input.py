"""What a command says of input that it cannot use."""

import click


class BadInput(click.ClickException):
    """Input the command cannot use: one line on stderr and exit code 2."""

    exit_code = 2


def refusal(error: Exception) -> BadInput:
    """Return an error as one line.

    What a file says may stand in it, and no control characters reach the terminal.
    """
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror}."  # without the number that Python puts in front
    return BadInput("".join(each if each.isprintable() else ascii(each)[1:-1] for each in message))
