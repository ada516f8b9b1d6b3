"""Every promise of the gates, each with a case in which it fails. Synthetic arrays, NumPy only."""

import inspect

import numpy as np
import pytest

import parity
from parity.compare import compare_arrays, reference_errors
from parity.gates import PRECISIONS, ReferenceError, passes, rms
from parity.verdict import CaseResult, Comparison, Report
from tests.parity.quartets import U, draw, judged, nearly, noisy, with_value


def exit_code(results, expected):
    return Report((CaseResult("c", comparisons=(Comparison("p", tuple(results), expected),)),)).exit_code


# What must pass


def test_float_noise_of_a_few_units_passes():
    for seed in range(20):
        result = judged(noisy(draw(0), 100 + seed, units=2.0))
        assert result.verdict == "EQUIVALENT", result


def test_a_candidate_more_accurate_than_the_reference_passes():
    oracle = draw(0)
    result = judged(oracle.astype(np.float32), reference=noisy(oracle, 1, units=20.0))
    assert result.verdict == "EQUIVALENT"
    assert result.rho_rms < 0.1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_judged_by_its_own_roundoff(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    oracle = draw(0)
    good = oracle.astype(kind)
    assert judged(good, reference=good).verdict == "EQUIVALENT"
    # 9 units exceed 2 * 4 units, the limit for half precision, and would pass the 4 * 4 of float32.
    drifted = (oracle + 9 * PRECISIONS[dtype].unit_roundoff * rms(oracle)).astype(kind)
    assert judged(drifted, reference=good).gate == "numeric"


# What must not


def test_a_systematic_error_of_40_units_fails_the_numeric_gate():
    oracle = draw(0)
    result = judged((oracle + 40 * U * rms(oracle)).astype(np.float32))
    assert (result.verdict, result.gate) == ("DIVERGENT", "numeric")


def test_a_single_wrong_element_fails_by_its_peak():
    oracle = draw(0, (40, 50))
    candidate = noisy(oracle, 2)
    candidate[3, 4] += 80 * U * np.abs(oracle).max()
    result = judged(candidate, oracle=oracle)
    assert result.verdict == "DIVERGENT"
    assert result.rho_rms < 8 < 12 < result.rho_max
    assert result.first.index == result.worst.index == (3, 4)


@pytest.mark.parametrize("tier", ["semantic", "numeric"])
def test_the_first_and_the_worst_element_are_found(tier):
    oracle = draw(0, (6, 8))
    wrong = oracle.copy()
    wrong[2, 1] += 0.1
    wrong[4, 3] -= 0.3
    wrong[5, 7] += 0.2
    spoilt = {"candidate64": wrong} if tier == "semantic" else {"candidate": wrong.astype(np.float32)}
    result = judged(oracle=oracle, **spoilt)
    assert result.gate == tier
    assert (result.first.index, result.worst.index) == ((2, 1), (4, 3))
    assert result.worst.oracle == oracle[4, 3]
    if tier == "numeric":
        assert result.worst.candidate == pytest.approx(oracle[4, 3] - 0.3)


def test_another_function_fails_in_float64_even_where_float32_cannot_see_it():
    oracle = draw(0)
    result = judged(candidate64=oracle * (1 + 1e-9))
    assert (result.verdict, result.gate) == ("DIVERGENT", "semantic")
    assert result.rho_rms < 8


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: x[::-1], id="time reversed"),
        pytest.param(lambda x: x[:, [1, 0, 2, 3, 4, 5, 6]], id="two columns swapped"),
        pytest.param(lambda x: np.full_like(x, x.mean()), id="same mean"),
        pytest.param(lambda x: x + np.array([1, -1, 0, 0, 0, 0, 0]), id="errors that cancel in a sum"),
        pytest.param(lambda x: 2 * x, id="doubled"),
        pytest.param(lambda x: -x, id="negated"),
        pytest.param(np.zeros_like, id="zeros"),
    ],
)
def test_garbage_of_the_right_shape_fails(spoil):
    wrong = spoil(draw(0))
    result = judged(wrong.astype(np.float32), candidate64=wrong)
    assert result.verdict == "DIVERGENT"


