"""`docs/doctor.md` from the table of rules: `python -m jaxrnn.doctor.page` writes what is below its mark anew."""

from __future__ import annotations

from pathlib import Path

from jaxrnn.doctor.rules import RULES, Rule

MARK = "<!-- Below this line the page is written by `python -m jaxrnn.doctor.page`. -->\n"
PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def written(rules: tuple[Rule, ...]) -> str:
    """Return the part of the page that comes from the table: a list of the rules, then each by itself."""
    rows = [f"| [`{rule.id}`](#{rule.id}) | {rule.title} |\n" for rule in rules]
    return "\n| rule | what is wrong |\n|---|---|\n" + "".join(rows) + "".join(map(_section, rules))


def _section(rule: Rule) -> str:
    remedy = f"**Instead.** {rule.remedy}"
    if rule.in_jaxrnn:
        remedy += f"\n\n**In jaxrnn.** {rule.in_jaxrnn}"
    parts = (
        f"\n## {rule.id}\n",
        rule.title,
        f"\n**Costs.** {rule.cost}\n",
        f"Wrong:\n\n```py\n{rule.wrong.strip()}\n```\n",
        f"Right:\n\n```py\n{rule.right.strip()}\n```\n",
        remedy,
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write the page's lower part anew."""
    above, mark, _ = PAGE.read_text("utf-8").partition(MARK)
    PAGE.write_text(above + mark + written(RULES), encoding="utf-8")


if __name__ == "__main__":
    main()
