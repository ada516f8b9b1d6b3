"""What the judge found, as frozen values: a tensor, a comparison, a case, a report.

Standard library only. A report is made of cases, a case of comparisons (one per probe), a comparison of
tensors, and every verdict above a tensor follows from those below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from parity.report.sections import Section

EQUIVALENT = "EQUIVALENT"  # every expected array passed every gate
INCONCLUSIVE = "INCONCLUSIVE"  # nothing is known to be wrong, and nothing is proven
DIVERGENT = "DIVERGENT"  # at least one array is not what the reference computes
ERROR = "ERROR"  # the harness could not judge
NOT_RUN = "NOT RUN"  # a case whose packages are missing; never counts as a pass

EXPLAINS = (
    16.0  # times a limit, between a candidate and what explains it; honest pairs: 0.4, wrong names: 1e4
)
AGREES = 1e-9  # of a quantity's size: less apart is the same; two honest float64 runs are apart by 1e-13

UNNAMED = "-"  # the name of an array on the side that has none of its name

_SEVERITY = (EQUIVALENT, NOT_RUN, INCONCLUSIVE, DIVERGENT, ERROR)

EXIT_EQUIVALENT, EXIT_DIVERGENT, EXIT_ERROR, EXIT_INCONCLUSIVE, EXIT_ENVIRONMENT, EXIT_NOTHING = range(6)


def worst(verdicts: Iterable[str]) -> str:
    """Return the gravest of some verdicts; of none at all, INCONCLUSIVE: no evidence is not a pass."""
    return max(verdicts, key=_SEVERITY.index, default=INCONCLUSIVE)


@dataclass(frozen=True)
class Element:
    """One element of a tensor that failed, as each of the four arrays has it."""

    index: tuple[int, ...]
    candidate: float
    reference: float | None
    oracle: float | None


@dataclass(frozen=True)
class Sample:
    """Some elements of an array, with how far either side is from the oracle there: what the plots show.

    Evenly spread over the elements by their size; the candidate's worst is always among them. `candidate_steps`
    and `reference_steps` are rms errors at each step, where the array is known to have an axis of steps.
    """

    size: tuple[float, ...]  # |o|, never zero
    candidate: tuple[float, ...]  # |c - o|
    reference: tuple[float, ...]  # |r - o|
    candidate_steps: tuple[float, ...] = ()
    reference_steps: tuple[float, ...] = ()


@dataclass(frozen=True)
class TensorResult:
    """The verdict on one array and the numbers behind it; `None` is "not measured", never "fine".

    `name` is the reference's (torch's) name and `candidate_name` the candidate's own, for example
    `grad(rnn.weight_hh_l0)` and `grad(rnn.weight_hh_l0)`, or `fc.weight` and `fc.kernel`; that of the side which
    has no such array is UNNAMED.
    """

    name: str
    candidate_name: str
    kind: str
    verdict: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    compared: bool = True  # False: the arrays could not be set side by side (a name or a shape is wrong)
    gate: str | None = None  # the gate that decided, where the verdict is not EQUIVALENT
    message: str = ""
    semantic_error: float | None = None  # rms(c64 - o) / rms(o)
    semantic_limit: float | None = None
    rho_rms: float | None = None  # candidate's error over the reference's, both against the oracle
    rho_max: float | None = None
    rho_limits: tuple[float, float] | None = None
    bias: float | None = None  # mean(c - o), in units of roundoff of rms(o)
    reference_error: float | None = None  # rms(r - o) / rms(o), in units of roundoff
    first: Element | None = None  # first element outside the limit, in C order
    worst: Element | None = None  # the element furthest outside
    semantic_sensitivity: float | None = None  # a larger relative (rms) change would have been detected
    numeric_sensitivity: float | None = None
    sample: Sample | None = field(default=None, repr=False)

    @property
    def semantic_ratio(self) -> float | None:
        """The semantic error as a multiple of its limit."""
        if self.semantic_error is None or self.semantic_limit is None:
            return None
        return self.semantic_error / self.semantic_limit

    @property
    def unexpected(self) -> bool:
        """Whether only the candidate has the array; the reference's are the ones that are counted as expected."""
        return self.name == UNNAMED


