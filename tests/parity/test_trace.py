"""Names of outputs and inputs, and traces on disk."""

import numpy as np
import pytest

from parity.trace import Entry, Trace, map_leaves, name_inputs, name_outputs

A, B, C, D = (np.full((2, 3), number, np.float32) for number in range(4))


def test_recurrent_results_have_torchs_names():
    assert list(name_outputs(A)) == ["output"]
    assert list(name_outputs((A, (B, C)))) == ["output", "h_n", "c_n"]
    assert list(name_outputs((A, B), ("output", "h_n"))) == ["output", "h_n"]
    named = name_outputs((A, (B, C)), ("prediction", "h_n", "c_n"))
    assert named["c_n"] is C


def test_other_results_are_named_by_path():
    assert list(name_outputs((A, B))) == ["output.0", "output.1"]
    assert list(name_outputs((A, [B, {"mask": C, "none": None}], D))) == [
        "output.0", "output.1.0", "output.1.1.mask", "output.2",
    ]  # fmt: skip


def test_names_that_do_not_fit_are_not_used():
    assert list(name_outputs((A, B, C), ("h_1", "c_1"))) == ["output.0", "output.1", "output.2"]


def test_a_result_that_is_not_an_array_is_refused():
    with pytest.raises(TypeError, match=r"output\.1 is a str; return arrays"):
        name_outputs((A, "b"))


def test_inputs_are_named_by_parameter_and_states_as_in_torch():
    assert list(name_inputs((A, (B, C)), {}, ("input", "hx"))) == ["input", "h_0", "c_0"]
    assert list(name_inputs((A, B), {}, ("input", "hx"))) == ["input", "h_0"]
    assert list(name_inputs((A, None), {"lengths": D}, ("input", "hx"))) == ["input", "lengths"]
    assert list(name_inputs((A, B), {"x": [C]}, ("input",))) == ["input", "args.1", "x.0"]


def test_leaves_are_mapped_in_place():
    tree = (A, [B, None], {"c": (C,)})
    doubled = map_leaves(lambda leaf: 2 * leaf, tree)
    assert doubled[1][1] is None
    np.testing.assert_array_equal(doubled[2]["c"][0], 2 * C)


def test_a_trace_survives_the_disk(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    arrays = {
        "rnn.weight_ih_l0": (A, "param"),
        "output": (np.array([1.5, -2.25], bfloat16), "output"),
        "h_n": (np.array([], np.float64), "state"),
        "grad(x)": (np.array(np.nan, np.float16), "grad"),
        "step(w)": (np.array([True, False]), "step"),
    }
    trace = Trace({name: Entry(array, kind, f"own.{name}") for name, (array, kind) in arrays.items()})
    trace.save(tmp_path / "trace.npz")
    loaded = Trace.load(tmp_path / "trace.npz")
    assert list(loaded) == list(trace)
    assert (loaded.kinds, loaded.paths) == (trace.kinds, trace.paths)
    for name, array in trace.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_what_is_no_trace_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=A)
    with pytest.raises(ValueError, match=r"Write it with Trace\.save"):
        Trace.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"name it t\.npz"):
        Trace({}).save(tmp_path / "t.pt")
    with pytest.raises(ValueError, match="'weight' is not one of"):
        Trace({"a": Entry(A, "weight", "a")})
