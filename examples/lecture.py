"""The documentation of the lessons, from their sources and results: a page for each, and the table of scores."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.common import results
from examples.common.lesson import DOCS
from examples.common.pages import markdown, replace_blocks

LECTURE = DOCS.parent / "lecture.md"


def write(lessons: Iterable[str]) -> list[Path]:
    """Write the page of every lesson that has results, and the table in `docs/lecture.md`; return the files."""
    shown = [name for name in lessons if (DOCS / name / "results.json").exists()]
    pages = {DOCS / name / "index.md": page(name) for name in shown}
    text = replace_blocks(LECTURE.read_text("utf-8"), {"scores": scores(shown)})
    for path, content in {**pages, LECTURE: text}.items():
        path.write_text(content, "utf-8")
    return [*pages, LECTURE]


def page(name: str) -> str:
    """Return a lesson's page: its docstring, scores, verdicts, remarks and figures."""
    source = (Path(__file__).parent / f"{name}.py").read_text("utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    outcome, content = results.read(DOCS / name / "results.json")
    sections = [
        f"# {title.rstrip('.')}",
        text.strip("\n"),
        f"Code: `examples/{name}.py`; the notebook: `notebooks/{name}.ipynb`. What follows is one run at the "
        f"default size: {content['seconds']} s, {_made_with(content['environment'])}.",
    ]
    if outcome.scores:
        sections += ["## Held-out data", markdown(results.SCORES, results.score_rows(outcome.scores))]
    if outcome.agreements:
        rows = results.agreement_rows(outcome.agreements)
        sections += ["## JAX and PyTorch, with the trained weights", markdown(results.AGREEMENTS, rows)]
    sections += outcome.remarks
    sections += [f"![{figure.replace('_', ' ')}]({figure}.png)" for figure in content["figures"]]
    return "\n\n".join(sections) + "\n"


def scores(lessons: Iterable[str]) -> str:
    """Return the scores of all lessons beside their baselines, as a table in Markdown."""
    rows = []
    for name in lessons:
        outcome, _ = results.read(DOCS / name / "results.json")
        rows += [[f"[{name}](lessons/{name}/index.md)", *row] for row in results.score_rows(outcome.scores)]
    return markdown(("lesson", *results.SCORES), rows)


def _made_with(environment: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {environment[name]}" for name in ("jax", "flax", "torch") if environment.get(name)
    )
