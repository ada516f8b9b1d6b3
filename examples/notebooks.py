"""The lessons as notebooks, made from the same files: `python -m examples.notebooks` writes `notebooks/*.ipynb`.

A lesson's docstring becomes the notebook's text, its cells (`# %%`) the notebook's; in place of the command at its
end stands a call of `run` whose tables and figures are shown. The first cell installs the package, as Colab needs.
"""

import ast
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import click
import jupytext
import nbformat

import examples
from examples.common.lesson import Lesson

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
INSTALL = """\
# Installs the package where it is not there yet, as on Colab.
import importlib.util

if importlib.util.find_spec("jaxrnn") is None:
    %pip install --quiet "jaxrnn[examples]"
"""
SIZE = 'size = "default"  # or "small", in seconds, or "full", which takes its time'
CALL = "outcome = LESSON.run(LESSON.sizes[size], seed=0, judged=torch_is_installed())"
SHOW = "%matplotlib inline\nshow(outcome)\nfor figure in outcome.figures.values():\n    display(figure)"


def lessons() -> dict[str, Lesson]:
    """Return all lessons by name: what the modules of this package call `LESSON`."""
    found: dict[str, Lesson] = {}
    for module in pkgutil.iter_modules(examples.__path__):
        source = ROOT / "examples" / f"{module.name}.py"
        if not module.ispkg and re.search("^LESSON = ", source.read_text("utf-8"), re.MULTILINE):
            lesson = importlib.import_module(f"examples.{module.name}").LESSON
            found[lesson.name] = lesson
    return found


def notebook(name: str) -> Any:
    """Return a lesson as a notebook without outputs."""
    source = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    text = ast.get_docstring(ast.parse(source))
    made = jupytext.reads(source, fmt="py:percent")
    cells = [nbformat.v4.new_markdown_cell(f"# {text}"), nbformat.v4.new_code_cell(INSTALL)]
    for cell in made.cells[1:]:  # the first is the docstring
        if "command" in cell.metadata.get("tags", []):
            continue
        title = cell.metadata.pop("title", None)
        if title:
            cells.append(nbformat.v4.new_markdown_cell(f"## {title}"))
        cells.append(nbformat.v4.new_code_cell(cell.source))
    imports = (
        "from examples.common.judging import torch_is_installed\nfrom examples.common.lesson import show"
    )
    cells.append(nbformat.v4.new_code_cell(f"{imports}\n\n{SIZE}\n{CALL}"))
    cells.append(nbformat.v4.new_code_cell(SHOW))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # random by default: the same source should give the same bytes
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def text(name: str) -> str:
    """Return a lesson's notebook as its file holds it."""
    return nbformat.writes(notebook(name)) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Write the notebooks of all lessons."""
    FOLDER.mkdir(exist_ok=True)
    for name in lessons():
        (FOLDER / f"{name}.ipynb").write_text(text(name), "utf-8")
        click.echo(f"{FOLDER.name}/{name}.ipynb")


if __name__ == "__main__":
    main()
