"""What the commands share: options, files to write, progress, torch's threads."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from parity.cases import INSTALL
from parity.probe import SETS
from parity.report.markdown import github_annotations
from parity.report.sections import Section
from parity.report.terminal import make_console
from parity.verdict import Report

T = TypeVar("T")

# Options --------------------------------------------------------------------------------------------------

FILE = click.Path(dir_okay=False, path_type=Path)
results_option = click.option("--json", "json_path", type=FILE, help="Write the results here.")


def seed_option(of: str = "Seed of every draw.") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --seed, with what is drawn from it."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=of)


def draw_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --probe and --seed, as `probe_set` and `seed`: what the probes are drawn from."""
    probe_option = click.option(
        "--probe",
        "probe_set",
        type=click.Choice(SETS),
        default="designed",
        show_default=True,
        help="One scale, three or six.",
    )
    return probe_option(seed_option()(command))


def given(*names: str) -> dict[str, str]:
    """Return those of a command's options, by their keywords, that the command line states: {"seed": "--seed"}."""
    context = click.get_current_context()
    return {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    }


def refuse(names: Sequence[str], because: str) -> None:
    """Refuse options, by their keywords, that are stated though nothing would heed them."""
    stated = given(*names)
    if stated:
        raise click.UsageError(f"{', '.join(stated.values())}: {because}")


def choose(kind: str, names: Sequence[str], rows: Iterable[T], otherwise: str) -> list[T]:
    """Return the rows whose ids are named, each once; all of them where none is named."""
    known = {str(row.id): row for row in rows}  # type: ignore[attr-defined]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else otherwise
            raise click.UsageError(f"no {kind} is called {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def read_call(reader: Callable[[str], T], text: str) -> T:
    """Read a call written on the command line; what is wrong with it is wrong usage."""
    try:
        return reader(text)
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error


# Files ----------------------------------------------------------------------------------------------------


def check_destination(path: Path, suffix: str = ".json") -> None:
    """Refuse, before any work is done, a report that could not be written or be opened by its name."""
    if path.suffix != suffix:
        raise click.UsageError(
            f"{path}: this kind of report ends in {suffix}; name it {path.with_suffix(suffix).name}."
        )
    if not path.absolute().parent.is_dir():
        raise click.UsageError(
            f"{path}: the folder {path.absolute().parent} does not exist; create it first."
        )
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise click.UsageError(f"{path}: not writable; choose another place.")


@dataclass(frozen=True)
class Destinations:
    """The files that are written, by suffix; those that are None were not asked for. Checked before any work."""

    paths: Mapping[str, Path | None]  # {".html": Path("report.html"), ".md": None}

    def __post_init__(self) -> None:
        for suffix, path in self.wanted.items():
            check_destination(path, suffix)

    @property
    def wanted(self) -> dict[str, Path]:
        """The files that were asked for."""
        return {suffix: path for suffix, path in self.paths.items() if path is not None}

    def clear(self) -> None:
        """Remove what lies there: if this run fails, no older report may be taken for its own."""
        for path in self.wanted.values():
            path.unlink(missing_ok=True)

    def write(self, report: Report, sections: Sequence[Section] = ()) -> None:
        """Write every file that was asked for; `sections` are shown on the page."""
        faces = {".json": report.to_json, ".xml": report.to_junit, ".md": report.to_markdown}
        for suffix, path in self.wanted.items():
            if suffix == ".html":
                report.to_html(path, sections=sections)
            else:
                path.write_text(faces[suffix](), encoding="utf-8")

    def write_results(self, content: Mapping[str, Any]) -> None:
        """Write numbers that are no report to the .json file, if it was asked for."""
        path = self.paths[".json"]
        if path is not None:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def tell_github(report: Report, echo: Callable[[str], Any]) -> None:
    """Add to a GitHub Actions job its summary and an annotation per case that failed; elsewhere, do nothing."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(report.to_markdown())
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(report):
            echo(line)


# While it works -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """What is being done, and how much of it is done; shown on stderr and gone at the end."""

    progress: Progress

    def say(self, text: str) -> None:
        """Show what is being done."""
        self.progress.update(self.progress.task_ids[0], description=text)

    def advance(self) -> None:
        """Show that one more is done."""
        self.progress.advance(self.progress.task_ids[0])

    def reach(self, done: int) -> None:
        """Show how many are done."""
        self.progress.update(self.progress.task_ids[0], completed=done)

    def through(self, items: Iterable[T], name: Callable[[T], str]) -> Iterator[T]:
        """Yield items one after the other, each named while it is at work and counted when it is done."""
        for item in items:
            self.say(name(item))
            yield item
            self.advance()


@contextlib.contextmanager
def show_progress(total: int | None = None) -> Iterator[Steps]:
    """Show a bar, or where it is not known of how many, that something is being done."""
    columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description:34}"), TimeElapsedColumn())
    if total is None:
        columns = (SpinnerColumn(), *columns)
    else:
        columns = (columns[0], BarColumn(), MofNCompleteColumn(), columns[1])
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        progress.add_task("", total=total)
        yield Steps(progress)


def plain_table(*headings: str, right: Sequence[str] = (), header: bool = True) -> Table:
    """Return a table for the terminal without lines; columns named in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left")
    return table


def torch_missing() -> str | None:
    """Say that torch is missing, with the remedy; None where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return f"torch not installed; {INSTALL['torch']}"
    return None


def one_torch_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch compute on one thread, if it is there."""
    if torch_missing():
        return contextlib.nullcontext()  # the cases will say that it is missing
    from parity.running.torch_side import one_thread

    return one_thread()