def test_a_relative_tolerance_of_one_is_not_hidden_anywhere():
    oracle = np.full((3, 2), 1.01) * np.array([1.0, 2.0])
    wrong = np.full((3, 2), 2.0) * np.array([1.0, 2.0])
    assert judged(wrong.astype(np.float32), oracle=oracle, candidate64=wrong).verdict == "DIVERGENT"


def test_small_values_are_judged_by_their_own_size():
    """9e-6 off a value of 1e-3 passes an absolute tolerance of 1e-5; 1e-4 off passes a floor of 2**-14."""
    oracle = 1e-3 * (1 + 0.1 * draw(0))
    assert judged((oracle + 9e-6).astype(np.float32), oracle=oracle).gate == "numeric"
    almost_exact = oracle.astype(np.float32)
    wrong = (oracle * (1 + 1e-4)).astype(np.float32)
    assert judged(wrong, oracle=oracle, reference=almost_exact).gate == "numeric"


def test_no_tolerance_can_be_widened_by_a_user():
    for function in (parity.compare, parity.assert_equivalent, compare_arrays):
        assert not {"atol", "rtol", "tol", "tolerance"} & set(inspect.signature(function).parameters)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_every_number_is_relative_to_the_tensors_size(scale):
    """2**20 keeps all bits, so the numbers must be the same; powers of ten change a rounding or two."""
    for oracle, factor in ((draw(0), 2.0**20), (draw(0) * scale, 2.0**-20)):
        arrays = {
            "oracle": oracle,
            "reference": noisy(oracle, 1, units=30.0),
            "candidate": noisy(oracle, 2, units=30.0),
            "candidate64": oracle * (1 + 1e-13),
        }
        one, other = judged(**arrays), judged(**{who: array * factor for who, array in arrays.items()})
        for number in ("semantic_error", "semantic_limit", "rho_rms", "rho_max", "reference_error",
                       "semantic_sensitivity", "numeric_sensitivity"):  # fmt: skip
            assert getattr(one, number) == nearly(getattr(other, number), rel=1e-12)
        assert one.reference_error == nearly(30 / np.sqrt(3), rel=0.2)  # rms of a uniform error


def test_the_limits_are_those_that_are_documented():
    oracle = draw(0)
    for units in (0.5, 2.0, 50.0, 5000.0):
        reference = (oracle * (1 + units * U)).astype(np.float32)
        kappa = rms(reference - oracle) / rms(oracle) / U
        found = judged(reference=reference)
        limit = max(64, 16 * kappa) * 2.0**-53
        assert found.semantic_limit == nearly(limit, rel=1e-9)
        assert found.semantic_sensitivity == nearly(limit, rel=1e-9)
        for part, verdict in ((0.98, "EQUIVALENT"), (1.02, "DIVERGENT")):
            assert judged(reference=reference, candidate64=oracle * (1 + part * limit)).verdict == verdict
        floor = max(rms(reference - oracle), 4 * U * rms(oracle))
        candidate = (oracle + 2 * floor).astype(np.float32)
        expected = rms(candidate - oracle) / floor
        assert judged(candidate, reference=reference).rho_rms == nearly(expected, rel=1e-9)
        assert judged(candidate, reference=reference).rho_limits == (8, 12)
        stated = (8 * floor + rms(candidate - oracle)) / rms(oracle)
        assert judged(candidate, reference=reference).numeric_sensitivity == nearly(stated, rel=1e-9)
        wide = oracle * (1 + 0.5 * limit)
        stated = judged(reference=reference, candidate64=wide).semantic_sensitivity
        assert stated == nearly(1.5 * limit, rel=0.01)  # 0.01: wide is rounded to float64
        heights = (np.abs(candidate - oracle).max(), np.abs(reference - oracle).max(), np.abs(oracle).max())
        expected = heights[0] / max(heights[1], 4 * U * heights[2])
        assert judged(candidate, reference=reference).rho_max == nearly(expected, rel=1e-9)


