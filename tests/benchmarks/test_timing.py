"""Turns, rounds and ratios, on a clock that the tests set."""

import itertools

import numpy as np
import pytest

from benchmarks.timing import (
    FEWEST_ROUNDS,
    FOREIGN_LIMIT,
    PATIENCE,
    SHORTEST_ROUND,
    Round,
    measure,
    ratio,
    sort_out,
)
from tests.benchmarks.common import FakeClock

QUIET, LOUD = Round({"a": 1.0}, 0.0), Round({"a": 9.0}, 2 * FOREIGN_LIMIT)


def test_each_round_has_every_contender_once_and_no_place_is_anyones():
    clock, log = FakeClock(), []

    def contender(name):
        takes = clock.takes(1.0)
        return lambda: (log.append(name), takes())

    names = ["a", "b", "c"]
    rounds = measure({name: contender(name) for name in names}, 900, seed=0, clock=clock)
    timed = log[-3 * len(rounds.kept) :]
    turns = [timed[at : at + 3] for at in range(0, len(timed), 3)]
    assert all(sorted(turn) == names for turn in turns)
    assert len(turns) == 300
    for place, name in itertools.product(range(3), names):
        share = sum(turn[place] == name for turn in turns) / len(turns)
        assert 0.23 < share < 0.43  # a third, within 3.5 standard deviations


def test_a_contender_is_warmed_up_before_it_is_timed():
    clock = FakeClock()
    slow_at_first = itertools.chain([50.0, 20.0], itertools.repeat(1.0))
    rounds = measure({"a": clock.takes(lambda: next(slow_at_first))}, 0, seed=0, clock=clock)
    assert set(rounds.seconds("a")) == {1.0}


def test_quick_contenders_are_called_many_times_in_a_round():
    clock = FakeClock()
    contenders = {"quick": clock.takes(1e-4), "slow": clock.takes(5.0)}
    rounds = measure(contenders, 0, seed=0, clock=clock)
    np.testing.assert_allclose(rounds.seconds("quick"), 1e-4)
    one_turn = clock.seconds / (len(rounds.kept) + 2) - 5.0
    assert one_turn > SHORTEST_ROUND / 4  # of the quick one, whose warm-up is counted in


def test_there_are_seven_rounds_and_as_many_more_as_the_budget_allows():
    for budget, expected in ((0.0, FEWEST_ROUNDS), (30.0, 30)):
        clock = FakeClock()
        assert len(measure({"a": clock.takes(1.0)}, budget, seed=0, clock=clock).kept) == expected


def test_rounds_in_which_others_compute_are_dropped_and_counted():
    clock = FakeClock()
    loads = itertools.cycle([0.0, FOREIGN_LIMIT / 2, 2 * FOREIGN_LIMIT])
    rounds = measure({"a": clock.takes(1.0, lambda: next(loads))}, 10, seed=0, clock=clock)
    assert not rounds.noisy
    assert (len(rounds.kept), rounds.dropped) == (7, 4)
    assert all(each.foreign <= FOREIGN_LIMIT for each in rounds.kept)


def test_what_never_gets_quiet_is_measured_all_the_same_and_called_noisy():
    clock = FakeClock()
    rounds = measure({"a": clock.takes(1.0, 0.5)}, 10, seed=0, clock=clock)
    assert rounds.noisy
    assert len(rounds.kept) == PATIENCE * 10
    assert clock.seconds < 2 * PATIENCE * 10


@pytest.mark.parametrize(("quiet", "noisy"), [(4, True), (5, False)])
def test_five_clean_rounds_are_enough_and_four_are_not(quiet, noisy):
    rounds = sort_out([QUIET] * quiet + [LOUD] * 6)
    assert rounds.noisy == noisy
    assert (len(rounds.kept), rounds.dropped) == ((10, 0) if noisy else (5, 6))


def test_where_the_system_does_not_tell_every_round_counts():
    assert Round({"a": 1.0}, None).clean


# Ratios


def test_a_ratio_is_the_median_of_pairs_and_not_a_ratio_of_medians():
    above, below = np.array([1.0, 2.0, 100.0]), np.array([2.0, 1.0, 100.0])
    assert ratio(above, below).median == 1.0
    assert ratio(np.array([1.0, 10.0, 20.0]), np.array([2.0, 5.0, 10.0])).median == 2.0


def test_what_slows_both_down_leaves_the_ratio_alone():
    rng = np.random.default_rng(0)
    below = np.exp(rng.normal(size=30))  # rounds that differ tenfold
    found = ratio(0.8 * below * np.exp(0.01 * rng.normal(size=30)), below)
    assert found.low < 0.8 < found.high
    assert found.high - found.low < 0.03


def test_nineteen_intervals_of_twenty_contain_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = ratio(np.exp(0.1 * rng.normal(size=25)), np.ones(25), seed)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 < hits / 200 < 0.99  # 0.95, within three standard deviations of 200 trials


def test_the_same_timings_give_the_same_interval():
    values = np.linspace(1, 2, 11)
    assert ratio(values, values[::-1], seed=5) == ratio(values, values[::-1], seed=5)
