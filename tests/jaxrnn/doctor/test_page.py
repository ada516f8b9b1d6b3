"""The page, the command and the table say the same."""

import re

import pytest

from jaxrnn.doctor import RULES
from jaxrnn.doctor.page import MARK, PAGE, written


def test_the_page_is_what_the_table_makes_of_it():
    """`python -m jaxrnn.doctor.page` writes it anew."""
    above, mark, below = PAGE.read_text("utf-8").partition(MARK)
    assert mark
    assert below == written(RULES)
    assert "jaxrnn doctor" in above


def test_a_changed_rule_would_change_the_page():
    assert written(RULES[1:]) != written(RULES)


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_each_rule_has_a_section_of_its_own(rule):
    assert re.search(rf"^## {rule.id}$", PAGE.read_text("utf-8"), re.MULTILINE)