# NaN and infinities


def test_the_first_place_of_a_nan_is_named():
    candidate = with_value(with_value(noisy(draw(0), 2), np.nan, (3, 1)), np.nan, (1, 2))
    assert "2 places of one side only, first at [1, 2]: candidate has nan" in judged(candidate).message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_on_one_side_fail(value):
    oracle = draw(0)
    assert judged(with_value(noisy(oracle, 2), value)).verdict == "DIVERGENT"
    assert judged(candidate64=with_value(oracle, value)).verdict == "DIVERGENT"
    assert judged(oracle=with_value(oracle, value), reference=with_value(noisy(oracle, 1), value),
                  candidate=noisy(oracle, 2), candidate64=oracle).verdict == "DIVERGENT"  # fmt: skip


def test_nan_on_both_sides_is_no_match_unless_the_oracle_has_it():
    oracle, reference, candidate = draw(0), noisy(draw(0), 1), noisy(draw(0), 2)
    spoilt = judged(with_value(candidate, np.nan), reference=with_value(reference, np.nan))
    assert spoilt.verdict == "INCONCLUSIVE"
    meant = judged(
        with_value(candidate, np.nan),
        reference=with_value(reference, np.nan),
        oracle=with_value(oracle, np.nan),
        candidate64=with_value(oracle, np.nan),
    )
    assert meant.verdict == "EQUIVALENT"


def test_nan_everywhere_proves_nothing():
    nan = np.full((5, 7), np.nan)
    result = judged(nan.astype(np.float32), reference=nan.astype(np.float32), oracle=nan, candidate64=nan)
    assert result.verdict == "INCONCLUSIVE"


def test_nan_is_found_without_a_float64_candidate():
    (result,) = compare_arrays(
        {"x": with_value(noisy(draw(0), 2), np.nan)}, {"x": noisy(draw(0), 1)}, {"x": draw(0)}
    )
    assert result.verdict == "DIVERGENT"


def test_plus_and_minus_infinity_are_different():
    oracle = with_value(draw(0), np.inf)
    r, c = (with_value(noisy(draw(0), seed), np.inf) for seed in (1, 2))
    assert judged(c, reference=r, oracle=oracle).verdict == "EQUIVALENT"
    assert judged(with_value(c, -np.inf), reference=r, oracle=oracle).verdict == "DIVERGENT"


def test_no_number_that_is_not_finite_passes_a_limit():
    assert passes(1.0, 1.0)
    assert not passes(np.nan, 1.0)
    assert not passes(np.inf, np.inf)
    assert not passes(1.0, np.nan)


# Structure


def test_what_comes_after_a_missing_name_is_still_judged():
    x, wrong = draw(0), 2 * draw(0)
    results = compare_arrays({"b": wrong, "c": x}, {"a": x, "b": x, "c": x})
    assert [result.verdict for result in results] == ["DIVERGENT", "DIVERGENT", "EQUIVALENT"]


def test_missing_and_unexpected_names_are_both_found():
    x = noisy(draw(0), 1)
    results = compare_arrays({"x": x, "extra": x}, {"x": x, "lost": x}, {"x": draw(0), "lost": draw(0)},
                             {"x": draw(0), "extra": draw(0)})  # fmt: skip
    found = {(r.name, r.candidate_name): (r.verdict, r.compared) for r in results}
    assert found[("lost", "-")] == ("DIVERGENT", False)
    assert found[("-", "extra")] == ("DIVERGENT", False)
    assert found[("x", "x")] == ("EQUIVALENT", True)


