"""`parity check`: a user's own pair of models."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from parity.cases import INSTALL
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import load_factory, one_torch_thread
from parity.environment import environment
from parity.gates import PRECISIONS
from parity.inputs import Drawn, ambiguous_axes, parse_input, probes_of, with_batch
from parity.judge import judge_models, port
from parity.probe import SETS, Probe
from parity.verdict import CaseResult, Report
from parity.weighing import put_in_words, require_models

Weights = str | None  # "own", "ported", or None: drawn by the probes


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Question`, as its keywords."""
    options = (
        click.option(
            "--inputs", metavar="PKG.MOD:FACTORY", help="Makes a Probe, a list of them, a tuple or dict."
        ),
        click.option(
            "--input",
            "shapes",
            metavar="NAME=SHAPE",
            multiple=True,
            help="An argument to draw, as x=5,9,3, ids=int:5,9<100 or mask=bool:5,9; repeat it for more.",
        ),
        click.option(
            "--probe", "probe_set", type=click.Choice(SETS), help="One scale or three.  [default: designed]"
        ),
        click.option("--seed", type=click.IntRange(min=0), help="Seed of every draw.  [default: 0]"),
        click.option(
            "--dtype", type=click.Choice(sorted(PRECISIONS)), help="Precision under test.  [default: float32]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True)
class Question:
    """What is put to the models, as the options say it: a factory of inputs, or their shapes."""

    inputs: str | None
    shapes: tuple[str, ...]
    probe_set: str | None
    seed: int | None
    dtype: str | None

    def prepared(self, own_weights: bool) -> Callable[[Any], list[Probe]]:
        """Return the function that makes probes for a reference; what is wrong with the options is said now."""
        if (self.inputs is None) == (not self.shapes):
            raise click.UsageError("say what the models are called with: either --inputs or --input x=5,9,3.")
        given = {"probe_set": self.probe_set, "seed": self.seed, "dtype": self.dtype}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.inputs is None:
            arguments = dict(_parsed(text) for text in self.shapes)
            if len(arguments) < len(self.shapes):
                raise click.UsageError(f"--input names an argument twice: {', '.join(self.shapes)}.")
            return Drawn(arguments, own_weights=own_weights, **options).probes
        factory = load_factory("--inputs", self.inputs)

        def probes(reference: Any) -> list[Probe]:
            made = factory()
            if options and _are_probes(made):
                raise click.UsageError(
                    f"the probes of --inputs bring their own {', '.join(options)}: leave these options out."
                )
            return probes_of(made, own_weights=own_weights, **options)

        return probes


def _parsed(text: str) -> tuple[str, Any]:
    try:
        return parse_input(text)
    except ValueError as error:
        raise click.UsageError(f"--input {error}") from error


def _are_probes(made: Any) -> bool:
    return isinstance(made, Probe) or (
        isinstance(made, list) and any(isinstance(each, Probe) for each in made)
    )


@click.command()
@click.option("--reference", required=True, metavar="PKG.MOD:FACTORY", help="Makes the torch.nn.Module.")
@click.option("--candidate", required=True, metavar="PKG.MOD:FACTORY", help="Makes the flax.nnx.Module.")
@click.option(
    "--port",
    "weights",
    flag_value="ported",
    help="Judge with the reference's weights, copied by torch's names.  [default: with drawn ones]",
)
@click.option(
    "--own-weights", "weights", flag_value="own", help="Judge with the weights that each model has."
)
@question_options
@report_options
def check(
    reference: str,
    candidate: str,
    weights: Weights,
    inputs: str | None,
    shapes: tuple[str, ...],
    probe_set: str | None,
    seed: int | None,
    dtype: str | None,
    **destinations: Any,
) -> None:
    """Judge a model of your own by the one that it was ported from.

    The reference's weights must fit the candidate by torch's names. The models are then run with weights drawn at
    three scales, biases too, because the weights of a new model hide bugs. With --port or --own-weights, nothing
    but the inputs is drawn, at three scales.
    """
    publisher = Publisher(**destinations)
    question = Question(inputs, shapes, probe_set, seed, dtype)
    publisher.clear()
    if importlib.util.find_spec("torch") is None:
        missing = CaseResult("check", reference, not_run=f"torch not installed; {INSTALL['torch']}")
        _finish(publisher, missing, time.perf_counter())
    factories = load_factory("--candidate", candidate), load_factory("--reference", reference)
    ask = question.prepared(own_weights=weights is not None)
    started = time.perf_counter()
    with one_torch_thread():
        result = _check(f"{candidate} against {reference}", factories, ask, weights, publisher.say)
    _finish(publisher, result, started)


def _finish(publisher: Publisher, result: CaseResult, started: float) -> None:
    report = Report((result,), environment(), time.perf_counter() - started)
    publisher.publish(report)
    sys.exit(report.exit_code)


def _check(
    summary: str,
    factories: Sequence[Callable[[], Any]],
    ask: Callable[[Any], list[Probe]],
    weights: Weights,
    say: Callable[[str], None],
) -> CaseResult:
    """Build both models and put the question to them."""
    try:
        candidate, reference = (factory() for factory in factories)
        require_models(candidate, reference)
        misfit = None if weights == "own" else _misfit(candidate, reference)
        probes = ask(reference)
        notes = _notes(probes)
    except click.UsageError:
        raise
    except Exception as error:
        return CaseResult("check", summary, error=put_in_words(error))
    with contextlib.suppress(Exception):  # where the reference cannot answer, the judge will say so
        probes, assumed = with_batch(reference, probes)
        notes = [assumed, *notes]
    for note in (*notes, misfit):
        if note is not None:
            say(note)
    notes += [] if misfit is None else [" ".join(misfit.split())]
    result = judge_models("check", summary, candidate, reference, probes)
    return dataclasses.replace(result, notes=(*result.notes, *notes))


def _misfit(candidate: Any, reference: Any) -> str | None:
    """Copy the reference's weights into the candidate; say what does not fit and how to map it."""
    try:
        port(reference, candidate)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return (
            f"the reference's weights do not fit the candidate by torch's names: {error}\n"
            "The attributes of the candidate must be called as in the reference."
        )
    return None


def _notes(probes: Sequence[Probe]) -> list[str]:
    ambiguous = ambiguous_axes(probes)
    if not ambiguous:
        return []
    return [f"axes of one size can be swapped unnoticed: {', '.join(ambiguous)}; make all sizes different"]
