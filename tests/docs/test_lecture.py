"""Every row of `docs/lecture.md` names code, a lesson, figures and a case that exist in both frameworks."""

import ast
import re
from pathlib import Path

import pytest

from parity.cases import CASES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lecture.md").read_text("utf-8")
CASE_IDS = {case.id for case in CASES}


def slides():
    """The rows of the table of slides: slide, idea, code, lesson, figures, case."""
    table = PAGE.split("<!-- slides -->")[1].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def in_code(cell):
    return re.fullmatch(r"`(.+)`", cell.strip())[1]


def names_in(path, module):
    """What a lesson takes from a module of the library, by its imports."""
    tree = ast.parse(path.read_text("utf-8"))
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == module)
    return {alias.name for node in froms for alias in node.names}


SLIDES = slides()


def test_the_table_has_the_slides_of_the_lecture():
    assert len(SLIDES) >= 20
    assert all(len(row) == 6 for row in SLIDES)


def test_every_lesson_is_in_the_table():
    sources = (ROOT / "examples").glob("*.py")
    lessons = {path.stem for path in sources if "\nLESSON = Lesson(" in path.read_text("utf-8")}
    assert {Path(in_code(row[3])).stem for row in SLIDES} == lessons


@pytest.mark.parametrize("row", SLIDES, ids=lambda row: row[0])
def test_what_a_row_names_is_there(row):
    _, _, code, lesson, figures, case = row
    assert (ROOT / in_code(code)).is_file()
    assert in_code(case) in CASE_IDS
    name = Path(in_code(lesson)).stem
    page = ROOT / "docs" / re.search(r"\((.+)\)", figures)[1]
    assert page == ROOT / "docs" / "lessons" / name / "index.md"
    shown = re.findall(r"!\[.+?\]\((.+?)\)", page.read_text("utf-8"))
    assert shown
    assert all((page.parent / figure).is_file() for figure in shown)
    assert (ROOT / "notebooks" / f"{name}.ipynb").is_file()


@pytest.mark.parametrize("lesson", sorted({in_code(row[3]) for row in SLIDES}))
def test_the_models_of_a_lesson_have_mirrors(lesson):
    mirrors = (ROOT / "torch_ref" / "models" / "__init__.py").read_text("utf-8")
    models = names_in(ROOT / lesson, "jaxrnn.models")
    classes = {name for name in models if name[0].isupper() and name not in ("Decoded", "Gaussian")}
    assert classes <= set(re.findall(r'"(\w+)"', mirrors))


def test_the_scores_are_those_of_the_results():
    from examples import lecture

    assert PAGE.split("<!-- begin scores -->")[1].split("<!-- end scores -->")[0].strip() == lecture.scores(
        sorted(path.parent.name for path in lecture.DOCS.glob("*/results.json"))
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "lessons").glob("*/index.md")), ids=lambda p: p.parent.name
)
def test_a_lessons_page_is_made_from_its_results(path):
    from examples import lecture

    assert path.read_text("utf-8") == lecture.page(path.parent.name), "python -m examples docs writes it anew"
