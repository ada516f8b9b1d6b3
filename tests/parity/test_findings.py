"""What each gate says, to the letter, and where it draws its line. NumPy only.

A finding is read by people who must act on it: who is to blame, where, how much, and what to do.
"""

import dataclasses
import warnings

import numpy as np
import pytest

from parity import gates
from parity.compare import compare_arrays, judge
from parity.gates import Quartet, ReferenceError, rms
from tests.parity.quartets import U, draw, judged, nearly, noisy, with_value

U64 = 2.0**-53


def says(result, verdict, gate, message):
    assert (result.verdict, result.gate, result.message) == (verdict, gate, message)


# Structure


def test_words_and_complex_numbers_are_refused_as_what_they_are():
    words = np.array(["a", "b"])
    (result,) = compare_arrays({"x": words}, {"x": words})
    remedy = "cannot be judged; give real numbers, integers or booleans"
    says(result, "ERROR", "structure", f"reference: dtype <U1 {remedy}")
    says(judged(candidate64=draw(0) + 0j), "ERROR", "structure", f"candidate64: dtype complex128 {remedy}")


def test_a_wrong_shape_or_dtype_is_told_with_the_one_expected():
    oracle = draw(0)
    found = judged(oracle.T.astype(np.float32))
    says(found, "DIVERGENT", "structure", "candidate: shape (7, 5), expected (5, 7)")
    found = judged(oracle.astype(np.float16))
    says(found, "DIVERGENT", "structure", "dtype float16, expected float32")
    labels = np.arange(35).reshape(5, 7)
    found = judged(labels)
    says(found, "DIVERGENT", "structure", "candidate: dtype int64, expected float as float64")
    for wrong, right, kind in ((labels == 1, labels, "integer"), (labels, labels == 1, "boolean")):
        found = judged(wrong, reference=right, oracle=right, candidate64=right)
        assert not found.compared
        message = f"candidate: dtype {wrong.dtype}, expected {kind} as {right.dtype}"
        says(found, "DIVERGENT", "structure", message)


def test_elements_that_differ_are_counted_where_equality_is_asked_for():
    labels = np.arange(6).reshape(2, 3)
    found = judged(labels + (labels > 3), reference=labels, oracle=labels, candidate64=labels)
    message = "2 of 6 elements differ; this kind of array must be exactly equal"
    says(found, "DIVERGENT", "structure", message)
    assert found.first == found.worst == gates.Element((1, 1), 5.0, 4.0, 4.0)
    weights = noisy(draw(0), 1)
    found = judged(2 * weights, reference=weights, kinds="param")
    remedy = "copy the weights with parity.port(reference, candidate)"
    message = f"35 of 35 elements differ; this kind of array must be exactly equal; {remedy}"
    says(found, "DIVERGENT", "structure", message)


def test_a_parameter_that_is_nan_on_both_sides_is_equal_and_on_one_side_is_not():
    weights = with_value(draw(0).astype(np.float32), np.nan)
    options = {"oracle": weights.astype(np.float64), "candidate64": weights.astype(np.float64)}
    assert judged(weights, reference=weights, kinds="param", **options).verdict == "EQUIVALENT"
    changed = with_value(weights, 7.0, (0, 0))
    assert judged(changed, reference=weights, kinds="param", **options).first.index == (0, 0)
    for one, other in ((weights, with_value(weights, 7.0)), (with_value(weights, 7.0), weights)):
        quartet = Quartet(one, other, None, None, kind="param")
        assert gates.exact(quartet)["verdict"] == "DIVERGENT"


# NaN and infinities


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "+inf"), (-np.inf, "-inf")])
def test_a_value_that_is_not_finite_is_called_by_its_name_place_and_owner(value, name):
    oracle = with_value(draw(0), 0.5)
    honest = {"oracle": oracle, "reference": noisy(oracle, 1), "candidate64": oracle}
    told = f"{name} in 1 places of one side only, first at [1, 2]: %s has {value:.6g}, the oracle 0.5"
    found = judged(with_value(noisy(oracle, 2), value), **honest)
    says(found, "DIVERGENT", "non-finite", told % "candidate")
    found = judged(noisy(oracle, 2), **honest | {"candidate64": with_value(oracle, value)})
    says(found, "DIVERGENT", "non-finite", told % "candidate64")
    found = judged(noisy(oracle, 2), **honest | {"reference": with_value(honest["reference"], value)})
    remedy = "; the probe leaves the range of the reference's dtype: use a smaller scale"
    says(found, "INCONCLUSIVE", "non-finite", told % "reference" + remedy)


def test_a_nan_is_blamed_on_the_candidate_also_where_no_other_run_was_given():
    spoilt = with_value(noisy(draw(0), 2), np.nan)
    (found,) = compare_arrays({"x": spoilt}, {"x": noisy(draw(0), 1)}, {"x": draw(0)})
    assert (found.verdict, found.gate) == ("DIVERGENT", "non-finite")


