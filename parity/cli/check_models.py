"""`parity check`: a user's own pair of models."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from parity.cli.factories import load_factory, load_model
from parity.cli.reporting import Publisher, report_options
from parity.cli.shared import draw_options, given, one_torch_thread, read_call, torch_missing
from parity.gates import PRECISIONS
from parity.inputs import Drawn, ambiguous_axes, parse_input, probes_of, with_batch
from parity.judge import judge_models, port
from parity.probe import Probe
from parity.verdict import CaseResult
from parity.weighing import put_in_words, require_models


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Question`, as its keywords."""
    options = (
        click.option(
            "--inputs", metavar="PKG.MOD:NAME", help="Makes a Probe, a list of them, a tuple or dict."
        ),
        click.option(
            "--input",
            "shapes",
            metavar="NAME=SHAPE",
            multiple=True,
            help="An argument to draw, as x=5,9,3, ids=int:5,9<100 or mask=bool:5,9; repeat it for more.",
        ),
        draw_options,
        click.option(
            "--dtype",
            type=click.Choice(sorted(PRECISIONS)),
            default="float32",
            show_default=True,
            help="Precision under test.",
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
    probe_set: str
    seed: int
    dtype: str

    def prepared(self, own_weights: bool) -> Callable[[Any], list[Probe]]:
        """Return the function that makes probes for a reference; what is wrong with the options is said now."""
        if (self.inputs is None) == (not self.shapes):
            raise click.UsageError("say what the models are called with: either --inputs or --input x=5,9,3.")
        options: dict[str, Any] = {"probe_set": self.probe_set, "seed": self.seed, "dtype": self.dtype}
        if self.inputs is None:
            arguments = dict(read_call(_argument, text) for text in self.shapes)
            if len(arguments) < len(self.shapes):
                raise click.UsageError(f"--input names an argument twice: {', '.join(self.shapes)}.")
            return Drawn(arguments, own_weights=own_weights, **options).probes
        factory, stated = load_factory("--inputs", self.inputs), given(*options)

        def probes(reference: Any) -> list[Probe]:
            made = factory()
            if stated and _are_probes(made):
                raise click.UsageError(
                    f"the probes of --inputs bring their own {', '.join(stated)}: leave these options out."
                )
            if "probe_set" in stated and own_weights:
                raise click.UsageError(
                    "--probe: neither inputs nor weights are drawn; leave this option out."
                )
            return probes_of(made, own_weights=own_weights, **options)

        return probes


def _argument(text: str) -> tuple[str, Any]:
    try:
        return parse_input(text)
    except ValueError as error:
        raise ValueError(f"--input {error}") from error


def _are_probes(made: Any) -> bool:
    return isinstance(made, Probe) or (
        isinstance(made, list) and any(isinstance(each, Probe) for each in made)
    )


@click.command()
@click.option("--reference", required=True, metavar="PKG.MOD:NAME", help="Makes the torch.nn.Module.")
@click.option("--candidate", required=True, metavar="PKG.MOD:NAME", help="Makes the flax.nnx.Module.")
@click.option(
    "--port",
    "ported",
    is_flag=True,
    help="Judge with the reference's weights, copied by torch's names.  [default: with drawn ones]",
)
@click.option("--own-weights", "own", is_flag=True, help="Judge with the weights that each model has.")
@click.option(
    "--eval", "evaluating", is_flag=True, help="Judge in evaluation mode, in which nothing is dropped."
)
@question_options
@report_options
def check(
    reference: str,
    candidate: str,
    ported: bool,
    own: bool,
    evaluating: bool,
    inputs: str | None,
    shapes: tuple[str, ...],
    probe_set: str,
    seed: int,
    dtype: str,
    **destinations: Any,
) -> None:
    """Judge a model of your own by the one that it was ported from.

    The reference's weights must fit the candidate by torch's names. The models are then run with weights drawn at
    three scales, biases too, because the weights of a new model hide bugs. With --port or --own-weights, nothing
    but the inputs is drawn, at three scales.

    A name, PKG.MOD:NAME or FILE.py:NAME, is that of a function or a class that needs no arguments. A class of Flax
    may need `rngs`, and is given nnx.Rngs(0): its weights are replaced by what is drawn or, with --port, by the
    reference's. With --own-weights they would stay as they are made, so name a function that loads them.

    Models are judged in the mode in which they are made, which is that of training: two that drop need --eval, or a
    factory that calls eval().
    """
    publisher = Publisher(**destinations)
    question = Question(inputs, shapes, probe_set, seed, dtype)
    if ported and own:
        raise click.UsageError(
            "--port takes the reference's weights and --own-weights each model's: give one."
        )
    publisher.clear()
    started = time.perf_counter()
    missing = torch_missing()
    if missing:
        publisher.finish([CaseResult("check", reference, not_run=missing)], started)
    made = load_model("--candidate", candidate), load_model("--reference", reference)
    factories = [partial(_evaluating, factory) for factory in made] if evaluating else made
    ask = question.prepared(own_weights=ported or own)
    with one_torch_thread():
        result = _check(f"{candidate} against {reference}", factories, ask, own, publisher.say)
    publisher.finish([result], started)


def _check(
    summary: str,
    factories: Sequence[Callable[[], Any]],
    ask: Callable[[Any], list[Probe]],
    own_weights: bool,
    say: Callable[[str], None],
) -> CaseResult:
    """Build both models and put the question to them."""
    try:
        candidate, reference = (factory() for factory in factories)
        require_models(candidate, reference)
        misfit = None if own_weights else _misfit(candidate, reference)
        probes = ask(reference)
        notes = _notes(probes)
    except click.UsageError:
        raise
    except Exception as error:
        return CaseResult("check", summary, error=put_in_words(error))
    with contextlib.suppress(Exception):  # where the reference cannot answer, the judge will say so
        probes, assumed = with_batch(reference, probes)
        notes = [assumed, *notes]
    if misfit is not None:
        say(misfit)
        notes = [" ".join(misfit.split()), *notes]
    result = judge_models("check", summary, candidate, reference, probes)
    return dataclasses.replace(result, notes=(*result.notes, *notes))


def _evaluating(factory: Callable[[], Any]) -> Any:
    model = factory()
    model.eval()
    return model


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
