"""Where a command's report goes: the options for it, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from parity.cli.shared import Destinations, tell_github
from parity.report.terminal import make_console, show
from parity.verdict import Report

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--json", "json_path", metavar="PATH|-", help="Also write the JSON report here; - is stdout."
    ),
    click.option(
        "--report",
        "report_path",
        type=_FILE,
        default=Path("parity-report.json"),
        show_default=True,
        help="Where the report file is written (.json).",
    ),
    click.option(
        "--html", "html_path", type=_FILE, help="Also write a page with plots: one file, no network."
    ),
    click.option("--junit", "junit_path", type=_FILE, help="Also write JUnit XML (.xml)."),
    click.option("--markdown", "markdown_path", type=_FILE, help="Also write Markdown (.md)."),
    click.option("-v", "--verbose", is_flag=True, help="List every probe and tensor, not only what failed."),
)


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Publisher`, as its keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Publisher:
    """The places that a report goes to, checked (`clear`) before any work is done."""

    json_path: str | None
    report_path: Path
    html_path: Path | None
    junit_path: Path | None
    markdown_path: Path | None
    verbose: bool

    def clear(self) -> None:
        """Refuse what cannot be written, and remove older reports, so that none is taken for this run's."""
        for destinations in self._destinations():
            destinations.clear()

    def publish(self, report: Report) -> None:
        """Write the files and print the report."""
        main, copy = self._destinations()
        main.write(report)
        copy.write(report)
        console = make_console(stderr=self._to_stdout)
        show(report, console, verbose=self.verbose)
        console.print(f"report: {', '.join(map(str, main.paths.values()))}", soft_wrap=True)
        tell_github(report, lambda line: click.echo(line, err=self._to_stdout))
        if self._to_stdout:
            click.echo(report.to_json(), nl=False)

    def say(self, text: str) -> None:
        """Print something beside the report."""
        click.echo(text, err=self._to_stdout)

    @property
    def _to_stdout(self) -> bool:
        return self.json_path == "-"

    def _destinations(self) -> tuple[Destinations, Destinations]:
        wanted = {
            ".json": self.report_path,
            ".html": self.html_path,
            ".xml": self.junit_path,
            ".md": self.markdown_path,
        }
        copy = None if self.json_path in (None, "-") else Path(str(self.json_path))
        return (
            Destinations({suffix: path for suffix, path in wanted.items() if path is not None}),
            Destinations({} if copy is None else {".json": copy}),
        )