# Declared zeros, vacuity, validity


def test_a_declaration_that_does_not_fit_says_what_is_wrong_with_it():
    found = judged(zeros=np.ones((3, 3), bool))
    message = "the mask of declared zeros has shape (3, 3), the tensor (5, 7)"
    says(found, "ERROR", "vacuity", message)
    told = "declared zero by the probe, but the %s is not: correct the declaration"
    says(judged(zeros=True), "ERROR", "vacuity", told % "oracle")
    zero = np.zeros((5, 7))
    found = judged(oracle=zero, reference=noisy(draw(0), 1), zeros=True)
    says(found, "ERROR", "vacuity", told % "reference")


def test_a_mask_of_zeros_may_be_given_as_integers():
    padding = np.arange(5)[:, None] >= 3
    oracle = np.where(padding, 0.0, draw(0))
    honest = {"reference": noisy(oracle, 1) * ~padding, "oracle": oracle}
    candidate = noisy(oracle, 2) * ~padding
    for mask in (padding, padding.astype(int), 2 * padding):
        assert judged(candidate, **honest, zeros=mask).verdict == "EQUIVALENT"
        leak = with_value(with_value(candidate, 1e-30, (3, 6)), 1e-30, (4, 0))
        says(
            judged(leak, **honest, zeros=mask),
            "DIVERGENT",
            "zeros",
            "must be exactly zero, but candidate has 1e-30 at [3, 6]",
        )


def test_what_tests_nothing_says_why_and_what_to_change():
    zero, empty = np.zeros((5, 7)), np.zeros((0, 3))
    dead = {"reference": zero.astype(np.float32), "candidate64": zero}
    says(
        judged(zero.astype(np.float32), oracle=zero, **dead),
        "INCONCLUSIVE",
        "vacuity",
        "zero everywhere: nothing was tested; change the probe, or declare it: Probe(zeros={name: True})",
    )
    (found,) = compare_arrays({"x": empty}, {"x": empty})
    says(found, "INCONCLUSIVE", "vacuity", "no elements: nothing was tested")
    told = "the oracle is zero everywhere, the candidate is not"
    says(judged(noisy(draw(0), 2), oracle=zero, **dead), "DIVERGENT", "zeros", told)
    spoilt = dead | {"candidate64": draw(0)}
    says(judged(zero.astype(np.float32), oracle=zero, **spoilt), "DIVERGENT", "zeros", told)
    found = judged(zero.astype(np.float32), oracle=zero, candidate64=zero, reference=noisy(draw(0), 1))
    says(found, "INCONCLUSIVE", "validity", "the oracle is zero, the reference only rounds to it")


def test_two_equal_rows_are_a_batch_that_tests_nothing():
    oracle = np.broadcast_to(draw(0, (1, 7)), (2, 7)).copy()
    message = "the same for every row of the batch: a mixed-up batch would pass; change the inputs"
    says(judged(oracle=oracle, batch_axes=0), "INCONCLUSIVE", "vacuity", message)


@pytest.mark.parametrize(("units", "verdict"), [(16, "INCONCLUSIVE"), (17, "EQUIVALENT")])
@pytest.mark.parametrize("scale", [1.0, 2.0**10, 2.0**-10])
def test_rows_are_the_same_up_to_16_units_of_the_last_place(units, verdict, scale):
    oracle = np.ones((3, 200))  # so many that rms is 1, whatever happens to one of them
    oracle[2, 0] -= units * U64
    assert rms(oracle) == 1.0
    assert judged(oracle=oracle * scale, batch_axes=0).verdict == verdict


def test_every_row_is_held_against_the_first_of_them():
    oracle = np.ones((4, 200))
    oracle[:, 0] -= np.array([0, 10, 20, 10]) * U64  # from the second or the last, none is further than 10
    assert judged(oracle=oracle, batch_axes=0).verdict == "EQUIVALENT"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_the_same_where_their_values_are(value):
    oracle = np.broadcast_to(draw(0, (1, 7)), (5, 7)).copy()

    def verdict(*spoilt):
        x = oracle.copy()
        for index, spoil in spoilt:
            x[index] = spoil
        return judged(oracle=x, batch_axes=0).verdict

    assert verdict(((..., 3), value)) == "INCONCLUSIVE"
    assert verdict(((2, 3), value)) == "EQUIVALENT"
    assert verdict(((0, 3), value)) == "EQUIVALENT"
    assert verdict(((..., 3), value), ((2, 4), 9.0)) == "EQUIVALENT"
    for other in {np.nan, np.inf, -np.inf} - {value}:
        assert verdict(((..., 3), value), ((2, 3), other)) == "EQUIVALENT"


