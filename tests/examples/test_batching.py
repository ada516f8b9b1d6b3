"""The three ways to cut a sequence: what may be carried, and which echo belongs to which bit."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from examples import batching
from examples.batching import CONSECUTIVE, DELAY, HABITS, SLIDING, STEPS, STREAMS


@pytest.mark.parametrize(("batch_size", "steps"), [(3, 4), (2, 5), (16, 8)])
def test_streams_alone_may_carry_their_state(batch_size, steps):
    ways = batching.cut(np.arange(batch_size * steps * 4), batch_size, steps)
    assert {name: batching.may_carry(numbers) for name, numbers in ways.items()} == {
        STREAMS: True,
        CONSECUTIVE: False,
        SLIDING: False,
    }
    for numbers in ways.values():
        assert numbers.shape[1:] == (batch_size, steps)
        assert (np.diff(numbers, axis=2) == 1).all()


def test_one_row_out_of_place_may_not_be_carried():
    numbers = batching.cut(np.arange(24), 2, 4)[STREAMS].copy()
    numbers[1, 1] += 1
    assert not batching.may_carry(numbers)


def test_a_description_counts_how_often_a_step_is_computed():
    numbers = batching.cut(np.arange(24), 2, 4)
    assert batching.described(STREAMS, numbers[STREAMS]) == (
        "parallel streams: rows 0-3 and 12-15, then 4-7 and 16-19; the state may be carried; "
        "a step is computed 1.0 times."
    )
    # Windows 0-3 to 19-22, twenty of them: 80 steps of 23 different ones.
    assert "a step is computed 3.5 times" in batching.described(SLIDING, numbers[SLIDING])


@pytest.mark.parametrize("way", [STREAMS, CONSECUTIVE, SLIDING])
def test_an_echo_is_the_bit_of_five_steps_before(way):
    bits = np.random.default_rng(0).integers(0, 2, 4096, dtype=np.int32)
    inputs, targets = batching.echo(way, bits)
    assert inputs.shape == targets.shape
    np.testing.assert_array_equal(targets[..., DELAY:], inputs[..., :-DELAY])
    before = np.array_equal(targets[1:, :, :DELAY], inputs[:-1, :, STEPS - DELAY :])
    assert before == (way == STREAMS)  # the bits of the same row, one batch earlier


def test_only_the_end_of_a_sliding_window_is_asked_for():
    asked = {habit.way: len(range(STEPS)[habit.asked]) for habit in HABITS}
    assert asked == {STREAMS: STEPS, CONSECUTIVE: STEPS, SLIDING: 1}
