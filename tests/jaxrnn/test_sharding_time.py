"""Time spread over devices is time on one: values, gradients, ragged rows, and what passes between devices."""

import itertools
import re

import numpy as np
import pytest

from tests.jaxrnn.common import printed

SAME = 1e-13  # the same operations in another order, in float64
CHECKS = "tests.jaxrnn.wavefront_checks"


@pytest.fixture(scope="module")
def quick():
    return printed(CHECKS, "quick")


@pytest.fixture(scope="module")
def thorough():
    return printed(CHECKS, "thorough")


def test_ragged_rows_with_resets_pass_through_all_devices_exactly(quick):
    """Outputs, final states, and the gradients of parameters, x and initial states."""
    assert quick["errors"]["LSTM"] <= SAME
    assert quick["cut off"] > 0.1  # what it would be if no state passed


def test_only_states_and_their_cotangents_pass_between_devices(quick):
    """h and c, forward and back, once per tick; then the gradients of the weights meet once."""
    assert quick["collectives"]["LSTM"] == [["all-reduce", 0, 1], ["collective-permute", 1, 4]]


REFUSED = {
    "steps": "ValueError: time steps: 22 cannot be shared evenly by the 4 devices along 'time'.*padding",
    "rows": "ValueError: 6 rows cannot be cut into 4 micro-batches.*divisors",
    "both directions": "ValueError: wavefront needs a layer of one direction.*data_parallel",
    "layout": "ValueError: time_axis=0, but the layer has batch_first=True. Pass time_axis=1",
    "state": "ValueError: state=None.*not LossOfStretch. Pass the state",
    "rows of the state": r"ValueError: state: expected 6 rows along axis 1 .* got shapes \[\(1, 4, 5\)\]",
    "lengths": r"ValueError: lengths\[0\] is 25, but must be from 0 to 24",
    "axis": r"ValueError: the mesh has the axes \('time',\), none is called 'data'",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_a_wavefront_is_refused_with_a_remedy(quick, what):
    assert re.match(REFUSED[what], quick["refused"][what]), quick["refused"][what]


@pytest.mark.slow
def test_every_layer_and_a_loss_in_segments_are_exact(thorough):
    worst = {name: error for name, error in thorough["errors"].items() if not error <= SAME}
    assert not worst
    assert thorough["collectives"]["GRU"] == [["all-reduce", 0, 1], ["collective-permute", 1, 2]]


@pytest.mark.slow
def test_in_float32_outputs_differ_by_a_few_roundings(thorough):
    assert (
        thorough["bits"] <= 4
    )  # units in the last place of 1: products of other shapes add up in another order


@pytest.mark.slow
def test_each_device_and_micro_batch_draws_dropout_masks_of_its_own(thorough):
    outputs = np.array(thorough["dropout"]["outputs"])
    pieces = [outputs[t : t + 6, b : b + 2] for t in range(0, 24, 6) for b in range(0, 6, 2)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(pieces, 2))
    assert thorough["dropout"]["drawn"] == 3 + 4 - 1  # ticks