def test_a_shape_is_never_adapted():
    oracle = draw(0)
    for wrong in (oracle.T, oracle.reshape(7, 5), oracle[None], oracle[:1]):
        result = judged(wrong.astype(np.float32), candidate64=wrong)
        assert (result.verdict, result.gate, result.compared) == ("DIVERGENT", "structure", False)


def test_a_silent_change_of_precision_is_found():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        assert judged(draw(0).astype(dtype)).gate == "structure"


def test_integers_and_booleans_are_exact_whatever_their_width():
    labels = np.arange(6).reshape(2, 3)
    same = judged(labels.astype(np.int32), reference=labels, oracle=labels, candidate64=labels)
    assert same.verdict == "EQUIVALENT"
    off = judged(labels + (labels > 3), reference=labels, oracle=labels, candidate64=labels)
    assert (off.verdict, off.first.index) == ("DIVERGENT", (1, 1))
    only_wide = judged(labels, reference=labels, oracle=labels, candidate64=labels + 1)
    assert only_wide.verdict == "DIVERGENT"
    assert judged(labels == 1, reference=labels, oracle=labels, candidate64=labels).verdict == "DIVERGENT"


def test_parameters_must_be_equal_bit_for_bit():
    reference = noisy(draw(0), 1)
    assert judged(reference.copy(), reference=reference, kinds="param").verdict == "EQUIVALENT"
    almost = reference.copy()
    almost[2, 3] = np.nextafter(almost[2, 3], np.float32(9))
    result = judged(almost, reference=reference, kinds="param")
    assert (result.verdict, result.first.index) == ("DIVERGENT", (2, 3))
    assert "parity.port" in result.message
    wide = {"x": reference.astype(np.float64)}
    for kept, verdict in ((reference, "EQUIVALENT"), (almost, "DIVERGENT")):
        for same in (kept, kept.astype(np.float64)):
            (alone,) = compare_arrays({"x": same}, wide, kinds={"x": "param"})
            assert alone.verdict == verdict


def test_what_is_not_a_number_is_an_error():
    words = np.array(["a", "b"])
    (result,) = compare_arrays({"x": words}, {"x": words})
    assert result.verdict == "ERROR"


def test_an_oracle_with_other_names_is_refused():
    x = noisy(draw(0), 1)
    with pytest.raises(ValueError, match=r"oracle= must have the names of the reference: missing \['x'\]"):
        compare_arrays({"x": x}, {"x": x}, {"y": x})


# Vacuity and validity


def test_two_empty_sides_compare_nothing():
    assert compare_arrays({}, {}) == ()
    assert exit_code((), 0) == 5


def test_fewer_comparisons_than_expected_do_not_pass():
    assert exit_code([judged()], 1) == 0
    assert exit_code([judged()], 2) == 3


def test_zero_everywhere_does_not_pass():
    """Two dead models agree; a parity of zeros is a parity of nothing."""
    zero = np.zeros((5, 7))
    dead = {"candidate": zero.astype(np.float32), "reference": zero.astype(np.float32), "candidate64": zero}
    result = judged(oracle=zero, kinds="grad", **dead)
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "vacuity")
    assert "Probe(zeros=" in result.message
    assert judged(oracle=zero, **dead, zeros=True).verdict == "EQUIVALENT"
    assert judged(oracle=zero, **dead, zeros=np.arange(7) > 3).verdict == "INCONCLUSIVE"
    alive = dead | {"candidate": noisy(draw(0), 2)}
    assert judged(oracle=zero, **alive).verdict == "DIVERGENT"


def test_declared_zeros_are_exact():
    padding = np.arange(5)[:, None] >= 3
    oracle = np.where(padding, 0.0, draw(0))
    honest = {
        who: np.where(padding, 0, noisy(draw(0), seed)) for who, seed in (("candidate", 2), ("reference", 1))
    }
    assert judged(oracle=oracle, **honest, zeros=padding).verdict == "EQUIVALENT"
    leak = honest | {"candidate": with_value(honest["candidate"], 1e-30, (4, 0))}
    result = judged(oracle=oracle, **leak, zeros=padding)
    assert (result.verdict, result.gate) == ("DIVERGENT", "zeros")
    assert "[4, 0]" in result.message


