"""Accumulated gradients: the reference sums them, and who averages them or loses some is told so."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.faults.optimizers import OPTIMIZERS  # noqa: E402
from parity.longhand import optimizers as longhand  # noqa: E402
from parity.longhand.optimizers import Group, Setup  # noqa: E402
from parity.optimizers import judge as optimizers  # noqa: E402
from parity.optimizers.replay import designed  # noqa: E402
from parity.selftest import optimizer_mutants  # noqa: E402
from parity.selftest import optimizers as selftest  # noqa: E402

pytestmark = pytest.mark.torch
CASE = "sgd-accumulated"
GRADIENTS = {"w": np.arange(14.0).reshape(7, 2)}  # seven of them: one is left over


def accumulated(id=None):
    setup = Setup("SGD", (Group(("w",), {"lr": 1.0}),), every=3)
    fault = next((fault for fault in OPTIMIZERS if fault.id == id), None)
    part = longhand.accumulated if fault is None else fault.recipe.accumulated
    return part(setup, GRADIENTS)["w"]


def test_gradients_are_summed_averaged_or_lost_as_the_fault_says():
    np.testing.assert_array_equal(accumulated(), [[6, 9], [24, 27]])
    np.testing.assert_array_equal(accumulated("C17-averaged"), [[2, 3], [8, 9]])
    np.testing.assert_array_equal(accumulated("C17-last"), [[4, 5], [10, 11]])


def test_sums_of_gradients_are_torchs_at_every_update_and_nothing_moves_between():
    """Until a parameter that begins at zero is updated there is nothing to compare, and that is said."""
    candidate = optimizer_mutants.accumulated(1e-2, selftest.EVERY, mean=False)
    for evidence in selftest._evidence(CASE, False):
        judgement = optimizers.weigh(candidate, evidence)
        assert judgement.first_bad is None
        verdicts = {t.name: t.verdict for t in judgement.comparison.tensors}
        updated = {
            name: v for name, v in verdicts.items() if int(name[4 : name.index("(")]) >= selftest.EVERY
        }
        assert set(updated.values()) == {"EQUIVALENT"}
        assert {v for name, v in verdicts.items() if name not in updated} <= {"EQUIVALENT", "INCONCLUSIVE"}
        for name, values in evidence.oracle.items():
            moved = [k + 1 for k in range(1, len(values)) if np.any(values[k] != values[k - 1])]
            assert set(moved) <= set(range(selftest.EVERY, len(values) + 1, selftest.EVERY)), name


def test_the_spelled_out_accumulation_is_torchs_to_rounding():
    pair = selftest._CASES[CASE].pair()
    for replay in designed(steps=11):
        oracle, found = pair.run(replay, "float64"), longhand.run(pair.setup(replay), replay)
        for name, expected in oracle.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-13, atol=1e-18)


def test_no_optimizer_is_suspected_of_averaging_that_does_not_accumulate():
    setup = Setup("SGD", (Group(("w",), {"lr": 1.0}),))
    faults = [fault for fault in OPTIMIZERS if fault.id.startswith("C17")]
    assert not any(fault.possible(setup, None) for fault in faults)
    assert all(fault.possible(Setup("SGD", setup.groups, every=2), None) for fault in faults)