def test_an_infinity_in_the_first_row_is_no_row_like_the_others():
    oracle = np.broadcast_to(np.array([0.0, 1.0, 2.0]), (3, 3)).copy()
    oracle[0, 0] = np.inf
    assert judged(oracle=oracle, batch_axes=0).verdict == "EQUIVALENT"


@pytest.mark.parametrize("float32_too", [False, True])
def test_an_infinity_on_both_sides_hides_no_wrong_element(float32_too):
    oracle = with_value(draw(0), np.inf)
    wrong = oracle.copy()
    wrong[4, 6] += 1.0
    candidate = wrong.astype(np.float32)
    exact64 = oracle if float32_too else wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judged(candidate, oracle=oracle, candidate64=exact64, reference=oracle.astype(np.float32))
    assert (found.verdict, found.gate) == ("DIVERGENT", "numeric" if float32_too else "semantic")
    assert found.worst.index == found.first.index == (4, 6)


def test_a_probe_that_measures_nothing_or_too_coarsely_is_not_valid():
    nothing = with_value(np.zeros((5, 7)), np.nan)
    found = judged(nothing.astype(np.float32), oracle=nothing, reference=nothing.astype(np.float32))
    message = "no finite element other than zero: nothing can be measured"
    says(found, "INCONCLUSIVE", "validity", message)
    assert found.reference_error is None
    found = judged(reference=(draw(0) * 1.06).astype(np.float32))
    message = (
        "the reference itself is 0.06 from its oracle (limit 0.05): the probe is ill-conditioned; use another "
        "seed, fewer steps or smaller weights"
    )
    says(found, "INCONCLUSIVE", "validity", message)


def test_a_tensor_of_size_one_is_as_good_as_any():
    assert judged(oracle=np.array([1.0, -1.0, 1.0])).verdict == "EQUIVALENT"


# The tiers


def test_a_tier_that_is_not_possible_says_what_would_make_it_so():
    found = judged(candidate64=draw(0).astype(np.float32))
    message = (
        "asked to compute in float64, the candidate answers in float32: the semantic tier is not possible; let "
        "its dtype follow its inputs (dtype=None)"
    )
    says(found, "INCONCLUSIVE", "semantic", message)

    def alone(candidate, reference):
        (found,) = compare_arrays({"x": candidate}, {"x": reference})
        assert (found.verdict, found.gate) == ("INCONCLUSIVE", "tiers")
        return found.message

    x = np.full((2, 3), 4.0, np.float32)
    assert alone(1.25 * x, x) == (
        "neither tier is possible without oracle= (the reference in float64) and candidate64= (the candidate in "
        "float64): pass it; relative difference 0.25"
    )
    assert alone(1.25 * x, x.astype(np.float64)) == (
        "neither tier is possible without candidate64= (the candidate in float64): pass it; relative difference "
        "0.25"
    )


def test_how_far_apart_is_not_told_of_a_reference_that_is_zero():
    zero = np.zeros(3, np.float32)
    found = gates.no_tier(Quartet(zero + 1, zero, None, None))
    assert found.message.endswith("pass it; the reference is zero")


def test_the_signed_error_is_told_in_units_of_roundoff():
    oracle = 2.0**7 * draw(0)
    reference = noisy(oracle, 1)
    candidate = (oracle + 3 * U * rms(oracle)).astype(np.float32)
    found = judged(candidate, oracle=oracle, reference=reference)
    assert found.bias == nearly(np.mean(candidate - oracle) / (U * rms(oracle)), rel=1e-12)
    assert found.bias == nearly(3, rel=0.2)  # and its own rounding


# Places


def test_elements_are_told_as_all_three_arrays_have_them():
    oracle = draw(0)
    reference, wrong = noisy(oracle, 1), with_value(oracle, 9.0)
    found = judged(candidate64=wrong, reference=reference).first
    assert found == gates.Element((1, 2), noisy(oracle, 2)[1, 2], reference[1, 2], oracle[1, 2])
    (found,) = compare_arrays({"x": wrong}, {"x": oracle})
    assert found.first == gates.Element((1, 2), 9.0, None, oracle[1, 2])


@pytest.mark.parametrize("scale", [1.0, 2.0**20, 2.0**-20])
@pytest.mark.parametrize("tier", ["semantic", "numeric"])
def test_the_first_element_is_the_first_beyond_the_limit_whatever_the_size(tier, scale):
    """Before it stand one at half of the limit and one exactly at it; both are within."""
    oracle = np.ones(400)
    # The limits in units of the size, 1: 64 * 2^-53, and 12 * 4 * 2^-24 of the largest element.
    limit = 64 * U64 if tier == "semantic" else 48 * U
    wrong = oracle.copy()
    wrong[[3, 5, 7, 9]] += limit * np.array([0.5, 1.0, 1.5, 200.0])
    spoilt = {"candidate64": wrong} if tier == "semantic" else {"candidate": wrong.astype(np.float32)}
    arrays = {"oracle": oracle, "reference": oracle.astype(np.float32), **spoilt}
    arrays = {"candidate": oracle.astype(np.float32)} | arrays
    found = judged(**{who: array * array.dtype.type(scale) for who, array in arrays.items()})
    assert (found.verdict, found.gate) == ("DIVERGENT", tier)
    assert (found.first.index, found.worst.index) == ((7,), (9,))


