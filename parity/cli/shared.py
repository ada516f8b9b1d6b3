"""What the commands share: factories by name, report files, torch's threads."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from parity.report.markdown import github_annotations
from parity.verdict import Report


def load_factory(option: str, spec: str) -> Callable[[], Any]:
    """Import `pkg.mod:factory`; the current folder is searched first, as by `python -m`."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise click.UsageError(f"{option} {spec}: write it as package.module:factory.")
    sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"{option} {spec}: {error}.") from error
    if not callable(factory):
        raise click.UsageError(f"{option} {spec}: {name} is a {type(factory).__name__}, not a factory.")
    return factory


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
    """The files that a report is written to, by suffix; checked before any work is done."""

    paths: Mapping[str, Path]  # {".html": Path("report.html")}

    def __post_init__(self) -> None:
        for suffix, path in self.paths.items():
            check_destination(path, suffix)

    def clear(self) -> None:
        """Remove what lies there: if this run fails, no older report may be taken for its own."""
        for path in self.paths.values():
            path.unlink(missing_ok=True)

    def write(self, report: Report) -> None:
        """Write every file that was asked for."""
        faces = {".json": report.to_json, ".xml": report.to_junit, ".md": report.to_markdown}
        for suffix, path in self.paths.items():
            if suffix == ".html":
                report.to_html(path)
            else:
                path.write_text(faces[suffix](), encoding="utf-8")


def tell_github(report: Report, echo: Callable[[str], Any]) -> None:
    """Add to a GitHub Actions job its summary and an annotation per case that failed; elsewhere, do nothing."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(report.to_markdown())
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(report):
            echo(line)


def one_torch_thread() -> contextlib.AbstractContextManager[None]:
    """Let torch compute on one thread, if it is there."""
    if importlib.util.find_spec("torch") is None:
        return contextlib.nullcontext()  # the cases will say that it is missing
    from parity.running.torch_side import one_thread

    return one_thread()