def test_what_is_not_declared_zero_is_measured():
    padding = np.arange(5)[:, None] >= 3
    oracle = np.where(padding, 0.0, draw(0))
    wrong = 2 * oracle
    assert judged(wrong.astype(np.float32), oracle=oracle, candidate64=wrong, reference=oracle.astype(np.float32),
                  zeros=padding).gate == "semantic"  # fmt: skip


def test_an_empty_tensor_proves_nothing_unless_declared():
    empty = np.zeros((0, 3))
    arrays = {
        "candidate": empty.astype(np.float32),
        "reference": empty.astype(np.float32),
        "candidate64": empty,
    }
    assert judged(oracle=empty, **arrays).verdict == "INCONCLUSIVE"
    assert judged(oracle=empty, **arrays, zeros=True).verdict == "EQUIVALENT"


def test_a_wrong_declaration_of_zeros_is_an_error_not_a_pass():
    assert judged(zeros=True).verdict == "ERROR"
    assert judged(zeros=np.ones((3, 3), bool)).verdict == "ERROR"


@pytest.mark.parametrize(
    ("units", "verdict"),
    [
        pytest.param(1.0, "INCONCLUSIVE", id="a rounding apart"),
        pytest.param(100.0, "EQUIVALENT", id="two rows, though nearly one"),
    ],
)
def test_rows_are_the_same_up_to_the_last_bits(units, verdict):
    """A matrix product need not round equal rows alike; the limit is 16 roundings of float64."""
    row = np.linspace(0.5, 1.5, 7)
    oracle = np.stack([row, row + units * 2.0**-53, row])
    assert judged(oracle=oracle, batch_axes=0).verdict == verdict


def test_an_oracle_that_is_the_same_in_every_row_does_not_pass():
    oracle = np.broadcast_to(draw(0, (1, 7)), (5, 7)).copy()
    assert judged(oracle=oracle).verdict == "EQUIVALENT"
    assert judged(oracle=oracle, batch_axes=0).gate == "vacuity"
    assert judged(oracle=oracle.T.copy(), batch_axes=1).gate == "vacuity"
    assert judged(batch_axes=0).verdict == "EQUIVALENT"
    assert judged(oracle=oracle[:1], batch_axes=0).verdict == "EQUIVALENT"  # a single row cannot differ
    last = oracle.copy()
    last[-1] += 1
    assert judged(oracle=last, batch_axes=0).verdict == "EQUIVALENT"


def test_an_ill_conditioned_probe_is_inconclusive():
    oracle = draw(0)
    result = judged(reference=(oracle * 1.06).astype(np.float32))
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "validity")
    assert result.reference_error == nearly(0.06 / U, rel=1e-6)
    assert judged(reference=(oracle * 1.04).astype(np.float32)).verdict == "EQUIVALENT"


def test_zeros_that_the_reference_only_rounds_to_are_inconclusive():
    zero = np.zeros((5, 7))
    result = judged(zero.astype(np.float32), oracle=zero, reference=noisy(draw(0), 1), candidate64=zero)
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "validity")
    result = judged(
        zero.astype(np.float32), oracle=zero, reference=zero.astype(np.float32), candidate64=draw(0)
    )
    assert result.verdict == "DIVERGENT"


# The reference's error as a random number


def test_the_largest_of_several_draws_of_the_reference_counts():
    oracle = draw(0)
    lucky, usual = oracle.astype(np.float32), noisy(oracle, 3, units=60.0)
    candidate = noisy(oracle, 4, units=60.0)
    assert judged(candidate, reference=lucky).gate == "numeric"
    found = reference_errors([({"x": usual}, {"x": oracle}), ({"x": lucky}, {"x": oracle})])
    assert judged(candidate, reference=lucky, redrawn=found["x"]).verdict == "EQUIVALENT"


