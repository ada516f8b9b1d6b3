"""The self-test as a page: the kill matrix, how small a change is still seen, and what is refused though empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parity.report import kills
from parity.report.ladder_curves import Curve
from parity.report.sections import Line, LinePlot, Mark, Section, Table
from parity.selftest.ladder import REQUIRED, Rung
from parity.selftest.trial import Outcome
from parity.verdict import EQUIVALENT


@dataclass(frozen=True)
class Selftest:
    """What became of the judge's own test; of some mutants alone, there is neither ladder nor emptiness."""

    outcomes: Sequence[Outcome]
    rungs: Sequence[Rung] = ()
    answers: Mapping[str, str] = field(default_factory=dict)  # verdict on each empty or dead comparison
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> list[str]:
        """The situations that passed though there was nothing in them."""
        return [name for name, verdict in self.answers.items() if verdict == EQUIVALENT]

    @property
    def sound(self) -> bool:
        """Whether every mutant is killed, the ladder reaches as far as it must, and nothing empty passes."""
        killed = all(outcome.killed for outcome in self.outcomes)
        return killed and all(rung.sharp for rung in self.rungs) and not self.passed


def to_html(test: Selftest, curves: Sequence[Curve] = ()) -> str:
    """Return the page; `curves` are what was measured on the ladder."""
    from parity.report import html  # needs jinja2, which the command does not without a page

    sections = [] if not test.rungs else [_ladder(test.rungs, curves)]
    sections += [] if not test.answers else [_emptiness(test)]
    return html.render(
        "selftest.html.j2",
        test=test,
        tally=_tally(test),
        matrix=kills.matrix(test.outcomes),
        marks=kills.MARKS,
        sections=[html.drawn(section) for section in sections],
    )


def _tally(test: Selftest) -> list[tuple[str, str]]:
    """Return the figures on top: what was counted, and how many."""
    found = [kills.naming(outcome) for outcome in test.outcomes]
    killed = len(found) - found.count("survived")
    counts = [
        ("mutants", str(len(found))),
        (f"killed, {_share(killed, len(found))}", str(killed)),
        (f"named uniquely, {_share(found.count('named'), len(found))}", str(found.count("named"))),
        ("named as one of a set", str(found.count("narrowed down"))),
        ("killed, not named", str(found.count("not named"))),
    ]
    if test.rungs:
        counts.append(("rungs as sharp as required", _of(sum(r.sharp for r in test.rungs), len(test.rungs))))
    if test.answers:
        refused = len(test.answers) - len(test.passed)
        counts.append(("empty comparisons refused", _of(refused, len(test.answers))))
    return counts


def _share(part: int, whole: int) -> str:
    return f"{math.floor(1000 * part / whole) / 10:g} %" if whole else "-"  # 99.96 % is not 100 %


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}"


def _ladder(rungs: Sequence[Rung], curves: Sequence[Curve]) -> Section:
    rows = [
        (
            rung.place,
            rung.tier,
            rung.smallest,
            REQUIRED[rung.place, rung.tier],
            rung.tensor,
            "passed" if rung.sharp else "failed",
        )
        for rung in rungs
    ]
    columns = ("change", "tier", "smallest that is found", "required", "in the tensor", "sharp")
    table = Table("Smallest changes that are found", columns, rows)
    text = (
        "Ever smaller changes are made in a faithful answer. Each plot follows the tensor in which the judge sees "
        "least: above the limit a change is found, and it must be down to the required one."
    )
    return Section("How small a change is seen", [*(_curve(curve) for curve in curves), table], text)


def _curve(curve: Curve) -> LinePlot:
    rung = curve.rung
    shares = [point.share for point in curve.points]
    lines = [Line("limit", [shares[0], shares[-1]], [1.0, 1.0], "limit")]
    for name, style, wanted in (("found", "pass", True), ("not found", "fail", False)):
        points = [point for point in curve.points if point.found == wanted]
        line = Line(name, [point.share for point in points], [point.limits for point in points], style)
        lines += [line] if points else []
    return LinePlot(
        f"{rung.place}, {rung.tier}: {rung.tensor}",
        "change, as a share of the tensor's size",
        "measured, in limits",
        lines,
        log_x=True,
        log_y=True,
        marks=[Mark("required", REQUIRED[rung.place, rung.tier])],
    )


def _emptiness(test: Selftest) -> Section:
    rows = [
        (name, verdict, "failed" if verdict == EQUIVALENT else "passed")
        for name, verdict in test.answers.items()
    ]
    table = Table(
        "Situations",
        ("what is compared", "verdict", "refused"),
        rows,
        good=frozenset({"passed"}),
        bad=frozenset({"failed", EQUIVALENT}),
    )
    return Section(
        "Nothing empty may pass", [table], "Where there is nothing to prove, no verdict may be EQUIVALENT."
    )
