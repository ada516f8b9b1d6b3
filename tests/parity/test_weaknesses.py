"""What passes elsewhere must not pass here: each weakness was found in a harness that people use.

Every test is called by what would pass, and asserts that the verdict is not EQUIVALENT and the exit code not 0. The
arrays are in float64, and then the verdict needs no oracle, or come as the four of a whole comparison.
"""

import inspect

import numpy as np
import pytest

import parity
from parity.compare import compare_arrays
from parity.verdict import CaseResult, Comparison, Report

STEPS, ROWS, FEATURES = 9, 5, 7
OUTPUT = np.random.default_rng(0).standard_normal((STEPS, ROWS, FEATURES))
U = 2.0**-24


def refused(report, verdict="DIVERGENT"):
    """Assert that a report is no pass, in any of the ways in which a caller may ask."""
    codes = {"DIVERGENT": 1, "ERROR": 2, "INCONCLUSIVE": 3}
    assert report.verdict == verdict != "EQUIVALENT"
    assert report.exit_code == codes[verdict] != 0
    return report


def compared(candidate, reference=OUTPUT):
    return parity.compare({"output": candidate}, {"output": reference})


def in_float32(candidate, oracle=OUTPUT, reference=None):
    """Compare in both tiers; the candidate's float64 run is perfect, so that float32 alone can object."""
    reference = oracle.astype(np.float32) if reference is None else reference
    return parity.compare((candidate,), (reference,), oracle=(oracle,), candidate64=(oracle,))


def counted(results, expected):
    return Report((CaseResult("c", comparisons=(Comparison("p", tuple(results), expected),)),))


def test_the_honest_pair_that_all_of_these_spoil_does_pass():
    assert compared(OUTPUT + 1e-16).exit_code == 0
    assert in_float32(OUTPUT.astype(np.float32)).exit_code == 0


# W1, PaDiff: the default mode compares the means of tensors


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: x[::-1], id="time reversed"),
        pytest.param(lambda x: x[:, ::-1], id="rows of the batch reversed"),
        pytest.param(lambda x: x[..., [1, 0, 2, 3, 4, 5, 6]], id="two gates swapped"),
        pytest.param(lambda x: np.full_like(x, x.mean()), id="the mean everywhere"),
    ],
)
def test_arrays_of_the_same_mean_are_not_the_same(spoil):
    wrong = spoil(OUTPUT)
    assert wrong.mean() == pytest.approx(OUTPUT.mean(), abs=1e-15)  # the order of the sum
    refused(compared(wrong))


def test_nan_compared_with_nan_is_no_agreement():
    refused(compared(np.full_like(OUTPUT, np.nan), np.full_like(OUTPUT, np.nan)), "INCONCLUSIVE")


# W2, PaDiff: a return inside the loop, and only step 0 is compared


def test_steps_that_agree_at_the_first_only_are_not_the_same():
    wrong = OUTPUT.copy()
    wrong[1:] += 1e-9
    report = refused(compared(wrong))
    assert report["output"].first.index == (1, 0, 0)


def test_the_first_step_alone_is_not_all_of_the_steps():
    steps = {f"step.{number}": step for number, step in enumerate(OUTPUT)}
    refused(parity.compare({"step.0": OUTPUT[0]}, steps))
    refused(counted(compare_arrays({"step.0": OUTPUT[0]}, {"step.0": OUTPUT[0]}), len(steps)), "INCONCLUSIVE")


# W3, PaDiff: the loss is a mean, whose gradient through a softmax or a norm is zero


def test_gradients_that_vanish_on_both_sides_test_nothing():
    dead = {"grad(weight)": np.zeros((3, 4))}
    refused(parity.compare(dead, dead), "INCONCLUSIVE")


def test_a_sum_over_a_softmax_as_a_loss_would_test_nothing():
    """The judge's own cotangents are drawn at random: with ones, this gradient is rounding noise."""
    probability = np.exp(OUTPUT) / np.exp(OUTPUT).sum(-1, keepdims=True)

    def gradient(cotangent):
        return probability * (cotangent - (cotangent * probability).sum(-1, keepdims=True))

    drawn = parity.Probe().cotangent("output", OUTPUT.shape)
    assert np.abs(gradient(np.ones_like(OUTPUT))).max() < 1e-15  # rounding
    assert np.abs(gradient(drawn)).max() > 0.1


# W4, reprod_log: nan > limit is false, and shapes are transposed until they fit


