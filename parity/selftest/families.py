"""All families of mutants; each is a module of this package with a generator `trials`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from parity.selftest.trial import Trial

FAMILIES = ("recurrent", "functions", "mapping", "refusals", "losses", "optimizers", "averages", "initial")


def choose(wanted: Sequence[str]) -> list[Trial]:
    """Return the trials of the families or faults named, all of them where none is named.

    Raises KeyError with the name that is neither.
    """
    modules = (importlib.import_module(f"parity.selftest.{family}") for family in FAMILIES)
    trials: list[Trial] = [trial for module in modules for trial in module.trials()]
    for name in wanted:
        if name not in FAMILIES and all(trial.id != name for trial in trials):
            raise KeyError(name)
    return [t for t in trials if not wanted or t.id in wanted or t.family in wanted]
