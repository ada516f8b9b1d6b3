"""A linter of PyTorch's recurrent programs, and of what was ported from them: faults that no error reports."""

from __future__ import annotations

from collections.abc import Sequence

from jaxrnn.doctor.facts import Built, build
from jaxrnn.doctor.flow import follow
from jaxrnn.doctor.report import Finding
from jaxrnn.doctor.rules import RULES, Rule
from jaxrnn.source import Place, Source, read

__all__ = ["RULES", "Built", "Finding", "Rule", "build", "examine", "read"]


def examine(sources: Sequence[Source], built: Sequence[Built] = ()) -> list[Finding]:
    """Return what is wrong in programs that belong together, by file and line; `built` has what modules hold.

    Raises ValueError for a comment that names a rule that is not there.
    """
    _check_ignored(sources)
    facts = {key: options for each in built for key, options in each.facts.items()}
    program = follow(sources, facts)
    found: dict[tuple[str, Place], Finding] = {}
    for rule in RULES:
        for node, what in rule.check(program):
            source = program.source_of(node)
            if not source.ignores(rule.id, node):
                place = source.place(node)
                found.setdefault((rule.id, place), Finding(rule, place, what))
    order = {source.path: number for number, source in enumerate(sources)}
    return sorted(
        found.values(), key=lambda each: (order[each.place.path], each.place.cell or 0, each.place.line)
    )


def _check_ignored(sources: Sequence[Source]) -> None:
    known = [rule.id for rule in RULES]
    for source in sources:
        for line, names in source.ignored.items():
            if wrong := sorted(names - set(known)):
                raise ValueError(
                    f"{source.places[line - 1]}: ignore{wrong} names no rule; rules are {known}."
                )
