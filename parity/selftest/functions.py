"""Mutants outside the recurrence: attention, norms, activations, precision, each planted by hand in a JAX model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from parity.faults import FUNCTIONS
from parity.faults.numerics import NUMERIC
from parity.selftest.subject import subject
from parity.selftest.trial import Trial
from parity.subjects.jax_mutants import MUTANTS, Mutant
from parity.verdict import CaseResult

FAMILY = "functions"


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant of the table."""
    names = {fault.id: fault.name for fault in NUMERIC}
    names |= {fault.id: fault.name for fault in FUNCTIONS}
    for mutant in MUTANTS:
        name = names.get(mutant.fault, mutant.fault)
        judge = functools.partial(judge_mutant, mutant.subject, mutant.parts, name)
        yield Trial(mutant.fault, name, FAMILY, mutant.subject, mutant.gate, judge)


def mutant_of(trial: Trial) -> Mutant:
    """Return the row of the table that a trial comes from."""
    return next(mutant for mutant in MUTANTS if (mutant.fault, mutant.subject) == (trial.id, trial.case))


def judge_mutant(subject_id: str, parts: Any, name: str = "") -> CaseResult:
    """Judge a subject whose candidate computes by other parts; diagnose it where it diverges."""
    chosen = subject(subject_id)
    build: Callable[..., Any] = chosen.case.candidate
    return chosen.judge(build(parts), name)