@dataclass(frozen=True)
class Comparison:
    """One probe put to both models. EQUIVALENT needs every expected tensor compared, and at least one."""

    name: str
    tensors: tuple[TensorResult, ...] = ()
    expected: int = 0
    tiers: tuple[str, ...] = ()
    oracle: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None
    seconds: float = 0.0
    probe: Mapping[str, Any] = field(default_factory=dict)  # what was asked: shapes, seed, scale

    @property
    def compared(self) -> int:
        """How many tensors could be set side by side."""
        return sum(tensor.compared for tensor in self.tensors)

    @property
    def verdict(self) -> str:
        """The gravest verdict of the tensors."""
        if self.error is not None:
            return ERROR
        found = worst(tensor.verdict for tensor in self.tensors)
        if found == EQUIVALENT and not self.compared == self.expected > 0:
            return INCONCLUSIVE
        return found

    @property
    def failures(self) -> tuple[TensorResult, ...]:
        """The tensors that did not pass, in the order in which the data flows."""
        return tuple(tensor for tensor in self.tensors if tensor.verdict != EQUIVALENT)


class Node(NamedTuple):
    """A quantity of one step, for instance the forget gate's pre-activation: `Node("rnn", 1, 0, 3, "z_f")`."""

    part: str  # the recurrent layer's or cell's name in the reference
    layer: int
    direction: int  # 0 forward, 1 reverse
    step: int  # in time, also in the reverse direction
    quantity: str  # z_f and so on (pre-activations), f (gates), c, h

    def __str__(self) -> str:
        part = f"{self.part}: " if self.part else ""
        direction = ("forward", "reverse")[self.direction]
        return f"{part}layer {self.layer} {direction}, t={self.step}, {_in_words(self.quantity)}"


def _in_words(quantity: str) -> str:
    if quantity.startswith("z_"):
        return f"pre-activation of {quantity[2:]} ({quantity})"
    return {"c": "cell state c", "h": "state h"}.get(quantity, f"gate {quantity}")


@dataclass(frozen=True)
class Divergence:
    """Where two computations part: the quantities that differ although all that they follow from agrees.

    free: distance of every quantity from the nearest number that the candidate computes, relative to its size, in
    a free run; behind the first difference, everything is polluted. forced: the same with every step given the
    oracle's inputs, so that errors do not spread; `wrong` are the quantities that then differ although all that
    they follow from agrees. Both are empty where the candidate's step is not known.
    """

    phase: str  # "forward" or "backward"; "none" where every quantity of every step agrees
    places: tuple[Node, ...]  # in the order of computation
    wrong: tuple[Node, ...] = ()
    free: Mapping[Node, float] = field(default_factory=dict, repr=False)
    forced: Mapping[Node, float] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        if not self.places:
            return "in none of the steps: the recurrent layers agree, what surrounds them does not"
        more = f" (and {len(self.places) - 1} more)" if len(self.places) > 1 else ""
        gradient = "the gradient of " if self.phase == "backward" else ""
        return f"{self.phase} pass, {gradient}{self.places[0]}{more}"

    @property
    def extent(self) -> str:
        """Where steps are wrong by themselves, in words; empty where that is not known."""
        if not self.forced:
            return ""
        if not self.wrong:
            return "each step by itself is right: the fault lies between the steps or around them"
        steps = sorted({node.step for node in self.wrong})
        every = len(steps) == len({node.step for node in self.forced})
        quantities = ", ".join(dict.fromkeys(node.quantity for node in self.wrong))
        layers = ", ".join(map(str, sorted({node.layer for node in self.wrong})))
        directions = " and ".join(
            ("forward", "reverse")[d] for d in sorted({n.direction for n in self.wrong})
        )
        when = "every step" if every else f"steps {', '.join(map(str, steps))}"
        return f"wrong by itself: {quantities} in {when}, layer {layers} {directions}"


@dataclass(frozen=True)
class Explanation:
    """A known mistake that was held against a candidate."""

    id: str  # of the fault, for instance "L06"
    name: str
    fix: str
    misfit: float  # distance from the candidate, in units of the semantic limit; at most EXPLAINS explains it


@dataclass(frozen=True)
class Diagnosis:
    """What explains a candidate; several explanations are such that these probes cannot tell them apart."""

    explanations: tuple[Explanation, ...]
    next_best: Explanation | None  # the best of those that do not explain it
    tried: int  # hypotheses held against the candidate

    @property
    def unique(self) -> bool:
        """Whether there is one explanation and no other."""
        return len(self.explanations) == 1


@dataclass(frozen=True)
class CaseResult:
    """One case: a comparison per probe, or the reason why there is none."""

    id: str
    summary: str = ""
    comparisons: tuple[Comparison, ...] = ()
    error: str | None = None
    not_run: str | None = None  # what is missing, with the remedy
    notes: tuple[str, ...] = ()
    first_divergence: Divergence | None = None  # where the verdict is DIVERGENT and the place could be found
    diagnosis: Diagnosis | None = (
        None  # where the verdict is DIVERGENT and there are hypotheses about the model
    )

    @property
    def verdict(self) -> str:
        """The gravest verdict of the comparisons."""
        if self.error is not None:
            return ERROR
        if self.not_run is not None:
            return NOT_RUN
        return worst(comparison.verdict for comparison in self.comparisons)

    @property
    def tensors(self) -> tuple[TensorResult, ...]:
        """The tensors of all probes."""
        return tuple(tensor for comparison in self.comparisons for tensor in comparison.tensors)


