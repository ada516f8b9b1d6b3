"""The table of rules: the command, the documentation and the tests go through it."""

from jaxrnn.doctor.rules import carried, dropout, losses, porting, states, steps, training
from jaxrnn.doctor.rules.rule import Hit, Rule

__all__ = ["RULES", "Hit", "Rule"]

_FAMILIES = (steps, states, carried, losses, training, dropout, porting)
RULES: tuple[Rule, ...] = tuple(rule for family in _FAMILIES for rule in family.RULES)
