"""What a report keeps of an array for its plots: few elements, the worst among them, errors by step."""

import numpy as np
import pytest

from parity import gates
from parity.compare import compare_arrays
from parity.gates import Quartet


def quartet(shape=(5, 9, 40), seed=0, **options):
    rng = np.random.default_rng(seed)
    oracle = rng.standard_normal(shape)
    reference = oracle.astype(np.float32)
    candidate = (oracle * (1 + 1e-6 * rng.standard_normal(shape))).astype(np.float32)
    return Quartet(candidate, reference, oracle, oracle, **options)


def test_a_sample_is_small_and_holds_the_worst_element():
    q = quartet()
    sample = gates.sample(q)
    errors = np.abs(q.candidate - q.oracle)
    assert len(sample.size) == len(sample.candidate) == len(sample.reference) <= gates.SAMPLED
    assert max(sample.candidate) == errors.max()
    sizes = np.sort(np.abs(q.oracle).ravel())
    assert (min(sample.size), max(sample.size)) == (sizes[0], sizes[-1])  # evenly by size: both ends are in
    for size, candidate, reference in zip(sample.size, sample.candidate, sample.reference, strict=True):
        place = np.abs(q.oracle) == size
        assert (candidate, reference) == (errors[place][0], np.abs(q.reference - q.oracle)[place][0])


def test_a_small_array_is_kept_whole_without_its_zeros():
    q = quartet((2, 3))
    q.oracle[0, 0] = 0.0
    assert sorted(gates.sample(q).size) == sorted(np.abs(q.oracle).ravel()[1:])
    q.oracle[:] = 0.0
    assert gates.sample(q).size == ()


@pytest.mark.parametrize("batch_axis", [0, 1])
def test_errors_by_step_leave_out_rows_that_have_ended(batch_axis):
    q = quartet(((5, 9, 4), (9, 5, 4))[batch_axis], kind="output", batch_axis=batch_axis)
    for array in (q.oracle, q.candidate, q.reference):
        np.moveaxis(array, batch_axis, 0)[1:, 6:] = 0.0  # all rows but one have six steps
    by_step = np.moveaxis(np.abs(q.candidate - q.oracle), batch_axis, 0)
    expected = [np.sqrt(np.mean(by_step[: 5 if t < 6 else 1, t] ** 2)) for t in range(by_step.shape[1])]
    np.testing.assert_allclose(gates.sample(q).candidate_steps, expected, rtol=1e-12)  # the same sum, scaled


@pytest.mark.parametrize(
    "options", [{}, {"kind": "state", "batch_axis": 1}, {"kind": "output", "batch_axis": 2}]
)
def test_an_axis_of_steps_that_is_not_known_is_not_guessed(options):
    assert gates.sample(quartet((5, 9, 4), **options)).candidate_steps == ()


def test_there_is_a_sample_only_where_both_sides_were_measured():
    q = quartet((3, 4))
    given = {"x": q.candidate}, {"x": q.reference}, {"x": q.oracle}
    (both,) = compare_arrays(*given, {"x": q.oracle})
    (float64,) = compare_arrays({"x": q.oracle}, {"x": q.oracle})
    (exact,) = compare_arrays(*given, {"x": q.oracle}, kinds={"x": "param"})
    assert both.sample == gates.sample(q)
    assert float64.sample is None
    assert exact.sample is None
