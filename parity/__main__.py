"""`parity` and `python -m parity`: the command line, or what of it needs NumPy alone."""

from __future__ import annotations

import sys

from parity.verdict import EXIT_ENVIRONMENT


def main() -> None:
    """Run a command. Where click or rich is missing, `parity compare` works all the same, in plain text."""
    try:
        from parity.cli import main as command_line
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(_without(error.name, sys.argv[1:]))
    command_line(prog_name="parity")


def _without(package: str, arguments: list[str]) -> int:
    if arguments[:1] == ["compare"]:
        from parity import dumps

        return dumps.main(arguments[1:])
    print(
        f"{package} is not installed: pip install click rich. `parity compare` needs neither.",
        file=sys.stderr,
    )
    return EXIT_ENVIRONMENT


if __name__ == "__main__":
    main()
