"""A lesson: a name, sizes, and a function that runs one; as a command, and as a step of the documentation."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import click
from rich.console import Console

from examples.common import judging, results
from examples.common.results import Outcome

Size = TypeVar("Size")  # a frozen dataclass: what a run's cost depends on
SizeName = Literal["small", "default", "full"]
DOCS = Path(__file__).parents[2] / "docs" / "lessons"


@dataclass(frozen=True)
class Lesson(Generic[Size]):
    """An example of the lecture: `run(size, seed=..., judged=...)` trains, scores and draws.

    sizes: "small" is for tests; "default" takes under three minutes on two cores; "full" takes its time.
    judged: whether trained models are compared with their mirrors in PyTorch.
    """

    name: str
    sizes: Mapping[SizeName, Size]
    run: Callable[..., Outcome]

    def command(self, *options: Callable[[Any], Any]) -> click.Command:
        """Return the lesson's command line; `options` are click's, handed on to `run` by name."""

        def main(full: bool, small: bool, seed: int, torch: bool | None, output: Path, **given: Any) -> None:
            if full and small:
                raise click.UsageError("--full and --small exclude each other.")
            judged = judging.torch_is_installed() if torch is None else torch
            if judged and not judging.torch_is_installed():
                raise click.ClickException("--torch: PyTorch is not installed; pip install 'jaxrnn[torch]'")
            size: SizeName = "full" if full else "small" if small else "default"
            outcome = self.carry_out(output, size, seed=seed, judged=judged, **given)
            if not outcome.agrees:
                raise click.ClickException("JAX and PyTorch do not agree; see the second table.")

        main.__doc__ = self.run.__doc__
        for option in (*options, *reversed(_OPTIONS)):
            main = option(main)
        folder = click.Path(path_type=Path, file_okay=False)
        default = Path("outputs") / self.name
        main = click.option("--output", type=folder, default=default, show_default=True)(main)
        return click.command(context_settings={"help_option_names": ["-h", "--help"]})(main)

    def carry_out(self, folder: Path, size: SizeName = "default", **given: Any) -> Outcome:
        """Run, print what was found, and write it with the figures into a folder."""
        start = time.perf_counter()
        outcome = self.run(self.sizes[size], **given)
        seconds = time.perf_counter() - start
        settings = {"size": size, **dataclasses.asdict(self.sizes[size]), **_plain(given)}  # type: ignore[call-overload]
        results.write(folder, self.name, outcome, settings, seconds)
        show(outcome)
        click.echo(f"Figures and results.json are in {folder}; {seconds:.0f} s.")
        return outcome

    def write_docs(self, **given: Any) -> Outcome:
        """Run at the default size, and put results and figures where the documentation shows them."""
        return self.carry_out(DOCS / self.name, seed=0, judged=True, **given)


_OPTIONS = (
    click.option("--full", is_flag=True, help="A size that takes its time."),
    click.option("--small", is_flag=True, help="A size that takes seconds and teaches little."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True),
    click.option("--torch/--no-torch", default=None, help="Compare with PyTorch [if it is installed]."),
)


def show(outcome: Outcome) -> None:
    """Print the tables and the remarks."""
    console = Console(highlight=False, width=None if Console().is_terminal else 140)
    for table in results.tables(outcome):
        console.print(table, end="\n\n")
    for remark in outcome.remarks:
        console.print(remark)


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
