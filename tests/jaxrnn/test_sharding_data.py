"""Data parallelism: what one device computes, with one round of reductions and none in a loop."""

import re

import numpy as np
import pytest

from tests.jaxrnn.common import printed

# Rows are summed shard by shard: the same operations in another order, in float64.
SAME = 1e-12
CHECKS = "tests.jaxrnn.data_parallel_checks"
ONE_ROUND = [["all-reduce", 0, 1]]  # outside all loops, of everything at once


@pytest.fixture(scope="module")
def quick():
    return printed(CHECKS, "quick")


@pytest.fixture(scope="module")
def thorough():
    return printed(CHECKS, "thorough")


def test_a_training_step_reduces_once_after_its_loops(quick):
    assert quick["spread"] == ONE_ROUND


def test_left_to_the_compiler_a_cpu_reduces_in_every_round_of_the_loop(quick):
    """Which shows that the count finds what it looks for."""
    assert [opcode for opcode, depth, _ in quick["left to the compiler"] if depth] == ["all-reduce"]


def test_shards_of_ragged_rows_weigh_what_they_hold(quick):
    """Mean, final states and all gradients; some shards hold no valid step at all, others all of theirs."""
    assert quick["float64"]["LSTM on 4"] <= SAME
    assert quick["mean of means"] > 0.01  # what it would be if all shards weighed the same


REFUSED = {
    "rows": r"ValueError: argument \[0\] of shape \(12, 6, 3\), axis 1: 6 cannot be shared .* rows of length 0",
    "mean": r"TypeError: the loss should return \(sum, count\), got .*each.sum\(\), each.size",
    "vector": r"ValueError: the loss should return its sum and count as scalars, got shapes \(2, 3\) and \(\)",
    "axis": r"ValueError: the mesh has the axes \('data',\), none is called 'rows'\. Pass axis=",
    "nothing spread": r"ValueError: no argument is spread along 'data'.*Name the axis of rows",
    "arguments": r"TypeError: the loss takes a model and 1 arguments, .* got 2",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_spread_is_refused_with_a_remedy(quick, what):
    assert re.match(REFUSED[what], quick["refused"][what]), quick["refused"][what]


@pytest.mark.slow
def test_loops_in_loops_and_a_loss_in_segments_hold_no_reduction(thorough):
    assert thorough["spread"] == ONE_ROUND
    assert thorough["in segments"] == ONE_ROUND


@pytest.mark.slow
def test_values_and_gradients_of_every_layer_are_those_of_one_device(thorough):
    worst = {name: error for name, error in thorough["float64"].items() if not error <= SAME}
    assert not worst


@pytest.mark.slow
def test_nothing_is_lost_in_float32(thorough):
    spread, alone = thorough["float32"]  # worst errors beside float64
    assert spread <= 2 * alone  # roundings of another order


@pytest.mark.slow
def test_a_training_run_over_windows_is_that_of_one_device(thorough):
    alone, spread = thorough["training"]
    assert len(alone) == 2
    np.testing.assert_allclose(spread, alone, rtol=SAME)


@pytest.mark.slow
def test_each_shard_draws_dropout_masks_of_its_own_and_streams_go_on(thorough):
    first, second = map(np.array, thorough["masks"]["outputs"])
    for outputs in (first, second):  # of equal rows
        assert len(np.unique(outputs[:, -1])) == len(outputs)
    assert not np.any(np.all(first == second, axis=1))
    assert thorough["masks"]["counts"] == [0, 1, 2]
    assert thorough["masks"]["key kept"]


@pytest.mark.slow
def test_running_statistics_are_averaged_over_the_shards(thorough):
    found, of_all_rows = thorough["statistics"]
    np.testing.assert_allclose(found, of_all_rows, rtol=1e-6)  # float32
