"""`jaxrnn doctor` on the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jaxrnn.cli import main
from jaxrnn.doctor import RULES

HERE = Path(__file__).parent
WRONG, RIGHT = (
    next(getattr(r, kind) for r in RULES if r.id == "state-reshaped") for kind in ("wrong", "right")
)


def run(*args):
    return CliRunner().invoke(main, ["doctor", *map(str, args)])


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(WRONG)
    return path


def test_a_finding_names_path_line_and_rule_and_exits_with_1(program):
    result = run(program)
    assert result.exit_code == 1, result.output
    line = WRONG[: WRONG.index("h_n.view")].count("\n") + 1
    shown = " ".join(result.output.split())
    assert f"{program}:{line}: [state-reshaped]" in shown
    assert "1 finding in 1 file." in shown
    for text in ("Costs: ", "Instead: ", "In jaxrnn: "):
        assert text in result.output


def test_what_a_rule_costs_is_said_once_however_often_it_is_broken(program):
    program.write_text(WRONG + WRONG)
    result = run(program)
    assert result.output.count("[state-reshaped]") == 2
    assert result.output.count("Costs: ") == 1


def test_a_program_that_is_right_exits_with_0(program):
    program.write_text(RIGHT)
    result = run(program)
    assert result.exit_code == 0
    assert result.output == "No findings in 1 file.\n"


def test_json_says_all_that_the_text_says(program):
    result = run("--json", program)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    (finding,) = report["findings"]
    rule = next(rule for rule in RULES if rule.id == "state-reshaped")
    assert report["files"] == [str(program)]
    assert finding["rule"] == rule.id
    assert finding["path"] == str(program)
    assert program.read_text().splitlines()[finding["line"] - 1].strip().startswith("return self.fc(h_n.view")
    assert finding["cell"] is None
    assert (finding["consequence"], finding["remedy"]) == (rule.cost, rule.remedy)
    assert finding["in_jaxrnn"] == rule.in_jaxrnn


def test_json_of_a_program_that_is_right_is_an_empty_list(program):
    program.write_text(RIGHT)
    result = run("--json", program)
    assert (result.exit_code, json.loads(result.stdout)["findings"]) == (0, [])


def test_a_file_that_is_named_twice_is_read_once(program):
    assert "1 finding in 1 file." in run(program, program).output


def test_the_rules_are_listed_with_their_costs_and_remedies():
    result = run("--rules")
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    for rule in RULES:
        for text in (f"{rule.id}: {rule.title}", rule.cost, rule.remedy):
            assert " ".join(text.split()) in shown


@pytest.mark.torch
def test_a_factory_is_built_and_its_files_are_read(torch):
    result = run("tests.jaxrnn.doctor.models:bidirectional")
    assert result.exit_code == 1, result.output
    assert re.search(r"models\.py:\d+: \[last-step-of-bidirectional\]", result.output.replace("\n", " "))


@pytest.mark.slow
@pytest.mark.torch
def test_a_factory_is_looked_for_in_the_folder_of_the_call(tmp_path, torch):
    """As an installed command does not by itself."""
    (tmp_path / "mine.py").write_text(f"{WRONG}\n\ndef make():\n    return Model()\n")
    program = f"import sys; sys.path.remove({str(tmp_path)!r}) if {str(tmp_path)!r} in sys.path else None\n"
    program += "from jaxrnn.cli import main; main(['doctor', 'mine:make'])"
    found = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1, found.stderr
    assert "[state-reshaped]" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a file, a notebook or pkg.mod:factory"),
        (["--rules", "a.py"], "goes with nothing else"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(arguments, says):
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py", "Error: nowhere.py: No such file; check the path"),
        ("nowhere.ipynb", "Error: nowhere.ipynb: No such file; check the path"),
        ("nowhere.py:make", "Error: nowhere.py: No such file; check the path"),
        ("notes.txt", "expected a .py file, an .ipynb notebook or package.module:factory"),
        ("nowhere.at.all:make", "there is no module 'nowhere'; run from the folder of its package"),
        (
            "plain.py:Net",
            "plain.py:Net: there is no 'Net' in plain.py; at its top are ['make']",
        ),
        ("broken.py", "no Python 3"),
        ("ignored.py", "names no rule"),
    ],
)
def test_a_target_that_cannot_be_used_is_one_line_and_exit_code_2(target, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("x = (")
    (tmp_path / "plain.py").write_text("def make():\n    return None\n\n\nclass Other:\n    pass\n")
    (tmp_path / "ignored.py").write_text("x = 1  # jaxrnn: ignore[everything]\n")
    result = run(target)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr


def test_text_of_a_program_reaches_the_terminal_as_text(tmp_path):
    path = tmp_path / "[red]a.py"
    path.write_text(WRONG.replace("h_n", "ｈ_n"))  # a name that is no ASCII
    result = run(path)
    assert result.exit_code == 1
    assert "[red]a.py" in result.output.replace("\n", "")
