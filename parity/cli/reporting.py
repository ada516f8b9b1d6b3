"""Where a command's report goes: the options for it, and what they do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from parity.cli.shared import FILE, Destinations, tell_github
from parity.environment import environment
from parity.report.sections import Section
from parity.report.terminal import make_console, show
from parity.verdict import CaseResult, Report

_OPTIONS = (
    click.option(
        "--json", "json_path", metavar="PATH|-", help="Also write the JSON report here; - is stdout."
    ),
    click.option(
        "--report",
        "report_path",
        type=FILE,
        default=Path("parity-report.json"),
        show_default=True,
        help="Where the report file is written (.json).",
    ),
    click.option(
        "--html", "html_path", type=FILE, help="Also write a page with plots: one file, no network."
    ),
    click.option("--junit", "junit_path", type=FILE, help="Also write JUnit XML (.xml)."),
    click.option("--markdown", "markdown_path", type=FILE, help="Also write Markdown (.md)."),
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

    def finish(
        self,
        results: Iterable[CaseResult],
        started: float,
        *,
        sections: Callable[[], Sequence[Section]] = tuple,
        said: Sequence[str] = (),
    ) -> NoReturn:
        """Publish what was found since `started` (of `time.perf_counter`), and exit with its code.

        sections: makes what a page shows beside the cases. said: lines printed under the report.
        """
        report = Report(tuple(results), environment(), time.perf_counter() - started)
        self.publish(report, () if self.html_path is None else sections())
        for line in said:
            self.say(line)
        sys.exit(report.exit_code)

    def publish(self, report: Report, sections: Sequence[Section] = ()) -> None:
        """Write the files and print the report."""
        main, copy = self._destinations()
        main.write(report, sections)
        copy.write(report)
        console = make_console(stderr=self._to_stdout)
        show(report, console, verbose=self.verbose)
        console.print(f"report: {', '.join(map(str, main.wanted.values()))}", soft_wrap=True)
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
        main = {
            ".json": self.report_path,
            ".html": self.html_path,
            ".xml": self.junit_path,
            ".md": self.markdown_path,
        }
        copy = None if self.json_path in (None, "-") else Path(str(self.json_path))
        return Destinations(main), Destinations({".json": copy})