def test_a_nan_on_one_side_exceeds_every_limit():
    for place in ("candidate", "reference"):
        spoilt = OUTPUT.copy()
        spoilt[2, 1, 3] = np.nan
        sides = (spoilt, OUTPUT) if place == "candidate" else (OUTPUT, spoilt)
        refused(compared(*sides))


def test_a_transposed_array_is_not_turned_round():
    report = refused(compared(np.swapaxes(OUTPUT, 0, 1)))
    assert report["output"].gate == "structure"
    assert report.compared == 0
    refused(compared(OUTPUT.reshape(-1)))
    refused(compared(OUTPUT[:1], OUTPUT[0]))  # nor broadcast


# W5, transformers: NaN on either side zeroes both, and a model that does not exist is skipped


def test_a_model_that_answers_nan_everywhere_is_not_equal_to_one_that_works():
    refused(compared(np.full_like(OUTPUT, np.nan)))
    refused(in_float32(np.full(OUTPUT.shape, np.nan, np.float32)))


def test_a_model_that_does_not_exist_is_not_a_pass():
    report = Report((CaseResult("lstm", not_run="torch not installed"),))
    assert report.verdict == "INCONCLUSIVE"
    assert report.exit_code == 4


# W6, transformers: (a - b).sum() <= tolerance


def test_errors_that_cancel_in_a_signed_sum_remain_errors():
    error = np.zeros_like(OUTPUT)
    error[0], error[1] = 0.5, -0.5
    assert abs(error.sum()) == 0
    refused(compared(OUTPUT + error))


def test_a_candidate_that_is_smaller_everywhere_fails_as_well():
    refused(compared(OUTPUT - 10))


# W7, AlgoPerf: rtol=1, the last iteration only; test_capture.py has the stale files


def test_half_of_the_loss_is_not_the_loss():
    refused(parity.compare({"loss": np.array([1.01])}, {"loss": np.array([2.0])}))


def test_a_trajectory_that_meets_again_at_the_end_has_parted_before():
    losses = np.linspace(2.0, 1.0, 10)
    wrong = losses.copy()
    wrong[3] += 1e-6
    refused(parity.compare({"loss": wrong}, {"loss": losses}))


# W8, msprobe: the denominator has a floor of 2^-14, and two ratios that are no numbers agree


def test_a_candidate_a_thousand_times_less_accurate_is_not_excused_by_a_floor():
    noise = np.random.default_rng(1).uniform(-1, 1, OUTPUT.shape)
    reference = (OUTPUT * (1 + 1e-7 * noise)).astype(np.float32)
    candidate = (OUTPUT * (1 + 1e-4 * noise)).astype(np.float32)
    report = refused(in_float32(candidate, reference=reference))
    assert next(iter(report.tensors)).gate == "numeric"


def test_plus_and_minus_infinity_at_one_place_are_not_equal():
    plus, minus = OUTPUT.copy(), OUTPUT.copy()
    plus[0, 0, 0], minus[0, 0, 0] = np.inf, -np.inf
    refused(compared(minus, plus))


def test_infinities_everywhere_are_not_a_ratio_of_one():
    everywhere = np.full_like(OUTPUT, np.inf)
    refused(compared(everywhere, everywhere), "INCONCLUSIVE")


# W9, Polygraphy: fails only where the absolute and the relative tolerance are exceeded, and skips what is missing


def test_small_numbers_are_not_equal_because_their_difference_is_small():
    small = 1e-3 * OUTPUT
    refused(in_float32((small + 9e-6).astype(np.float32), small))


def test_large_numbers_are_not_equal_because_their_ratio_is_near_one():
    large = 1e6 * OUTPUT
    refused(in_float32((large * (1 + 9e-6)).astype(np.float32), large))


def test_an_output_that_is_missing_is_not_skipped():
    both = {"output": OUTPUT, "h_n": OUTPUT[-1]}
    report = refused(parity.compare({"output": OUTPUT}, both))
    assert (report.compared, report.expected) == (1, 2)
    assert report["h_n"].message == "missing in the candidate"
    report = refused(parity.compare(both, {"output": OUTPUT}))
    assert "unexpected" in report["-"].message


# W10, JAX: only full rows were tested, so that the state at the last step of the padding passed


def test_a_state_read_behind_the_end_of_a_short_row_is_wrong():
    lengths = np.array([STEPS, 1, 6, 4, 6])
    right, wrong = OUTPUT[lengths - 1, np.arange(ROWS)], OUTPUT[-1]
    report = refused(parity.compare({"h_n": wrong}, {"h_n": right}))
    assert report["h_n"].first.index[0] == 1  # the full row 0 agrees