@pytest.mark.parametrize("tier", ["semantic", "numeric"])
def test_places_that_are_not_finite_are_never_the_worst(tier):
    oracle = with_value(draw(0), np.nan, (0, 0))
    wrong = oracle.copy()
    wrong[2, 3] += 0.125
    spoilt = {"candidate64": wrong} if tier == "semantic" else {"candidate": wrong.astype(np.float32)}
    found = judged(oracle=oracle, **spoilt)
    assert found.gate == tier
    assert found.first.index == found.worst.index == (2, 3)


# What a report keeps for its plots


def test_a_large_sample_is_spread_evenly_by_rank_and_has_the_worst_besides():
    oracle = np.arange(1.0, 1001.0)
    candidate = oracle.copy()
    candidate[1], candidate[501] = 2.25, 502.5
    reference = oracle + 0.125
    sample = gates.sample(Quartet(candidate, reference, oracle, None))
    even = np.linspace(0, 999, gates.SAMPLED - 1).round().astype(int) + 1.0
    assert 502.0 not in even
    assert sorted(sample.size) == sorted({*even, 502.0})
    assert len(sample.size) == gates.SAMPLED == 200
    assert dict(zip(sample.size, sample.candidate, strict=True))[502.0] == 0.5
    assert set(sample.reference) == {0.125}
    assert (sample.candidate_steps, sample.reference_steps) == ((), ())


def test_elements_of_one_size_are_sampled_in_their_own_order():
    oracle = np.tile([1.0, -2.0, 1.0, 3.0], 500)
    candidate = oracle + np.arange(2000) * 2.0**-20
    sample = gates.sample(Quartet(candidate, oracle, oracle, None))
    order = sorted(range(2000), key=lambda place: abs(oracle[place]))
    picked = {order[rank] for rank in np.linspace(0, 1999, gates.SAMPLED - 1).round().astype(int)} | {1999}
    assert sorted(sample.candidate) == sorted(place * 2.0**-20 for place in picked)


def test_a_sample_leaves_out_zeros_and_what_is_not_finite():
    oracle = np.array([0.0, 1.0, np.nan, np.inf, -np.inf, 2.0])
    candidate = np.array([0.0, 1.5, np.nan, np.inf, -np.inf, 2.25])
    reference = np.array([0.0, 1.25, np.nan, np.inf, -np.inf, 2.125])
    sample = gates.sample(Quartet(candidate, reference, oracle, None))
    columns = sample.size, sample.candidate, sample.reference
    assert columns == ((1.0, 2.0), (0.5, 0.25), (0.25, 0.125))
    for missing in ((None, reference, oracle), (candidate, None, oracle), (candidate, reference, None)):
        assert gates.sample(Quartet(*missing, oracle)) is None


# The quartet


def test_a_sequence_of_three_axes_has_steps_beside_its_batch():
    sequence, flat = np.ones((2, 3, 4)), np.ones((2, 3))

    def axis(array, batch_axis, kind="output"):
        return Quartet(array, array, array, array, kind=kind, batch_axis=batch_axis).time_axis

    assert [axis(sequence, batch) for batch in (0, 1, 2, -1, None)] == [1, 0, None, None, None]
    assert [axis(flat, batch) for batch in (0, 1)] == [None, None]
    assert axis(np.ones((2, 3, 4, 5)), 0) is None
    assert axis(sequence, 0, kind="state") is None


def test_without_a_reference_or_an_oracle_there_is_no_noise():
    x = draw(0)
    assert Quartet(x, None, x, None).noise == Quartet(x, x + 1, None, None).noise == ReferenceError(0.0, 0.0)
    assert Quartet(x, None, x, None).precision is None


def test_a_quartet_of_which_nothing_is_declared_is_measured_as_an_output():
    x = draw(0)
    result = judge(Quartet(noisy(x, 2), noisy(x, 1), x, x), "x", "model.x")
    assert (result.verdict, result.kind, result.candidate_name) == ("EQUIVALENT", "output", "model.x")
    assert result.semantic_error is not None
    assert result.rho_rms is not None


def test_a_quartet_cannot_be_changed_after_it_was_judged():
    x = draw(0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Quartet(x, x, x, x).oracle = 2 * x