@dataclass(frozen=True)
class Report:
    """All cases of one run, with the environment that they ran in."""

    cases: tuple[CaseResult, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """The gravest verdict; a case that was not run leaves the whole INCONCLUSIVE."""
        found = worst(case.verdict for case in self.cases)
        return INCONCLUSIVE if found == NOT_RUN else found

    @property
    def first_divergence(self) -> Divergence | None:
        """Where the first divergent case parts from its reference."""
        return next((case.first_divergence for case in self.cases if case.first_divergence), None)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What explains the first divergent case."""
        return next((case.diagnosis for case in self.cases if case.diagnosis), None)

    @property
    def tensors(self) -> tuple[TensorResult, ...]:
        """The tensors of all cases."""
        return tuple(tensor for case in self.cases for tensor in case.tensors)

    @property
    def expected(self) -> int:
        """How many tensors there should have been."""
        return sum(comparison.expected for case in self.cases for comparison in case.comparisons)

    @property
    def compared(self) -> int:
        """How many tensors could be set side by side."""
        return sum(comparison.compared for case in self.cases for comparison in case.comparisons)

    @property
    def semantic_sensitivity(self) -> float | None:
        """The largest change, relative to a tensor's rms, that the semantic gate could have missed."""
        return _largest(_best(case, "semantic_sensitivity") for case in self.cases)

    @property
    def numeric_sensitivity(self) -> float | None:
        """The largest change, relative to a tensor's rms, that the numeric gate could have missed."""
        return _largest(_best(case, "numeric_sensitivity") for case in self.cases)

    @property
    def exit_code(self) -> int:
        """0 equivalent, 1 divergent, 2 error, 3 inconclusive, 4 environment, 5 nothing compared.

        When several apply, what must be looked at first wins: an error (the harness is not to be trusted),
        then a divergence, then a missing package, then a run in which nothing at all was compared, then
        an inconclusive tensor.
        """
        verdicts = {case.verdict for case in self.cases}
        if ERROR in verdicts:
            return EXIT_ERROR
        if DIVERGENT in verdicts:
            return EXIT_DIVERGENT
        if NOT_RUN in verdicts:
            return EXIT_ENVIRONMENT
        if self.compared == 0:
            return EXIT_NOTHING
        return EXIT_INCONCLUSIVE if INCONCLUSIVE in verdicts else EXIT_EQUIVALENT

    def __getitem__(self, name: str) -> TensorResult:
        """Return the tensor of that (torch) name; of several probes the one with the gravest verdict."""
        found = [tensor for tensor in self.tensors if tensor.name == name]
        if not found:
            known = ", ".join(dict.fromkeys(tensor.name for tensor in self.tensors)) or "none"
            raise KeyError(f"{name!r} was not compared; compared were: {known}.")
        return max(found, key=lambda tensor: _SEVERITY.index(tensor.verdict))

    def to_json(self) -> str:
        """Return the report as JSON of schema `parity/1`."""
        from parity.report.json_report import to_json

        return to_json(self)

    def to_junit(self) -> str:
        """Return the report as JUnit XML, for the table of tests of a CI server."""
        from parity.report.junit import to_junit

        return to_junit(self)

    def to_markdown(self) -> str:
        """Return the report as Markdown, short enough for the summary of a CI job."""
        from parity.report.markdown import to_markdown

        return to_markdown(self)

    def to_html(self, path: str | Path, *, sections: Iterable[Section] = ()) -> None:
        """Write the report as one HTML file that needs no other; `sections` see `parity.report.html`."""
        from parity.report.html import to_html

        Path(path).write_text(to_html(self, sections), encoding="utf-8")

    def __str__(self) -> str:
        from parity.report.terminal import to_text

        return to_text(self)


def _best(case: CaseResult, sensitivity: str) -> float | None:
    """Return the worst tensor of a case, each taken where it passed in the probe that sees it most sharply."""
    sharpest: dict[str, float] = {}
    for tensor in case.tensors:
        value = getattr(tensor, sensitivity)
        if tensor.verdict == EQUIVALENT and value is not None:
            sharpest[tensor.name] = min(value, sharpest.get(tensor.name, value))
    return _largest(sharpest.values())


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
