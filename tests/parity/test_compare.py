"""Which array stands for what, which draw counts, and what each result says of itself. NumPy only."""

import numpy as np
import pytest

from parity.compare import (
    candidate_errors,
    compare_arrays,
    compare_traces,
    misfitting,
    reference_errors,
    tiers_of,
)
from parity.gates import PRECISIONS, TF32, CandidateError, ReferenceError, peak, rms
from parity.probe import Probe
from parity.trace import Entry, Trace
from parity.verdict import TensorResult
from tests.parity.quartets import U, draw, judged, nearly, noisy

# Names, kinds, paths


def test_what_is_missing_or_unexpected_says_all_that_is_known_of_it():
    present, extra = noisy(draw(0), 1), np.zeros((2, 3), np.int32)
    lost, unexpected = compare_arrays(
        {"extra": extra},
        {"lost": present},
        kinds={"lost": "grad", "extra": "state"},
        candidate_names={"extra": "model.extra"},
    )
    assert lost == TensorResult(
        "lost",
        "-",
        "grad",
        "DIVERGENT",
        (5, 7),
        "float32",
        compared=False,
        gate="structure",
        message="missing in the candidate",
    )
    assert unexpected == TensorResult(
        "-",
        "model.extra",
        "state",
        "DIVERGENT",
        (2, 3),
        "int32",
        compared=False,
        gate="structure",
        message="unexpected: the reference has no array of this name",
    )


def test_an_array_of_no_stated_kind_or_path_is_an_output_of_the_same_name():
    x = draw(0)
    results = compare_arrays({"x": x, "extra": x}, {"x": x, "lost": x})
    assert [result.kind for result in results] == ["output"] * 3
    assert [(r.name, r.candidate_name) for r in results] == [("x", "x"), ("lost", "-"), ("-", "extra")]


def test_a_result_carries_the_candidates_own_name_kind_shape_and_dtype():
    x = draw(0)
    (result,) = compare_arrays(
        {"x": noisy(x, 2)},
        {"x": noisy(x, 1)},
        {"x": x},
        {"x": x},
        kinds={"x": "grad"},
        candidate_names={"x": "model.x"},
    )
    found = (result.name, result.candidate_name, result.kind, result.shape, result.dtype, result.compared)
    assert found == ("x", "model.x", "grad", (5, 7), "float32", True)


def test_float64_runs_with_other_names_are_refused_with_both_lists():
    x = draw(0)
    sides = {"b": x, "a": x}, {"b": x, "a": x}
    with pytest.raises(ValueError, match=r"^oracle= must have the names of the reference: ") as error:
        compare_arrays(*sides, {"d": x, "c": x})
    assert str(error.value).endswith(
        "missing ['a', 'b'], unexpected ['c', 'd']. Both must come from the same model."
    )
    with pytest.raises(
        ValueError,
        match=r"^candidate64= must have the names of the candidate: missing \['a'\], unexpected \[\]\.",
    ):
        compare_arrays(*sides, None, {"b": x})


def test_weights_of_other_shapes_or_names_are_all_that_misfits():
    found = misfitting(
        {"same": (2, 3), "wrong": [4, 3], "extra": (5,)},
        {"same": (2, 3), "wrong": (3, 4), "lost": (6,)},
        {"wrong": "model.wrong", "extra": "model.extra"},
    )
    assert [(r.name, r.candidate_name, r.shape) for r in found] == [
        ("wrong", "model.wrong", (4, 3)),
        ("lost", "-", (6,)),
        ("-", "model.extra", (5,)),
    ]
    assert {(r.kind, r.dtype, r.verdict, r.gate, r.compared) for r in found} == {
        ("param", "float32", "DIVERGENT", "structure", False)
    }
    assert found[0].message == "candidate: shape (4, 3), expected (3, 4)"
    assert misfitting({"same": (2, 3)}, {"same": (2, 3)}, {}) == ()


# The four roles


@pytest.mark.parametrize("oracle", ["given", "the reference itself"])
def test_a_float64_candidate_is_its_own_float64_run(oracle):
    x = draw(0)
    reference, given = (noisy(x, 1), {"x": x}) if oracle == "given" else (x, None)
    for candidate, verdict in ((x, "EQUIVALENT"), (2 * x, "DIVERGENT")):
        (result,) = compare_arrays({"x": candidate}, {"x": reference}, given)
        assert result.verdict == verdict
        assert result.semantic_error is not None
        assert (result.rho_rms, result.sample) == (None, None)


