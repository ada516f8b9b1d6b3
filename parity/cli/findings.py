"""`parity findings`: what other libraries' networks, optimizers and losses are to torch's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from parity.cli.shared import FILE, check_destination, one_torch_thread
from parity.gallery.entries import ENTRIES
from parity.gallery.entry import Entry, Finding, judge_entry
from parity.gallery.page import diagnosis_of, to_markdown
from parity.verdict import ERROR, EXIT_ENVIRONMENT, EXIT_ERROR, EXIT_INCONCLUSIVE, INCONCLUSIVE, NOT_RUN


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--output",
    type=FILE,
    help="Also write the page here, for instance docs/findings.md.",
)
def findings(names: tuple[str, ...], output: Path | None) -> None:
    """Judge other libraries by torch: all entries, or those of some NAMEs (nnx, optax.adam).

    A verdict on another library is no error: the exit code is 0 when every entry could be judged, 2 when one could
    not be run, 3 when one is not decided, 4 when no library to judge is installed. Those that are not installed are
    named and skipped.
    """
    chosen = choose(names)
    if output is not None:
        check_destination(output, ".md")
    found = []
    with one_torch_thread():
        for entry in chosen:
            found.append(judge_entry(entry))
            click.echo(_line(found[-1]))
    if output is not None:
        output.write_text(to_markdown(found), encoding="utf-8")
        click.echo(f"page: {output}")
    sys.exit(exit_code(found))


def choose(names: Sequence[str]) -> list[Entry]:
    """Return the entries of these names, each an id or the part of it before the first dot; all for none."""
    known = {entry.id for entry in ENTRIES} | {entry.id.partition(".")[0] for entry in ENTRIES}
    for name in names:
        if name not in known:
            groups = sorted(name for name in known if "." not in name)
            raise click.UsageError(f"no entry is called {name!r}; groups are {', '.join(groups)}.")
    return [e for e in ENTRIES if not names or e.id in names or e.id.partition(".")[0] in names]


def exit_code(found: Sequence[Finding]) -> int:
    """Return 0 if every entry whose library is installed could be judged, and at least one was."""
    verdicts = {finding.result.verdict for finding in found}
    if ERROR in verdicts:
        return EXIT_ERROR
    if verdicts <= {NOT_RUN}:
        return EXIT_ENVIRONMENT
    return EXIT_INCONCLUSIVE if INCONCLUSIVE in verdicts else 0


def _line(finding: Finding) -> str:
    result = finding.result
    errors = (result.error, *(comparison.error for comparison in result.comparisons))
    more = result.not_run or next(filter(None, errors), None) or diagnosis_of(finding)
    return f"{finding.entry.id:34} {result.verdict:12} {more}".rstrip()
