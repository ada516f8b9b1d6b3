"""Buckets: the least padding there can be, each sequence once, and a program per shape."""

from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.bucketing import Buckets, plan_buckets

RNG = np.random.default_rng(0)
LENGTHS = np.minimum(RNG.lognormal(2.5, 0.8, 90).astype(int), 60)
SEQUENCES = [np.full((n, 2), k, np.float32) + np.arange(n)[:, None] / 100 for k, n in enumerate(LENGTHS)]


def steps_by_hand(lengths, bounds, rows):
    """Deal the sequences out, batch by batch, and count."""
    total, low = 0, -1
    for bound, each in zip(bounds, rows, strict=True):
        waiting = sum(low < n <= bound for n in lengths)
        while waiting > 0:
            total, waiting = total + each * bound, waiting - each
        low = bound
    return total


# The optimum


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("options", [{"rows": 1}, {"rows": 4}, {"steps_per_batch": 100}])
def test_no_other_choice_of_bounds_computes_fewer_steps(options, multiple):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 25, rng.integers(1, 40))
        there = sorted({max(-(-n // multiple), 1) * multiple for n in lengths.tolist()})
        for shapes in (1, 2, 3, 5):
            plan = plan_buckets(lengths, shapes, step_multiple=multiple, **options)
            least = min(
                steps_by_hand(lengths, bounds, [options.get("rows") or 100 // b for b in bounds])
                for count in range(1, shapes + 1)
                for chosen in combinations(there[:-1], min(count, len(there)) - 1)
                for bounds in [[*chosen, there[-1]]]
            )
            assert plan.computed_steps == steps_by_hand(lengths, plan.bounds, plan.rows) == least
            assert len(plan.shapes) <= shapes


def test_a_plan_by_quantiles_computes_more():
    """The test above can fail: the usual rule of thumb is not the optimum."""
    best = plan_buckets(LENGTHS, 3, rows=4)
    bounds = tuple(np.quantile(LENGTHS, [1 / 3, 2 / 3, 1], method="higher").tolist())
    assert best.computed_steps < Buckets(LENGTHS, bounds, (4, 4, 4)).computed_steps


def test_more_shapes_than_lengths_leave_no_padding_and_one_shape_is_the_longest():
    lengths = np.repeat([3, 5, 9], 4)
    plan = plan_buckets(lengths, 7, rows=2)
    assert (plan.shapes, plan.padding) == (((2, 3), (2, 5), (2, 9)), 0)
    one = plan_buckets(lengths, 1, rows=2)
    assert one.shapes == ((2, 9),)
    assert one.padding == pytest.approx(1 - 68 / 108, rel=1e-15)
    assert "Padding: 0.0% of the steps, 37.0% in the longest shape alone." in str(plan)


def test_empty_rows_count_as_padding():
    # Five sequences of 8 and one of 9: apart they are two batches of 4 x 8 and one of 4 x 9, together two of 4 x 9.
    assert plan_buckets([8] * 5 + [9], 2, rows=4).shapes == ((4, 9),)
    assert plan_buckets([8] * 5 + [9], 2, rows=1).shapes == ((1, 8), (1, 9))


def test_bounds_and_rows_are_multiples():
    plan = plan_buckets(LENGTHS, 4, steps_per_batch=1000, step_multiple=8, row_multiple=4)
    assert all(steps % 8 == 0 and rows % 4 == 0 and rows * steps <= 1000 for rows, steps in plan.shapes)
    assert all((rows + 4) * steps > 1000 for rows, steps in plan.shapes)
    assert plan.bounds[-1] >= LENGTHS.max()


# Batches


@pytest.mark.parametrize("seed", [None, 3])
def test_every_sequence_is_in_one_batch_of_an_epoch(seed):
    plan = plan_buckets(LENGTHS, 3, steps_per_batch=240)
    batches = list(plan.batches(shuffle_seed=seed, epoch=1))
    assert len(batches) == len(plan)
    taken = np.concatenate([batch.examples for batch in batches])
    assert sorted(taken[taken >= 0]) == list(range(len(LENGTHS)))
    for batch in batches:
        padded = batch.pad(SEQUENCES, padding_value=-7)
        assert padded.shape[:2] in plan.shapes
        for row, example, length in zip(padded, batch.examples, batch.lengths, strict=True):
            np.testing.assert_array_equal(
                row[:length], SEQUENCES[example][: len(row)] if example >= 0 else row[:0]
            )
            assert np.all(row[length:] == -7)
            assert length == (LENGTHS[example] if example >= 0 else 0)
        expected = [LENGTHS[e] if e >= 0 else -5 for e in batch.examples]
        np.testing.assert_array_equal(batch.take(LENGTHS, empty=-5), expected)


def test_batches_depend_on_seed_and_epoch_alone():
    plan = plan_buckets(LENGTHS, 3, rows=8)

    def order(**options):
        return np.concatenate([batch.examples for batch in plan.batches(**options)]).tolist()

    assert order(shuffle_seed=1, epoch=2) == order(shuffle_seed=1, epoch=2)
    assert len({tuple(order(shuffle_seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(epoch=3) == order()


def test_parts_of_a_batch_are_its_rows_in_their_order():
    for batch in plan_buckets(LENGTHS, 3, rows=6).batches():
        parts = [batch.part(index, 3) for index in range(3)]
        whole = np.concatenate([part.pad(SEQUENCES) for part in parts])
        np.testing.assert_array_equal(whole, batch.pad(SEQUENCES))
        np.testing.assert_array_equal(np.concatenate([part.lengths for part in parts]), batch.lengths)
        with pytest.raises(ValueError, match=r"6 rows cannot be shared by 4 processes.*row_multiple=4"):
            batch.part(0, 4)


def test_a_program_is_compiled_once_per_bucket_and_padding_changes_no_result():
    lstm = jaxrnn.LSTM(2, 3, batch_first=True, rngs=nnx.Rngs(0))
    traced = []

    @nnx.jit
    def last(lstm, x, lengths):
        traced.append(x.shape)
        return lstm(x, lengths=lengths)[1][0][0]

    plan = plan_buckets(LENGTHS, 3, steps_per_batch=240)
    found = np.zeros((len(LENGTHS), 3), np.float32)
    for epoch in range(2):
        for batch in plan.batches(shuffle_seed=0, epoch=epoch):
            h = np.asarray(last(lstm, batch.pad(SEQUENCES, np.nan), batch.lengths))
            found[batch.examples[batch.examples >= 0]] = h[batch.examples >= 0]
    assert sorted(traced) == [(rows, steps, 2) for rows, steps in sorted(plan.shapes)]
    longest = plan_buckets(LENGTHS, 1, rows=len(LENGTHS))
    (all_of_them,) = longest.batches()
    expected = last(lstm, jnp.asarray(all_of_them.pad(SEQUENCES)), all_of_them.lengths)
    # The same float32 operations, in products over other numbers of rows.
    np.testing.assert_allclose(found, expected, atol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("lengths", "options", "error", "message"),
    [
        ([], {"rows": 2}, ValueError, "at least one, got shape"),
        ([[1, 2]], {"rows": 2}, ValueError, r"got shape \(1, 2\)"),
        ([1.0, 2.0], {"rows": 2}, TypeError, "whole numbers, got dtype float64"),
        ([1, -2], {"rows": 2}, ValueError, r"lengths\[1\]=-2"),
        ([1], {}, ValueError, "expected one of rows=None and steps_per_batch=None"),
        ([1], {"rows": 2, "steps_per_batch": 3}, ValueError, "expected one of rows=2"),
        (
            [1],
            {"rows": 6, "row_multiple": 4},
            ValueError,
            "rows=6: expected a positive multiple of row_multiple=4",
        ),
        (
            [9],
            {"steps_per_batch": 30, "row_multiple": 4},
            ValueError,
            "too few for 4 rows of 9 steps.*allow 36",
        ),
        ([9], {"rows": 2, "step_multiple": 0}, ValueError, "step_multiple=0: expected at least 1"),
    ],
)
def test_plans_that_make_no_sense_are_refused(lengths, options, error, message):
    with pytest.raises(error, match=message):
        plan_buckets(lengths, 2, **options)


def test_sequences_of_other_lengths_than_planned_are_refused():
    (batch,) = plan_buckets([3, 4], 1, rows=2).batches()
    with pytest.raises(ValueError, match=r"sequences\[1\] has 5 steps, but 4 were planned"):
        batch.pad([np.zeros(3), np.zeros(5)])


def test_there_must_be_a_shape():
    with pytest.raises(ValueError, match="shapes=0: expected at least 1"):
        plan_buckets([3], 0, rows=2)
