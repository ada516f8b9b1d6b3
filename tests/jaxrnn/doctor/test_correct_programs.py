"""No false alarms: programs that are right, and the project's own, give no findings."""

from pathlib import Path

import pytest

from jaxrnn.doctor import examine, read

ROOT = Path(__file__).parents[3]
CORRECT = sorted((Path(__file__).parent / "correct").glob("*.py"))
OWN = sorted(
    path
    for pattern in ("torch_ref/**/*.py", "examples/**/*.py", "benchmarks/**/*.py", "notebooks/*.ipynb")
    for path in ROOT.glob(pattern)
)


def shown(paths):
    return [f"{each.place}: {each.rule.id}: {each.what}" for each in examine([read(path) for path in paths])]


@pytest.mark.parametrize("path", CORRECT, ids=[path.stem for path in CORRECT])
def test_a_program_that_is_right_gives_no_findings(path):
    compile(path.read_text("utf-8"), path.name, "exec")
    assert shown([path]) == []


def test_programs_that_are_right_give_no_findings_together_either():
    assert len(CORRECT) >= 6
    assert shown(CORRECT) == []


@pytest.mark.slow
def test_the_projects_own_programs_give_no_findings():
    assert len(OWN) > 80
    assert [each for path in OWN for each in shown([path])] == []


@pytest.mark.slow
def test_the_projects_own_programs_give_no_findings_together_either():
    """As the reference's models and those who import them."""
    assert shown([path for path in OWN if "benchmarks" not in path.parts]) == []


@pytest.mark.slow
def test_the_planted_mistakes_of_the_judge_are_found_and_nothing_else():
    """`parity` plants faults on purpose; of those, three are such as a program shows in its text."""
    paths = sorted((ROOT / "parity").rglob("*.py"))
    found = [each for path in paths for each in examine([read(path)])]
    assert {each.rule.id for each in found} == {"probabilities-for-logits"}
    assert {Path(each.place.path).name for each in found} == {"losses.py", "loss_mutants.py"}
