"""`parity capture` and `parity compare`: the two sides on two machines, the verdict on a third."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from parity.capture import Subject, capture_candidate, capture_reference, require_reference
from parity.cases import CASES, Case
from parity.cli.check_models import Question, question_options
from parity.cli.factories import load_model
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import given, one_torch_thread
from parity.dumps import REFERENCE, DumpError, compare_dumps, read, require_new
from parity.inputs import with_batch
from parity.probe import Probe
from parity.verdict import EXIT_ENVIRONMENT, EXIT_ERROR
from parity.weighing import put_in_words

_FOLDER = click.Path(file_okay=False, path_type=Path)
_OUT = click.option("-o", "--out", "folder", type=_FOLDER, required=True, help="A new folder for the dump.")


class _FailureError(click.ClickException):
    """Something other than the command line is wrong; click's own code, 1, would say DIVERGENT."""

    exit_code = EXIT_ERROR


@click.group()
def capture() -> None:
    """Write down one side of a comparison, where PyTorch and JAX are not on one machine.

    First the reference, then the candidate from the reference's dump, then `parity compare`.
    """


@capture.command("reference")
@click.argument("cases", nargs=-1, metavar="[CASE]...")
@click.option("--reference", metavar="PKG.MOD:NAME", help="Makes a torch.nn.Module, instead of a CASE.")
@click.option("--own-weights", is_flag=True, help="Keep the weights of --reference instead of drawing some.")
@question_options
@_OUT
def capture_a_reference(
    cases: tuple[str, ...], reference: str | None, own_weights: bool, folder: Path, **options: Any
) -> None:
    """Run registered cases, or a model of your own, where there is torch; JAX is not needed."""
    if bool(cases) == (reference is not None):
        raise click.UsageError("name either a CASE (`parity list` shows them) or a --reference.")
    question = Question(**options)
    if reference is not None:
        factory, ask = load_model("--reference", reference), question.prepared(own_weights)

        def subjects() -> list[Subject]:
            return [_subject(reference, factory, ask)]
    else:
        chosen = _chosen(cases)
        if given("own_weights", "inputs", "shapes", "dtype"):
            raise click.UsageError(
                "a CASE brings its own inputs; --own-weights, --inputs, ... go with --reference."
            )
        drawn = (question.probe_set, question.seed)

        def subjects() -> list[Subject]:
            return [Subject(c.id, c.summary, c.reference(), c.probes(*drawn)) for c in chosen]

    def write() -> None:
        capture_reference(subjects(), folder, click.echo)

    _capture(write, folder)


@capture.command("candidate")
@click.option("--from", "source", type=_FOLDER, required=True, help="The dump of the reference.")
@click.option("--candidate", metavar="PKG.MOD:NAME", help="Makes the nnx.Module; a CASE has one of its own.")
@click.option(
    "--own-weights", is_flag=True, help="Keep the candidate's weights instead of taking the dump's."
)
@_OUT
def capture_a_candidate(source: Path, candidate: str | None, own_weights: bool, folder: Path) -> None:
    """Run the candidate on what was put to the reference, where there is JAX; torch is not needed."""
    factory = None if candidate is None else load_model("--candidate", candidate)

    def write() -> None:
        ids = [case["id"] for case in read(source, REFERENCE).cases]
        if factory is None:
            candidates = {case.id: case.candidate() for case in _chosen(ids)}
        elif len(ids) == 1:
            candidates = {ids[0]: factory()}
        else:
            raise DumpError(f"{source}: holds {ids}; one --candidate needs a dump of one case.")
        capture_candidate(candidates, source, folder, own_weights=own_weights, progress=click.echo)

    _capture(write, folder)


@click.command()
@click.argument("candidate", type=_FOLDER)
@click.argument("reference", type=_FOLDER)
@report_options
def compare(candidate: Path, reference: Path, **destinations: Any) -> None:
    """Judge the dump of a CANDIDATE by that of the REFERENCE. Needs neither torch nor JAX.

    Where click and rich are missing as well, it prints plain text.
    """
    publisher = Publisher(**destinations)
    publisher.clear()
    try:
        report = compare_dumps(candidate, reference)
    except DumpError as error:
        raise _FailureError(str(error)) from error
    publisher.publish(report)
    sys.exit(report.exit_code)


def _subject(name: str, factory: Callable[[], Any], ask: Callable[[Any], list[Probe]]) -> Subject:
    model = factory()
    require_reference(model)
    probes, assumed = with_batch(model, ask(model))
    click.echo(f"note: {assumed}")
    return Subject("check", name, model, probes)


def _capture(write: Callable[[], None], folder: Path) -> None:
    """Write a dump; what goes wrong is told with its place, and leaves nothing behind."""
    try:
        require_new(folder)
        with one_torch_thread():
            write()
    except click.ClickException:
        raise
    except DumpError as error:
        raise _FailureError(str(error)) from error
    except ModuleNotFoundError as error:
        click.echo(f"Error: {error.name} is not installed, and this model or its probes need it.", err=True)
        sys.exit(EXIT_ENVIRONMENT)
    except Exception as error:
        raise _FailureError(put_in_words(error)) from error
    click.echo(f"dump: {folder}")


def _chosen(names: Sequence[str]) -> list[Case]:
    known = {case.id: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        remedy = "name a registered case (`parity list`), or your own model with --reference and --candidate"
        raise click.UsageError(f"no case is called {', '.join(unknown)}; {remedy}.")
    return [known[name] for name in dict.fromkeys(names)]
