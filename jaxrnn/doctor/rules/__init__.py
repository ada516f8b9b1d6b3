"""The table of rules: the command, the documentation and the tests go through it."""

from jaxrnn.doctor.rules import losses, porting, states, steps, training
from jaxrnn.doctor.rules.rule import Hit, Rule

__all__ = ["RULES", "Hit", "Rule"]

RULES: tuple[Rule, ...] = (*steps.RULES, *states.RULES, *losses.RULES, *training.RULES, *porting.RULES)
