"""Names what is wrong: the hypothesis that explains a candidate down to rounding error.

A hypothesis is the reference with one known mistake, computed in float64 on the same probes. It explains a
candidate if every output, state and gradient is within a few times the semantic limit of it, on every probe. One
that does is the diagnosis; of several that do, none can be preferred by these probes, and all are reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from torch import nn

from parity.explaining import inversion
from parity.explaining.misfit import Answer, misfit
from parity.faults import FUNCTIONS, RECURRENT, Fault, Substitution, parameters, sites
from parity.gates import Array
from parity.longhand import surface, torch_modules
from parity.longhand.recurrent import Network, Place
from parity.oracle.evidence import Evidence
from parity.running import torch_side
from parity.trace import AMPLIFYING
from parity.verdict import EXPLAINS, Diagnosis, Explanation

PATIENCE = 20.0  # seconds for the second round of hypotheses


@dataclass(frozen=True)
class Hypothesis:
    """A reference with one mistake (or two): `plant` returns a copy of the model that makes it."""

    id: str
    name: str
    fix: str
    plant: Callable[[nn.Module], nn.Module] = field(repr=False, compare=False)


class Dictionary:
    """The traces of hypotheses, each computed once per probe, for any number of candidates."""

    def __init__(self) -> None:
        self._traces: dict[tuple[int, Hypothesis], Mapping[str, Array] | None] = {}
        self._kept: list[Evidence] = []  # so that no id is used twice

    def trace(self, hypothesis: Hypothesis, evidence: Evidence) -> Mapping[str, Array] | None:
        """Return what the reference would answer with this mistake; None if it could not be run."""
        key = (id(evidence), hypothesis)
        if key not in self._traces:
            self._kept.append(evidence)
            try:
                model = hypothesis.plant(evidence.model)
                self._traces[key] = torch_side.run(model, evidence.probe, "float64").of_kind(*AMPLIFYING)
            except Exception:  # a mistake may well make shapes collide; then it is not the explanation
                self._traces[key] = None
        return self._traces[key]


def diagnose(answers: Sequence[Answer], dictionary: Dictionary | None = None) -> Diagnosis | None:
    """Return what explains a candidate's answers; None where there is no hypothesis about the model at all."""
    dictionary = dictionary or Dictionary()
    evidence = answers[0].evidence
    if max(misfit(answer, answer.evidence.oracle.of_kind(*AMPLIFYING)) for answer in answers) <= EXPLAINS:
        return None  # as near to the reference as any hypothesis could be: a matter of precision
    scores = _score(hypotheses(evidence), answers, dictionary)
    further: Sequence[Explanation] = ()
    if not _explaining(scores):
        further = inversion.fits(answers)
    if not _explaining(scores) and not further:
        deadline = time.perf_counter() + PATIENCE
        scores |= _score(local_hypotheses(evidence), answers, dictionary, deadline)
        scores |= _score(confined_hypotheses(evidence.model), answers, dictionary, deadline)
    if not _explaining(scores) and not further:
        further = inversion.relations(answers)
    return _conclude(scores, further) if scores or further else None


def _conclude(scores: Mapping[Hypothesis, float], further: Sequence[Explanation] = ()) -> Diagnosis:
    ranked = sorted(scores, key=lambda hypothesis: scores[hypothesis])
    explaining = _explaining(scores)
    others = [hypothesis for hypothesis in ranked if hypothesis not in explaining]
    return Diagnosis(
        (*(_explanation(hypothesis, scores[hypothesis]) for hypothesis in explaining), *further),
        _explanation(others[0], scores[others[0]]) if others else None,
        len(scores),
    )


def _explanation(hypothesis: Hypothesis, misfit: float) -> Explanation:
    return Explanation(hypothesis.id, hypothesis.name, hypothesis.fix, misfit)


def _explaining(scores: Mapping[Hypothesis, float]) -> list[Hypothesis]:
    return sorted(
        (hypothesis for hypothesis, misfit in scores.items() if misfit <= EXPLAINS), key=lambda h: scores[h]
    )


def _score(
    tried: Iterable[Hypothesis],
    answers: Sequence[Answer],
    dictionary: Dictionary,
    deadline: float = float("inf"),
) -> dict[Hypothesis, float]:
    """Return the misfit of each hypothesis, the largest over all probes."""
    scores = {}
    for hypothesis in tried:
        if time.perf_counter() > deadline:
            break
        scores[hypothesis] = worst_misfit(hypothesis, answers, dictionary)
    return scores


def worst_misfit(hypothesis: Hypothesis, answers: Sequence[Answer], dictionary: Dictionary) -> float:
    """Return how far a hypothesis is from the candidate, in units of the semantic limit."""
    worst = 0.0
    for answer in answers:
        supposed = dictionary.trace(hypothesis, answer.evidence)
        worst = max(worst, np.inf if supposed is None else misfit(answer, supposed))
        if worst > 1e3 * EXPLAINS:
            break  # it is out; the other probes could only say so again
    return worst


# Hypotheses -----------------------------------------------------------------------------------------------


def hypotheses(evidence: Evidence) -> Iterator[Hypothesis]:
    """Yield every known mistake with which this model could have been ported."""
    networks = _networks(evidence.model)
    for fault in RECURRENT:
        if any(map(fault.possible, networks)):
            yield _hypothesis(fault)
    for substitution in _possible_functions(evidence.model):
        if evidence.functions.intersection(substitution.functions):
            yield Hypothesis(substitution.id, substitution.name, substitution.fix, substitution.plant)


def local_hypotheses(evidence: Evidence) -> Iterator[Hypothesis]:
    """Yield mistakes in reading one parameter, and those that are made in one line of the model only."""
    model = evidence.model
    for fault in (*parameters.faults(model), *sites.faults(evidence.answer, _possible_functions(model))):
        yield Hypothesis(fault.id, fault.name, fault.fix, fault.plant)


def confined_hypotheses(model: nn.Module) -> Iterator[Hypothesis]:
    """Yield the same mistakes, made in one layer or in one direction only."""
    networks = _networks(model)
    layers = max((network.layers for network in networks), default=0)
    directions = max((network.directions for network in networks), default=0)
    places: list[tuple[str, Callable[[Place], bool]]] = []
    if layers > 1:
        places += [(f"layer {n}", partial(_in_layer, n)) for n in range(layers)]
    if directions > 1:
        places += [("the forward direction", partial(_in_direction, 0))]
        places += [("the reverse direction", partial(_in_direction, 1))]
    for fault in RECURRENT:
        if any(map(fault.possible, networks)):
            yield from (_hypothesis(fault.confined(where), f", in {words} only") for words, where in places)


def _in_layer(number: int, at: Place) -> bool:
    return at.layer == number


def _in_direction(number: int, at: Place) -> bool:
    return at.direction == number


def _hypothesis(fault: Fault, where: str = "") -> Hypothesis:
    return Hypothesis(
        fault.id,
        fault.name + where,
        fault.fix,
        lambda model: torch_modules.plant(model, lambda name, network: fault.recipe(network)),
    )


def _possible_functions(model: nn.Module) -> list[Substitution]:
    return [substitution for substitution in FUNCTIONS if substitution.possible(model)]


def _networks(model: nn.Module) -> list[Network]:
    return [surface.network_of(part) for part in torch_modules.recurrent_parts(model).values()]
