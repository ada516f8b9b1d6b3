"""Each rule finds its fault, however it is written, and is silent where a program is right."""

import pytest

from jaxrnn.doctor import RULES
from tests.jaxrnn.doctor.cases import RIGHT, WRONG
from tests.jaxrnn.doctor.common import found, program

IDS = [rule.id for rule in RULES]


def cases(table):
    return [
        pytest.param(rule, text, id=f"{rule}-{n}") for rule in table for n, text in enumerate(table[rule])
    ]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_wrong_example_of_a_rule_breaks_it_alone(rule, tmp_path):
    assert found(tmp_path, rule.wrong) == [rule.id]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_right_example_of_a_rule_is_silent(rule, tmp_path):
    assert found(tmp_path, rule.right) == []


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_examples_of_a_rule_are_programs(rule):
    for text in (rule.wrong, rule.right):
        compile(text, rule.id, "exec")
    assert rule.wrong != rule.right


@pytest.mark.parametrize(("rule", "text"), cases(WRONG))
def test_a_fault_is_found_however_it_is_written(rule, text, tmp_path):
    assert set(found(tmp_path, program(text))) == {rule}


@pytest.mark.parametrize(("rule", "text"), cases(RIGHT))
def test_what_only_looks_like_a_fault_is_silent(rule, text, tmp_path):
    assert found(tmp_path, program(text)) == []


def test_every_rule_has_cases_of_both_kinds():
    assert list(WRONG) == list(RIGHT) == IDS
    assert all(len(texts) >= 1 for texts in WRONG.values())
    assert all(len(texts) >= 2 for texts in RIGHT.values())


def test_every_rule_says_what_to_do_and_has_a_name_of_its_own():
    assert len(set(IDS)) == len(IDS)
    for rule in RULES:
        assert rule.title.endswith(".")
        assert rule.remedy.endswith(".")
        assert rule.cost.endswith(".")