# W11, optax: Rprop with a stale update converges too


def test_a_trajectory_one_step_late_is_another_trajectory():
    weights = np.cumsum(np.random.default_rng(2).standard_normal((12, 4)), axis=0)
    late = np.concatenate([weights[:1], weights[:-1]])
    refused(parity.compare({"weights": late}, {"weights": weights}))


# W13, ocannl, NeMo: two models that are both dead agree


def test_two_dead_models_agree_and_nothing_is_proven():
    dead = {"output": np.zeros_like(OUTPUT), "grad(weight)": np.zeros((3, 4))}
    refused(parity.compare(dead, dead), "INCONCLUSIVE")


def test_two_models_that_ignore_their_inputs_agree_and_nothing_is_proven():
    constant = {"output": np.broadcast_to(OUTPUT[:, :1], OUTPUT.shape).copy()}
    refused(counted(compare_arrays(constant, constant, batch_axes={"output": 1}), 1), "INCONCLUSIVE")


# W14, notorch, lattice: two empty sides are equal, and everything may be waived


def test_two_empty_sides_have_nothing_in_common():
    report = parity.compare({}, {})
    assert report.verdict == "INCONCLUSIVE"
    assert report.exit_code == 5
    empty = np.zeros((0, 3))
    refused(compared(empty, empty), "INCONCLUSIVE")
    assert Report(()).exit_code == 5
    assert Report((CaseResult("c"),)).exit_code == 5


def test_a_run_in_which_everything_is_skipped_is_not_a_pass():
    skipped = Report(tuple(CaseResult(name, not_run="a package is missing") for name in ("lstm", "gru")))
    assert skipped.verdict == "INCONCLUSIVE"
    assert skipped.exit_code == 4


def test_one_case_that_passes_does_not_carry_one_that_was_skipped():
    passed = parity.compare({"output": OUTPUT}, {"output": OUTPUT}).cases[0]
    report = Report((passed, CaseResult("gru", not_run="a package is missing")))
    assert report.verdict == "INCONCLUSIVE"
    assert report.exit_code == 4


def test_zeros_that_are_declared_do_not_waive_what_is_not_zero():
    results = compare_arrays({"output": OUTPUT}, {"output": OUTPUT}, zeros={"output": True})
    refused(counted(results, 1), "ERROR")


# W15, Sarek: a tolerance looser than the bug that it must see


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-9, 1e-12])
def test_a_difference_above_the_sensitivity_that_was_stated_is_seen(size):
    honest = compared(OUTPUT)
    assert honest.semantic_sensitivity < size
    refused(compared(OUTPUT * (1 + size)))


# W17, a tutorial: the tolerance was raised until it passed


def test_there_is_no_tolerance_that_can_be_raised_until_it_passes():
    for function in (parity.compare, parity.assert_equivalent, compare_arrays, parity.Probe):
        names = inspect.signature(function).parameters
        assert not any("tol" in name or "threshold" in name for name in names), function
    with pytest.raises(TypeError):
        parity.compare({"x": OUTPUT}, {"x": OUTPUT + 1}, atol=1e-1)
    with pytest.raises(parity.ParityError):
        parity.assert_equivalent({"x": OUTPUT + 1}, {"x": OUTPUT})


# Everywhere: the two sides given the wrong way round


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
def test_swapped_sides_do_not_make_a_wrong_candidate_the_measure(size):
    """The oracle belongs to the reference: what is given for the reference is far from it, or another function."""
    wrong = OUTPUT + size * np.random.default_rng(3).standard_normal(OUTPUT.shape)
    right32, wrong32 = (array.astype(np.float32) for array in (OUTPUT, wrong))
    refused(parity.compare((wrong32,), (right32,), oracle=(OUTPUT,), candidate64=(wrong,)))
    swapped = parity.compare((right32,), (wrong32,), oracle=(wrong,), candidate64=(OUTPUT,))
    refused(swapped)
    crossed = parity.compare((right32,), (wrong32,), oracle=(OUTPUT,), candidate64=(wrong,))
    refused(crossed, "INCONCLUSIVE" if size == 1.0 else "DIVERGENT")


def test_swapped_models_are_refused_with_the_right_order():
    torch = pytest.importorskip("torch")
    from flax import nnx

    ours, theirs = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 4)
    with pytest.raises(
        TypeError, match=r"the candidate comes first: compare\(candidate, reference, inputs\)"
    ):
        parity.compare(theirs, ours, (OUTPUT[0, :, :3].astype(np.float32),))
