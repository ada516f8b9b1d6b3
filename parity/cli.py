"""The command line: `parity run`, `parity list`, `parity env`.

Exit codes: 0 equivalent, 1 divergent, 2 usage or harness error, 3 inconclusive, 4 a package is missing,
5 nothing compared. When several apply: 2, then 1, 4, 5, 3.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from parity.cases import CASES, Case
from parity.environment import environment
from parity.judge import judge_case
from parity.probe import SCALES, SETS
from parity.report.json_report import to_json
from parity.report.terminal import make_console, show
from parity.verdict import EXIT_ERROR, CaseResult, Report


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


@main.command()
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--candidate", metavar="PKG.MOD:FACTORY", help="Judge this model against the one CASE named.")
@click.option("--probe", "probe_set", type=click.Choice(SETS), default="designed", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw.")
@click.option("--json", "json_path", metavar="PATH|-", help="Also write the JSON report here; - is stdout.")
@click.option(
    "--report",
    "report_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("parity-report.json"),
    show_default=True,
    help="Where the report file is written (.json).",
)
@click.option("-v", "--verbose", is_flag=True, help="List every tensor, not only those that failed.")
def run(
    cases: tuple[str, ...],
    candidate: str | None,
    probe_set: str,
    seed: int,
    json_path: str | None,
    report_path: Path,
    verbose: bool,
) -> None:
    """Judge registered cases; all of them where none is named."""
    chosen = _choose(cases)
    _check_destination(report_path)
    if json_path not in (None, "-"):
        _check_destination(Path(str(json_path)))
    factory = None
    if candidate is not None:
        if len(chosen) != 1:
            raise click.UsageError(
                "--candidate is judged against one case: name it, as in --candidate m:f lstm."
            )
        factory = _load(candidate)

    for path in (report_path, json_path):
        if path not in (None, "-"):  # if this run fails, no older report may be taken for its own
            Path(str(path)).unlink(missing_ok=True)
    started = time.perf_counter()
    with _one_torch_thread():
        results = _judge(chosen, probe_set, seed, factory)
        report = Report(results, environment(), time.perf_counter() - started)

    text = to_json(report)
    report_path.write_text(text, encoding="utf-8")
    console = make_console(stderr=json_path == "-")
    show(report, console, verbose=verbose)
    console.print(f"report: {report_path}")
    if json_path == "-":
        click.echo(text, nl=False)
    elif json_path is not None:
        Path(json_path).write_text(text, encoding="utf-8")
    sys.exit(report.exit_code)


@main.command("list")
def list_cases() -> None:
    """List the registered cases."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("case", "what is compared", "needs"):
        table.add_column(heading, no_wrap=heading == "case")
    for case in CASES:
        table.add_row(case.id, case.summary, case.missing() or "ready")
    make_console().print(table)


@main.command()
def env() -> None:
    """Show versions, devices, precisions and threads: what decides about numbers."""
    for name in ("jax", "torch"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in environment().items():
        table.add_row(name, value)
    make_console().print(table)


def _judge(
    cases: Sequence[Case], probe_set: str, seed: int, factory: Callable[[], Any] | None
) -> tuple[CaseResult, ...]:
    """Run the cases one after the other, with progress on stderr."""
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases) * len(SCALES[probe_set]))
        for number, case in enumerate(cases, start=1):
            progress.update(task, description=case.id)
            results.append(
                judge_case(case, probe_set, seed, candidate=factory, progress=lambda: progress.advance(task))
            )
            progress.update(task, completed=number * len(SCALES[probe_set]))
    return tuple(results)


def _one_torch_thread() -> contextlib.AbstractContextManager[None]:
    if importlib.util.find_spec("torch") is None:
        return contextlib.nullcontext()  # the cases will say that it is missing
    from parity.torch_side import one_thread

    return one_thread()


def _choose(names: tuple[str, ...]) -> list[Case]:
    known = {case.id: case for case in CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`parity list` shows the cases."
            raise click.UsageError(f"no case is called {name!r}; {hint}")
    return [known[name] for name in dict.fromkeys(names)] or list(CASES)


def _load(spec: str) -> Callable[[], Any]:
    """Import `pkg.mod:factory`; the current folder is searched first, as by `python -m`."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise click.UsageError(f"--candidate {spec}: write it as package.module:factory.")
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"--candidate {spec}: {error}.") from error
    if not callable(factory):
        raise click.UsageError(f"--candidate {spec}: {name} is a {type(factory).__name__}, not a factory.")
    return factory


def _check_destination(path: Path) -> None:
    """Refuse, before any work is done, a report that could not be written or read back."""
    if path.suffix != ".json":
        raise click.UsageError(
            f"{path}: reports are written as JSON; name it {path.with_suffix('.json').name}."
        )
    if not path.absolute().parent.is_dir():
        raise click.UsageError(
            f"{path}: the folder {path.absolute().parent} does not exist; create it first."
        )
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise click.UsageError(f"{path}: not writable; choose another place with --report.")


if __name__ == "__main__":
    main()
