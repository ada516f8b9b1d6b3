"""Files, notebooks and the comments in them."""

import json

import pytest

from jaxrnn.doctor import examine, read

FAULT = "rnn = nn.LSTM(3, 4, dropout=0.5)"
IMPORT = "from torch import nn"


def notebook(path, *cells):
    """Write a notebook: text is code, a tuple (kind, text) another cell."""
    cells = [cell if isinstance(cell, tuple) else ("code", cell) for cell in cells]
    entries = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in cells]
    path.write_text(json.dumps({"cells": entries, "nbformat": 4}), "utf-8")
    return path


def places(path):
    return [str(each.place).removeprefix(str(path)) for each in examine([read(path)])]


def test_a_finding_in_a_file_names_its_line(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(f"# -*- coding: latin-1 -*-\n{IMPORT}\n\nname = 'Gr\xfc\xdfe'\n{FAULT}\n", "latin-1")
    assert places(path) == [":5"]


def test_a_finding_in_a_notebook_names_its_cell_and_line(tmp_path):
    path = notebook(tmp_path / "a.ipynb", ("markdown", "# Title"), IMPORT, f"x = 1\n\n{FAULT}\n", FAULT)
    assert places(path) == [":cell 3:3", ":cell 4:1"]


@pytest.mark.parametrize(
    "cell",
    [
        f"%matplotlib inline\n!pip install torch\n{FAULT}",
        f"%%time\nfiles = !ls\n{FAULT}",
        f"if True:\n    %cd ..\n{FAULT}",
        f"files = %sx ls\nnn.LSTM??\n{FAULT}",
    ],
)
def test_what_only_ipython_understands_is_passed_over(cell, tmp_path):
    path = notebook(tmp_path / "a.ipynb", IMPORT, cell)
    assert places(path) == [":cell 2:3"]


def test_a_cell_in_another_language_is_passed_over(tmp_path):
    path = notebook(tmp_path / "a.ipynb", IMPORT, "%%bash\nfor f in *; do echo $f; done", FAULT)
    assert places(path) == [":cell 3:1"]


def test_a_line_that_only_begins_like_a_magic_is_python(tmp_path):
    path = notebook(tmp_path / "a.ipynb", IMPORT, f"text = ('%d'\n    % 3)\n{FAULT}")
    assert places(path) == [":cell 2:3"]


@pytest.mark.parametrize("cells", [[], [("markdown", "nothing")], [""]])
def test_a_notebook_without_code_has_no_findings(cells, tmp_path):
    assert places(notebook(tmp_path / "a.ipynb", *cells)) == []


def test_a_comment_silences_the_rule_on_its_line_alone(tmp_path):
    path = tmp_path / "a.py"
    comment = "# jaxrnn: ignore[dropout-of-one-layer]"
    path.write_text(f"{IMPORT}\n{FAULT}  {comment}, since it is a lesson\n{FAULT}\n")
    assert places(path) == [":3"]


def test_a_comment_may_stand_on_any_line_of_a_statement(tmp_path):
    path = tmp_path / "a.py"
    comment = "# jaxrnn: ignore[state-reshaped, dropout-of-one-layer]"
    path.write_text(f"{IMPORT}\nrnn = nn.LSTM(\n    3,\n    4,\n    dropout=0.5,  {comment}\n)\n")
    assert places(path) == []


def test_a_comment_for_another_rule_silences_nothing(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(f"{IMPORT}\n{FAULT}  # jaxrnn: ignore[clipping-order]\n")
    assert places(path) == [":2"]


def test_a_string_that_looks_like_a_comment_silences_nothing(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(f'{IMPORT}\n{FAULT}, "# jaxrnn: ignore[dropout-of-one-layer]"\n')
    assert places(path) == [":2"]


def test_a_comment_that_names_no_rule_is_an_error(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\ny = 2  # jaxrnn: ignore[R3]\n")
    with pytest.raises(ValueError, match=r"a\.py:2: ignore\['R3'\] names no rule; rules are"):
        examine([read(path)])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.py", "x = (\n", r"a\.py:1: no Python 3"),
        ("a.py", "x = 1\nprint x\n", r"a\.py:2: no Python 3"),
        ("a.txt", "x = 1\n", r"expected a \.py file, an \.ipynb notebook or package\.module:factory"),
        ("a.ipynb", "{", "no notebook that can be read"),
        ("a.ipynb", "[]", "no notebook that can be read"),
        ("a.ipynb", '{"worksheets": []}', "no notebook that can be read"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(name, text, says, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read(path)


def test_a_cell_that_is_no_python_is_named(tmp_path):
    path = notebook(tmp_path / "a.ipynb", IMPORT, "x = 1\nprint x\n")
    with pytest.raises(ValueError, match=r"cell 2:2: no Python 3"):
        read(path)


def test_an_expression_that_is_nested_too_deeply_is_an_error(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = " + " + ".join(["y"] * 900) + "\n")
    with pytest.raises(ValueError, match="nested too deeply"):
        examine([read(path)])
