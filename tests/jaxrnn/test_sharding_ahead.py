"""What passes between the chips of a TPU that is not here: compiled for it ahead of time, and counted."""

import importlib.util

import pytest

from tests.jaxrnn.common import printed

pytestmark = [
    pytest.mark.aot,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="no compiler for TPUs: pip install 'jaxrnn[aot]'"
    ),
]
ONE_ROUND = [["all-reduce", 0, 1]]  # outside all loops


@pytest.fixture(scope="module")
def programs():
    names = (
        "rows, LSTM",
        "rows, GRU, in segments",
        "rows, GRU, in segments, left to the compiler",
        "time, LSTM",
        "units, LSTM",
    )
    return printed("tests.jaxrnn.sharding_ahead", "v5e", *names)


def test_sixteen_chips_reduce_once_after_all_loops(programs):
    assert programs["rows, LSTM"]["collectives"] == ONE_ROUND
    assert programs["rows, GRU, in segments"]["collectives"] == ONE_ROUND


def test_left_to_its_compiler_a_tpu_reduces_in_every_segment_of_a_loss(programs):
    """Which shows that the count finds what it looks for, there too."""
    found = programs["rows, GRU, in segments, left to the compiler"]["collectives"]
    assert ["all-reduce", 1, 1] in found


def test_in_a_wavefront_chips_exchange_states_alone(programs):
    assert programs["time, LSTM"]["collectives"] == [["all-reduce", 0, 1], ["collective-permute", 1, 4]]


def test_units_on_four_chips_cost_one_collective_per_step_and_a_fourth_of_the_memory(programs):
    found = programs["units, LSTM"]
    gather, scatter = ["all-gather", 1, 1], ["reduce-scatter", 1, 1]
    assert found["collectives"] == [["all-gather", 0, 1], gather, scatter]
    whole = 4 * 8192 * (8192 + 512) * 4  # bytes of the weights of all units, in float32
    assert found["device_bytes"] < 1.1 * (2 * whole / 4)  # with their gradients; states and gates are small
