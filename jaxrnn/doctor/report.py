"""What was found, as text for people and as plain types for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from jaxrnn.doctor.rules import Rule
from jaxrnn.source import Place


@dataclass(frozen=True)
class Finding:
    """A rule that is broken: where, and what is wrong there."""

    rule: Rule
    place: Place
    what: str

    def to_json(self) -> dict[str, Any]:
        """Return it in plain types."""
        return {
            "rule": self.rule.id,
            **self.place._asdict(),
            "what": self.what,
            "consequence": self.rule.cost,
            "remedy": self.rule.remedy,
            "in_jaxrnn": self.rule.in_jaxrnn or None,  # where it is another remedy
        }


def to_json(findings: Sequence[Finding], files: Sequence[str]) -> dict[str, Any]:
    """Return a report in plain types."""
    return {
        "schema": "jaxrnn-doctor-1",
        "files": list(files),
        "findings": [each.to_json() for each in findings],
    }


def shown(findings: Sequence[Finding], files: Sequence[str]) -> RenderableType:
    """Return a report for the terminal. A rule's cost and remedy stand behind its first finding only."""
    parts: list[RenderableType] = []
    explained: set[str] = set()
    for each in findings:
        head = ((str(each.place), "bold"), ": ", (f"[{each.rule.id}]", "red"), f" {each.what}")
        parts.append(Text.assemble(*head, no_wrap=True, overflow="ignore"))  # editors jump to a whole path
        if each.rule.id not in explained:
            explained.add(each.rule.id)
            parts.append(Padding(explanation(each.rule), (0, 0, 1, 4), expand=False))
    return Group(*parts, Text(_summary(findings, files)))


def explanation(rule: Rule) -> RenderableType:
    """Return what a fault costs, and what to do instead."""
    lines = [("Costs: ", rule.cost), ("Instead: ", rule.remedy)]
    if rule.in_jaxrnn:
        lines.append(("In jaxrnn: ", rule.in_jaxrnn))
    return Group(*(Text.assemble((label, "bold"), text) for label, text in lines))


def table_of(rules: Sequence[Rule]) -> RenderableType:
    """Return all rules, each with what is wrong, what it costs and the remedy."""
    parts: list[RenderableType] = []
    for rule in rules:
        parts += [
            Text.assemble((rule.id, "bold"), f": {rule.title}"),
            Padding(explanation(rule), (0, 0, 1, 4), expand=False),
        ]
    return Group(*parts)


def _summary(findings: Sequence[Finding], files: Sequence[str]) -> str:
    where = f"{len(files)} file{'s' * (len(files) != 1)}"
    if not findings:
        return f"No findings in {where}."
    return (
        f"{len(findings)} finding{'s' * (len(findings) != 1)} in {where}. docs/doctor.md explains the rules."
    )