def test_only_the_tiers_asked_for_are_measured():
    x = draw(0)
    wrong64, wrong32 = {"x": 2 * x}, {"x": noisy(2 * x, 2)}
    honest = {"x": noisy(x, 1)}, {"x": x}
    (semantic,) = compare_arrays(wrong32, *honest, {"x": x}, tiers=("semantic",))
    assert (semantic.verdict, semantic.rho_rms) == ("EQUIVALENT", None)
    (numeric,) = compare_arrays({"x": noisy(x, 2)}, *honest, wrong64, tiers=("numeric",))
    assert (numeric.verdict, numeric.semantic_error) == ("EQUIVALENT", None)
    (both,) = compare_arrays(wrong32, *honest, wrong64)
    assert (both.verdict, both.gate, both.message) == (
        "DIVERGENT",
        "semantic",
        "differs in float64: not the same function",
    )
    assert both.rho_rms > 1e6  # measured all the same


def test_a_divergence_in_one_tier_outweighs_an_open_question_in_the_other():
    result = judged(noisy(2 * draw(0), 2), candidate64=draw(0).astype(np.float32))
    assert (result.verdict, result.gate) == ("DIVERGENT", "numeric")
    assert result.message == "less accurate in float32 than the reference"


def test_the_precision_that_was_asked_for_replaces_the_one_of_the_dtype():
    x = draw(0)
    arrays = {"x": noisy(x, 2, units=4000.0)}, {"x": noisy(x, 1)}, {"x": x}, {"x": x}
    (as_stored,) = compare_arrays(*arrays)
    (as_multiplied,) = compare_arrays(*arrays, precision=TF32)
    assert (as_stored.verdict, as_stored.rho_limits) == ("DIVERGENT", (8.0, 12.0))
    assert (as_multiplied.verdict, as_multiplied.rho_limits) == ("EQUIVALENT", (2.0, 3.0))
    assert as_multiplied.reference_error == nearly(as_stored.reference_error * 2.0**-13, rel=1e-12)


def traced(arrays, kind, prefix):
    return Trace({name: Entry(array, kind, prefix + name) for name, array in arrays.items()})


def test_traces_are_compared_by_all_that_their_probe_declares():
    y, constant, zero = draw(0), np.broadcast_to(draw(1, (1, 7)), (5, 7)).copy(), np.zeros((5, 7))
    exact = {"y": y, "h": constant, "z": zero}
    coarse = {"y": noisy(y, 2, units=4000.0), "h": noisy(constant, 2), "z": zero.astype(np.float32)}
    fine = {"y": noisy(y, 1), "h": noisy(constant, 1), "z": zero.astype(np.float32)}
    probe = Probe(name="p", matmul="tf32", zeros={"z": True}, batch_axes={"h": 0}, tiers=("numeric",))
    comparison = compare_traces(
        traced(coarse | {"extra": coarse["y"]}, "grad", "model."),
        traced(fine, "state", ""),
        traced(exact, "state", ""),
        traced({name: 2 * array for name, array in (exact | {"extra": y}).items()}, "grad", ""),
        probe,
        {},
    )
    assert (comparison.name, comparison.expected, comparison.tiers) == ("p", 3, ("numeric",))
    assert comparison.probe == probe.describe()
    found = {tensor.candidate_name: tensor for tensor in comparison.tensors}
    assert {path: (t.kind, t.verdict, t.gate) for path, t in found.items()} == {
        "model.y": ("state", "EQUIVALENT", None),
        "model.h": ("state", "INCONCLUSIVE", "vacuity"),
        "model.z": ("state", "EQUIVALENT", None),
        "model.extra": ("grad", "DIVERGENT", "structure"),
    }
    assert found["model.y"].semantic_error is None


def test_traces_take_the_errors_that_were_drawn_again_for_either_side():
    x = draw(0)

    def compared(redrawn, usual=None):
        arrays = (traced({"x": array}, "output", "") for array in (noisy(x, 2, 60.0), noisy(x, 1), x, x))
        (tensor,) = compare_traces(*arrays, Probe(), redrawn, usual).tensors
        assert tensor.semantic_error == 0.0
        return tensor.verdict

    size = rms(x)
    assert compared({}) == "DIVERGENT"
    assert compared({"x": ReferenceError(60 * U * size, 60 * U * size)}) == "EQUIVALENT"
    assert compared({}, {"x": CandidateError(U * size, U * size, 0.0)}) == "EQUIVALENT"


def test_a_tier_is_named_where_it_judged_every_tensor_that_was_measured():
    semantic, numeric = {"semantic_error": 0.0}, {"rho_rms": 0.0}

    def tiers(*measured):
        return tiers_of(TensorResult("x", "x", "output", "EQUIVALENT", **numbers) for numbers in measured)

    assert tiers(semantic | numeric, semantic | numeric, {}) == ("semantic", "numeric")
    assert tiers(semantic, semantic | numeric) == ("semantic",)
    assert tiers(numeric, semantic | numeric) == ("numeric",)
    assert tiers(semantic, numeric) == ()
    assert tiers({}) == tiers() == ()


