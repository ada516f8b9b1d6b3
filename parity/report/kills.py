"""The kill matrix: which gate found which mutant, and which was meant to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parity.report import facts
from parity.selftest.trial import Outcome

# What a gate did about a mutant: its sign on the page, and in words.
MARKS = {
    "meant": ("●", "found it, as it was meant to"),
    "also": ("○", "found it as well"),
    "missed": ("✗", "was meant to find it and did not"),
    "idle": ("", "found nothing"),
}


class Row(NamedTuple):
    """A mutant."""

    id: str
    name: str
    case: str
    gate: str  # the one that is meant to find it
    marks: tuple[str, ...]  # one of MARKS for each gate
    naming: str  # "named", "narrowed down", "not named" or "survived"
    diagnosed: str
    detail: str


class Group(NamedTuple):
    """The mutants of a family that have one letter of the catalogue."""

    family: str
    title: str
    said: str  # how many, and what became of them
    rows: tuple[Row, ...]


class Matrix(NamedTuple):
    """All mutants by the gates that are meant to find one or did."""

    gates: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """The families, each once."""
        return tuple(dict.fromkeys(group.family for group in self.groups))


def matrix(outcomes: Sequence[Outcome]) -> Matrix:
    """Sort outcomes by family and letter."""
    gates = tuple(dict.fromkeys(gate for each in outcomes for gate in (each.trial.gate, *each.gates)))
    sorted_: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        id = outcome.trial.id
        letter = id[0] if id[:1].isupper() else "other"
        sorted_.setdefault((outcome.trial.family, letter), []).append(outcome)
    groups = (
        Group(family, f"{family}, {letter}", _said(of), tuple(_row(outcome, gates) for outcome in of))
        for (family, letter), of in sorted_.items()
    )
    return Matrix(gates, tuple(groups))


def naming(outcome: Outcome) -> str:
    """Say whether a mutant was named by itself, as one of a set, or not; or that it survived."""
    if not outcome.killed:
        return "survived"
    if outcome.named:
        return "named"
    return "narrowed down" if outcome.narrowed else "not named"


def _said(outcomes: Sequence[Outcome]) -> str:
    killed, named = (sum(getattr(each, kind) for each in outcomes) for kind in ("killed", "named"))
    return f"{facts.count(len(outcomes), 'mutant')}, {killed} killed, {named} named"


def _row(outcome: Outcome, gates: Sequence[str]) -> Row:
    trial = outcome.trial
    diagnosed = ", ".join(outcome.diagnosed) or "nothing"
    found = ", ".join(outcome.gates) or "no gate"
    said = [f"{outcome.verdict} by {found}, meant for {trial.gate}", f"diagnosis: {diagnosed}"]
    said += [] if outcome.error is None else [outcome.error]
    return Row(
        trial.id,
        trial.name,
        trial.case,
        trial.gate,
        tuple(_mark(outcome, gate) for gate in gates),
        naming(outcome),
        diagnosed,
        "; ".join([*said, f"{outcome.seconds:.2f} s"]),
    )


def _mark(outcome: Outcome, gate: str) -> str:
    if gate == outcome.trial.gate:
        return "meant" if outcome.killed else "missed"
    return "also" if gate in outcome.gates else "idle"
