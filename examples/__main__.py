"""All lessons at once: `python -m examples docs --run` runs them and writes what the documentation shows."""

import click

from examples import lecture
from examples.notebooks import lessons


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """List the lessons, or write their pages in docs/."""


@main.command("list")
def list_lessons() -> None:
    """Name the lessons and what each is about."""
    for name, lesson in lessons().items():
        click.echo(f"{name:20} {(lesson.run.__doc__ or '').partition(chr(10))[0]}")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--run", is_flag=True, help="Run the lessons first, at their default size.")
def docs(names: tuple[str, ...], run: bool) -> None:
    """Write pages and tables in docs/ from the lessons' results; NAMES are those to be run [all]."""
    known = lessons()
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no lesson is called {', '.join(unknown)}; there are {', '.join(known)}.")
    if names and not run:
        raise click.UsageError("NAMES say what to run: add --run.")
    for name in (names or known) if run else ():
        click.echo(f"== {name}")
        known[name].write_docs()
    for path in lecture.write(known):
        click.echo(path)


if __name__ == "__main__":
    main()