def test_a_draw_that_is_not_finite_does_not_widen_a_limit():
    result = judged(redrawn=ReferenceError(np.nan, np.nan))
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "validity")


# Which tiers are possible


def test_two_float64_sides_are_judged_by_the_semantic_tier():
    (same,) = compare_arrays({"x": draw(0)}, {"x": draw(0)})
    assert (same.verdict, same.rho_rms) == ("EQUIVALENT", None)
    (other,) = compare_arrays({"x": draw(0) * (1 + 1e-13)}, {"x": draw(0)})
    assert (other.verdict, other.gate) == ("DIVERGENT", "semantic")


@pytest.mark.parametrize("reference", [np.float32, np.float64])
def test_without_an_oracle_float32_is_inconclusive_and_says_what_to_pass(reference):
    (result,) = compare_arrays({"x": noisy(draw(0), 1)}, {"x": draw(0).astype(reference)})
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "tiers")
    assert "candidate64=" in result.message
    assert ("oracle=" in result.message) == (reference is np.float32)


def test_models_that_answer_in_float64_when_asked_for_less_are_judged_by_the_semantic_tier():
    result = judged(draw(0), reference=draw(0))
    assert (result.verdict, result.rho_rms) == ("EQUIVALENT", None)
    assert judged(draw(0), reference=draw(0), candidate64=2 * draw(0)).gate == "semantic"


def test_a_candidate_that_ignores_float64_leaves_the_semantic_tier_open():
    result = judged(candidate64=draw(0).astype(np.float32))
    assert (result.verdict, result.gate) == ("INCONCLUSIVE", "semantic")
    wrong = (2 * draw(0)).astype(np.float32)
    assert judged(wrong, candidate64=wrong).verdict == "DIVERGENT"


# The stated sensitivity


@pytest.mark.parametrize("place", ["element", "column", "step", "everywhere"])
@pytest.mark.parametrize("tier", ["semantic", "numeric"])
def test_the_stated_sensitivity_is_where_detection_begins(place, tier):
    """Inject 2**-k of the tensor's rms. All that is larger than stated is found, and little that is smaller."""
    shape = (6, 5, 8)
    oracle = draw(0, shape)
    region = {"element": (2, 3, 4), "column": (..., 4), "step": (2,), "everywhere": ...}[place]
    injected = np.zeros(shape)
    injected[region] = 1.0
    injected /= rms(injected)
    honest = judged(oracle=oracle)
    stated = honest.semantic_sensitivity if tier == "semantic" else honest.numeric_sensitivity

    detected = []
    for k in range(4, 60):
        change = 2.0**-k * rms(oracle) * injected
        spoilt = (
            {"candidate64": oracle + change}
            if tier == "semantic"
            else {"candidate": (noisy(oracle, 2) + change).astype(np.float32)}
        )
        if judged(oracle=oracle, **spoilt).verdict == "DIVERGENT":
            detected.append(2.0**-k)
    threshold = min(detected)
    assert len(detected) == len([k for k in range(4, 60) if 2.0**-k >= threshold])  # found from there on
    assert threshold <= 2 * stated  # 2: the ladder's own step
    if place == "everywhere":  # one element alone is found far below, by its peak
        assert threshold >= stated / 4


def test_sensitivity_is_stated_for_what_passed_in_the_sharpest_probe():
    blunt = judged(reference=noisy(draw(0), 1, units=1000.0))
    sharp, failed = judged(), judged(noisy(draw(0), 2, units=100.0))
    assert failed.verdict == "DIVERGENT"
    case = CaseResult("c", comparisons=tuple(Comparison("p", (t,), 1) for t in (blunt, sharp, failed)))
    assert Report((case,)).numeric_sensitivity == sharp.numeric_sensitivity
