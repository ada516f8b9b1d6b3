"""Mutants that answer where the reference refuses: each thing that JAX makes of a token that is no row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from parity.faults.functions.out_of_range import FAULTS
from parity.judge import judge_models
from parity.selftest.trial import Trial
from parity.subjects.jax_models import Parts
from parity.subjects.table import REFUSING
from parity.verdict import CaseResult

FAMILY = "refusals"
LookUp = Callable[[Array, Array], Array]

MUTANTS: dict[str, LookUp] = {
    "S20": lambda table, tokens: jnp.take(table, tokens, axis=0),
    "S20-array": lambda table, tokens: table[tokens],
    "S20-clip": lambda table, tokens: jnp.take(table, tokens, axis=0, mode="clip"),
    "S20-zero": lambda table, tokens: jax.nn.one_hot(tokens, len(table), dtype=table.dtype) @ table,
}


def trials() -> Iterator[Trial]:
    """Yield a trial of every mutant."""
    for fault in FAULTS:
        judge = functools.partial(judge_look_up, MUTANTS[fault.id], fault.name)
        yield Trial(fault.id, fault.name, FAMILY, REFUSING.id, "structure", judge)


def judge_look_up(look_up: LookUp, name: str = "") -> CaseResult:
    """Judge a model that looks up tokens in this way; of those that it has, padding receives no gradient."""

    def without_padding(table: Array, tokens: Array) -> Array:
        rows = look_up(table, tokens)
        return jnp.where((tokens == 0)[..., None], jax.lax.stop_gradient(rows), rows)

    candidate = REFUSING.candidate(parts=Parts(look_up=without_padding))  # type: ignore[call-arg]
    return judge_models(REFUSING.id, name, candidate, REFUSING.reference(), REFUSING.probes("designed", 0))
