"""Hidden units spread over devices are the layer: values, gradients, places, and one collective per step."""

import re

import numpy as np
import pytest

from tests.jaxrnn.common import printed

SAME = 1e-13  # the same operations in another order, in float64
CHECKS = "tests.jaxrnn.hidden_checks"
FORWARD = ["all-gather", 1, 1]  # in the loop over steps: of h
BACKWARD = ["reduce-scatter", 1, 1]  # of the cotangent of h


@pytest.fixture(scope="module")
def quick():
    return printed(CHECKS, "quick")


@pytest.fixture(scope="module")
def thorough():
    return printed(CHECKS, "thorough")


def test_ragged_rows_with_resets_are_those_of_the_layer(quick):
    """Outputs, final states, and the gradients of parameters, x and initial states."""
    assert quick["errors"]["LSTM"] <= SAME


def test_a_step_costs_one_collective_in_each_direction(quick):
    # An LSTM keeps gates, each device its own: the h of a whole chunk is gathered again for the gradient of W_hh.
    assert quick["collectives"]["LSTM"] == [["all-gather", 0, 1], FORWARD, BACKWARD]


def test_each_device_holds_its_units_rows_of_every_gate(quick):
    units = np.arange(8).reshape(4, 1, 2)
    gates = 8 * np.arange(4).reshape(1, 4, 1)
    np.testing.assert_array_equal(quick["places"]["rows"], units + gates)
    assert quick["places"]["gathered"]


REFUSED = {
    "units": "ValueError: hidden_size: 6 cannot be shared evenly by the 4 devices along 'model'",
    "projection": "NotImplementedError: proj_size=2: a projected h is a sum over all units.*data_parallel",
    "kernel": "NotImplementedError: implementation='cudnn' takes all steps in one call.*Leave it at None",
    "minimal": "NotImplementedError: MinGRU has no product with h .*Spread rows",
    "packed": "TypeError: HiddenSharded takes arrays. Pass packed.padded with lengths",
    "features": r"RuntimeError: input.size\(-1\) must be equal to input_size. Expected 3, got 2",
    "state": r"RuntimeError: Expected hidden\[1\] size \(1, 3, 8\), got \[1, 3, 2\]",
    "lengths": r"ValueError: lengths\[0\] is 12, but must be from 0 to 11",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_spread_over_units_is_refused_as_by_the_layer(quick, what):
    assert re.match(REFUSED[what], quick["refused"][what]), quick["refused"][what]


@pytest.mark.slow
def test_every_layer_and_plan_is_exact_when_spread_over_units(thorough):
    worst = {name: error for name, error in thorough["errors"].items() if not error <= SAME}
    assert not worst


@pytest.mark.slow
def test_what_keeps_h_gathers_nothing_going_back(thorough):
    assert thorough["collectives"]["GRU"] == [FORWARD, BACKWARD]
    # The gradient of x is a sum over all units: one reduction of it, after the loops.
    assert thorough["collectives"]["x"] == [FORWARD, ["all-reduce", 0, 1], BACKWARD]


@pytest.mark.slow
def test_a_training_run_spread_over_units_is_that_of_the_layer_dropout_included(thorough):
    spread, alone = thorough["training"]
    np.testing.assert_allclose(spread, alone, rtol=SAME)