# Errors drawn several times


def test_the_references_error_is_the_largest_of_its_draws_by_either_measure():
    oracle = np.array([3.0, 4.0, 0.0, 5.0])
    wide, high = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.0, 0.0, 0.0, 0.75])
    found = reference_errors([({"x": oracle + error}, {"x": oracle}) for error in (wide, high, 0 * wide)])
    assert found == {"x": ReferenceError(0.5, 0.75)}
    assert rms(high) == 0.375


def test_only_floats_that_both_runs_have_are_drawn_again():
    x, labels = draw(0), np.arange(3)
    run, other = {"x": x, "labels": labels, "mine": x}, {"x": x, "labels": labels, "theirs": x}
    assert list(reference_errors([(run, other)])) == ["x"]
    assert list(candidate_errors([(run, run, other)])) == ["x"]
    assert list(candidate_errors([(run, other, run)])) == ["x"]
    assert list(candidate_errors([(other, run, run)])) == ["x"]


def test_the_candidates_error_is_the_median_of_its_draws_by_each_measure():
    oracle = np.array([3.0, 4.0, 0.0, 5.0])
    error = np.array([0.0, 0.0, 0.0, 1.0])  # rms 0.5
    draws = [
        ({"x": oracle + c * error}, {"x": oracle + c64 * error}, {"x": oracle})
        for c, c64 in ((1.0, 8.0), (2.0, 0.5), (4.0, 0.25), (64.0, 2.0), (0.5, 1.0))
    ]
    assert candidate_errors(draws) == {"x": CandidateError(1.0, 2.0, 0.5)}
    assert candidate_errors([]) == {}


def test_a_draw_of_another_shape_is_left_out_and_the_rest_counts():
    oracle = {"a": np.ones((2, 2)), "b": np.ones(3)}
    wrong = {"a": np.ones(4), "b": np.ones(3) + 0.5}
    assert candidate_errors([(wrong, wrong, oracle)]) == {"b": CandidateError(0.5, 0.5, 0.5)}


def test_nan_in_one_draw_of_the_candidate_makes_the_median_nan():
    oracle = np.ones(3)
    draws = [({"x": oracle}, {"x": oracle}, {"x": oracle})] * 7
    draws += [({"x": np.array([1.0, np.nan, 1.0])}, {"x": oracle}, {"x": oracle})]
    found = candidate_errors(draws)["x"]
    assert np.isnan([found.rms, found.peak]).all()
    assert found.semantic == 0.0


def test_the_smaller_error_of_a_candidate_counts_in_each_measure_by_itself():
    oracle = draw(0)
    far, near = 1e3, 0.0
    candidate = noisy(oracle, 2, units=60.0)
    wrong64 = oracle * (1 + 1e-9)
    alone = judged(candidate, candidate64=wrong64)
    assert alone.gate == "semantic"
    for usual in (CandidateError(far, far, far), CandidateError(near, near, near)):
        result = judged(candidate, candidate64=wrong64, usual=usual)
        assert (result.verdict == "EQUIVALENT") == (usual.rms == near)
    one = judged(candidate, candidate64=wrong64, usual=CandidateError(near, far, far))
    assert (one.rho_rms, one.rho_max, one.semantic_error) == (0.0, alone.rho_max, alone.semantic_error)
    other = judged(candidate, candidate64=wrong64, usual=CandidateError(far, near, near))
    assert (other.rho_rms, other.rho_max, other.semantic_error) == (alone.rho_rms, 0.0, 0.0)
    known = judged(candidate64=wrong64, usual=CandidateError(far, far, 1e-3 * rms(oracle)))
    assert known.semantic_error == nearly(1e-9, rel=1e-6)  # the smaller of the two
    given = judged(usual=CandidateError(far, far, 0.5 * U * U * rms(oracle)), candidate64=wrong64)
    assert given.semantic_error == nearly(0.5 * U * U, rel=1e-12)


# Constants


def test_the_precisions_are_those_of_the_dtypes_with_the_documented_limits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    limits = {"float32": (0.05, 8.0, 12.0), "float16": (0.25, 2.0, 3.0), "bfloat16": (0.25, 2.0, 3.0)}
    assert set(PRECISIONS) == set(kinds)
    for name, kind in kinds.items():
        assert PRECISIONS[name] == (float(ml_dtypes.finfo(kind).eps) / 2, *limits[name])
    assert PRECISIONS["float16"] == TF32  # operands of 11 bits


def test_an_array_without_elements_has_no_size_and_no_peak():
    assert rms(np.zeros(0)) == 0.0
    assert peak(np.zeros(0)) == 0.0
    empty = {"x": np.zeros((0, 3))}
    assert reference_errors([(empty, empty)]) == {"x": ReferenceError(0.0, 0.0)}
