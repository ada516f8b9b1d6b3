"""`parity.compare` on any two models: what it runs, names, refuses and leaves alone."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import parity
from parity import Probe

torch = pytest.importorskip("torch")


class TorchMLP(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.first = torch.nn.Linear(4, 7)
        self.norm = torch.nn.LayerNorm(7)
        self.drop = torch.nn.Dropout(dropout)
        self.second = torch.nn.Linear(7, 3)

    def forward(self, x):
        return self.second(self.drop(torch.tanh(self.norm(self.first(x)))))


class JaxMLP(nnx.Module):
    def __init__(self, dropout=0.0, epsilon=1e-5, dtype=None):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 7, rngs=rngs, dtype=dtype)
        self.norm = nnx.LayerNorm(7, epsilon=epsilon, use_fast_variance=False, rngs=rngs, dtype=dtype)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.second = nnx.Linear(7, 3, rngs=rngs, dtype=dtype)

    def __call__(self, inputs):
        return self.second(self.drop(jnp.tanh(self.norm(self.first(inputs)))))


class WithMethod(nnx.Module):
    """A model whose call is given."""

    def __init__(self, call):
        self.weight = nnx.Param(jnp.asarray(WEIGHT))
        self.call = call

    def __call__(self, *args, **kwargs):
        return self.call(self.weight[...], *args, **kwargs)


class TorchMethod(torch.nn.Module):
    def __init__(self, call):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT.copy()))
        self.call = call

    def forward(self, *args, **kwargs):
        return self.call(self.weight, *args, **kwargs)


WEIGHT = np.random.default_rng(7).standard_normal((3, 4)).astype(np.float32)
X = np.random.default_rng(8).standard_normal((5, 4)).astype(np.float32)
DRAWN = Probe("drawn", (X,), weight_scale=1.0)


def ported(**options):
    reference = TorchMLP()
    return parity.port(reference, JaxMLP(**options)), reference


def by_method(jax_call, torch_call, *args, **kwargs):
    return parity.compare(WithMethod(jax_call), TorchMethod(torch_call), Probe("m", args, kwargs))


def test_ported_models_are_equivalent_in_outputs_gradients_and_one_step():
    report = parity.assert_equivalent(*ported(), (X,))
    names = [tensor.name for tensor in report.tensors]
    parameters = ["first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "second.bias"]
    assert names == [
        *parameters,
        "output",
        *(f"grad({name})" for name in parameters),
        "grad(x)",
        *(f"step({name})" for name in parameters),
    ]
    assert report["grad(first.weight)"].candidate_name == "grad(first.kernel)"
    assert report["norm.weight"].candidate_name == "norm.scale"
    assert "norm.bias" in report.cases[0].comparisons[0].notes[0]  # it is zero after construction


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_probe_that_draws_weights_needs_no_port(dtype):
    report = parity.compare(JaxMLP(), TorchMLP(), dataclasses.replace(DRAWN, dtype=dtype))
    assert report.verdict == "EQUIVALENT", report
    assert report["output"].dtype == dtype
    assert report["norm.bias"].verdict == "EQUIVALENT"
    assert not report.cases[0].comparisons[0].notes


def test_an_epsilon_of_1e_6_is_found():
    report = parity.compare(JaxMLP(epsilon=1e-6), TorchMLP(), DRAWN)
    assert report.verdict == "DIVERGENT"
    assert report["output"].gate == "semantic"
    assert report["second.weight"].verdict == "EQUIVALENT"
    # It costs less than a thousandth: what passes many a tolerance.
    assert report["output"].semantic_error < 1e-3


def test_bfloat16_matrix_products_are_found_by_the_numeric_tier_alone():
    def rounded(w, x):
        half = jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype
        return jnp.dot(x.astype(half), w.T.astype(half), preferred_element_type=x.dtype)

    report = by_method(rounded, lambda w, x: x @ w.T, X)
    assert report["output"].gate == "numeric"
    assert report["output"].semantic_ratio < 1


def test_weights_that_were_not_ported_are_named():
    report = parity.compare(JaxMLP(), TorchMLP(), (X,))
    assert report.verdict == "DIVERGENT"
    assert report["first.weight"].verdict == "DIVERGENT"
    assert "parity.port(reference, candidate)" in report["first.weight"].message
    assert report["norm.weight"].verdict == "EQUIVALENT"  # ones on both sides


def test_one_transposed_square_weight_is_named():
    candidate, reference = ported()
    kernel = candidate.first.kernel
    kernel.set_value(kernel.get_value().at[0, 0].add(1.0))
    report = parity.compare(candidate, reference, (X,))
    assert report["first.weight"].first.index == (0, 0)
    assert report["second.weight"].verdict == "EQUIVALENT"


def test_models_with_other_parameters_are_compared_by_name_and_not_run():
    class Small(nnx.Module):
        def __init__(self):
            self.first = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
            self.extra = nnx.Linear(4, 6, rngs=nnx.Rngs(0))

    report = parity.compare(Small(), TorchMLP(), (X,))
    assert report.verdict == "DIVERGENT"
    assert "expected (7, 4)" in report["first.weight"].message
    assert report["second.bias"].message == "missing in the candidate"
    assert any(t.candidate_name == "extra.kernel" and "unexpected" in t.message for t in report.tensors)


def test_neither_model_is_changed():
    candidate, reference = ported()
    before = nnx.state(nnx.clone(candidate)), copy.deepcopy(reference.state_dict())
    parity.compare(candidate, reference, DRAWN)
    parity.compare(candidate, reference, (X,))
    for old, new in zip(jax.tree.leaves(before[0]), jax.tree.leaves(nnx.state(candidate)), strict=True):
        assert new.dtype == old.dtype
        if jnp.issubdtype(old.dtype, jnp.floating):
            np.testing.assert_array_equal(old, new)
    assert all(torch.equal(value, before[1][name]) for name, value in reference.state_dict().items())
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert reference.training


def test_random_numbers_are_an_error_with_a_remedy():
    report = parity.compare(JaxMLP(dropout=0.5), TorchMLP(), DRAWN)
    assert report.exit_code == 2
    assert "JaxMLP drew random numbers" in str(report)
    report = parity.compare(JaxMLP(), TorchMLP(dropout=0.5), DRAWN)
    assert report.exit_code == 2
    assert "call .eval()" in str(report)
    quiet = JaxMLP(dropout=0.5)
    quiet.eval()
    parity.assert_equivalent(quiet, TorchMLP(dropout=0.5).eval(), DRAWN)


def test_random_numbers_that_change_nothing_are_allowed():
    class Noisy(JaxMLP):
        def __call__(self, inputs):
            return super().__call__(inputs) + 0 * jax.random.normal(self.drop.rngs())

    candidate = Noisy(dropout=0.5)
    candidate.eval()
    assert parity.compare(candidate, TorchMLP(), DRAWN).verdict == "EQUIVALENT"


def test_every_floating_output_has_a_cotangent_of_its_own():
    """A detached second output leaves all values right; only its own cotangent shows it."""

    def outputs(w, x, stop):
        return {"a": x @ w.T, "b": (stop(x @ w.T) * 2, (x > 0).sum(0))}

    same = by_method(lambda w, x: outputs(w, x, lambda y: y), lambda w, x: outputs(w, x, lambda y: y), X)
    assert same.verdict == "EQUIVALENT", same
    assert {"output.a", "output.b.0", "output.b.1"} <= {tensor.name for tensor in same.tensors}
    cut = by_method(
        lambda w, x: outputs(w, x, jax.lax.stop_gradient), lambda w, x: outputs(w, x, lambda y: y), X
    )
    assert {t.name for t in cut.tensors if t.verdict == "DIVERGENT"} == {"grad(weight)", "grad(args.0)"}


def test_integers_and_plain_values_pass_untouched_and_have_no_gradient():
    index = np.array([2, 0, 1, 2], np.int64)

    def take(w, rows, x, power=1, mask=None):
        return (w[rows] * x[:4] * mask) ** power

    mask = np.random.default_rng(0).random((4, 4)) > 0.3
    probe = Probe("take", (index, X), {"power": 2, "mask": mask})
    report = parity.compare(WithMethod(take), TorchMethod(take), probe)
    assert report.verdict == "EQUIVALENT", report
    assert [t.name for t in report.tensors if t.name.startswith("grad")] == ["grad(weight)", "grad(args.1)"]


def test_a_flag_is_not_taken_for_the_number_it_equals():
    def scale(w, x, factor):
        return x * w.sum() * (3.0 if factor is True else 2.0)

    def halves(w, x, factor):
        return x * w.sum() * 2.0

    model = WithMethod(scale)
    assert (
        parity.compare(model, TorchMethod(halves), Probe("one", (X,), {"factor": 1})).verdict == "EQUIVALENT"
    )
    assert (
        parity.compare(model, TorchMethod(halves), Probe("true", (X,), {"factor": True})).verdict
        == "DIVERGENT"
    )


def test_a_parameter_without_a_gradient_proves_nothing_unless_declared():
    def ignore(w, x):
        return x * 2 + 0 * w.sum()

    assert by_method(ignore, ignore, X)["grad(weight)"].verdict == "INCONCLUSIVE"
    declared = Probe("declared", (X,), zeros={"grad(weight)": True})
    assert parity.compare(WithMethod(ignore), TorchMethod(ignore), declared).verdict == "EQUIVALENT"


def test_flax_modules_that_fix_their_dtype_are_widened_for_the_float64_run():
    assert parity.compare(JaxMLP(dtype=jnp.float32), TorchMLP(), DRAWN).verdict == "EQUIVALENT"


def test_a_candidate_that_casts_to_float32_itself_leaves_the_semantic_tier_open():
    report = by_method(lambda w, x: (x @ w.T).astype(jnp.float32), lambda w, x: x @ w.T, X)
    assert report.exit_code == 3
    assert "dtype=None" in report["output"].message


def test_other_outputs_are_a_difference_of_structure():
    more = by_method(lambda w, x: (x @ w.T, x), lambda w, x: x @ w.T, X)
    assert more["output"].message == "missing in the candidate"
    shape = by_method(lambda w, x: x @ w.T[:, :1], lambda w, x: x @ w.T, X)
    assert shape["output"].gate == "structure"
    dtype = by_method(lambda w, x: (x @ w.T).astype(jnp.bfloat16), lambda w, x: x @ w.T, X)
    assert "dtype bfloat16, expected float32" in dtype["output"].message


def test_tied_parameters_are_compared_under_both_names():
    class TorchTied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(6, 4)
            self.head = torch.nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    class Head(nnx.Module):
        def __init__(self, weight):
            self.weight = weight

    class JaxTied(nnx.Module):
        def __init__(self, tied=True):
            self.embed = nnx.Embed(6, 4, rngs=nnx.Rngs(0))
            self.head = Head(self.embed.embedding if tied else nnx.Param(jnp.zeros((6, 4))))

        def __call__(self, ids):
            return self.embed(ids) @ self.head.weight[...].T

    ids = np.array([0, 3, 5, 3])
    reference = TorchTied()
    parity.assert_equivalent(parity.port(reference, JaxTied()), reference, (ids,))
    parity.assert_equivalent(JaxTied(), reference, Probe("drawn", (ids,), weight_scale=1.0))
    untied = parity.compare(parity.port(reference, JaxTied(tied=False)), reference, (ids,))
    assert untied["output"].verdict == "EQUIVALENT"
    assert untied["grad(head.weight)"].verdict == "DIVERGENT"


def test_a_parity_error_is_an_assertion_error_that_shows_the_table():
    with pytest.raises(parity.ParityError, match="DIVERGENT") as caught:
        parity.assert_equivalent(JaxMLP(epsilon=1e-6), TorchMLP(), DRAWN)
    assert isinstance(caught.value, AssertionError)
    assert "grad(first.weight) / grad(first.kernel)" in str(caught.value)
    assert caught.value.report.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: (TorchMLP(), JaxMLP(), (X,)), "the candidate comes first"),
        (lambda: (JaxMLP(), {"x": X}, (X,)), "expected a flax nnx.Module or a torch.nn.Module, not dict"),
        (lambda: (JaxMLP(), TorchMLP(), X), "for a single array write"),
        (lambda: (JaxMLP(), TorchMLP()), "inputs must be a Probe"),
        (lambda: (JaxMLP(), TorchMLP(), (torch.ones(3),)), "convert with np.asarray"),
        (lambda: (JaxMLP(), TorchMLP(), (X * 1j,)), "real numbers, integers or booleans, not complex64"),
        (lambda: ({"x": X}, {"x": X}, (X,)), "leave out inputs"),
        (lambda: ({"x": [1.0]}, {"x": X}), "x.0 is a float; convert it with np.asarray"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, message):
    with pytest.raises(TypeError, match=message):
        parity.compare(*arguments())


def test_float64_is_not_a_precision_to_test():
    with pytest.raises(ValueError, match="the oracle's own precision"):
        parity.compare(JaxMLP(), TorchMLP(), (X,), dtype="float64")


def test_arrays_are_compared_as_they_are():
    wide = {"a": X.astype(np.float64), "b": (X[:2].astype(np.float64),)}
    report = parity.compare(wide, wide)
    assert report.verdict == "EQUIVALENT"
    assert [tensor.name for tensor in report.tensors] == ["a", "b.0"]
    assert "the numeric tier" in str(report)  # among what was not exercised
    narrow = (X,)
    assert parity.compare(narrow, narrow).exit_code == 3
    assert "pass it" in str(parity.compare(narrow, narrow))
    numeric = parity.compare(narrow, narrow, oracle=(X.astype(np.float64),))
    assert numeric.exit_code == 0
    assert "the semantic tier" in str(numeric)
    (comparison,) = numeric.cases[0].comparisons
    assert any("semantic tier not possible" in note for note in comparison.notes)
    full = parity.compare(narrow, narrow, oracle=wide["b"], candidate64=wide["b"])
    assert full.exit_code == 1  # the shapes differ
    assert parity.compare({}, {}).exit_code == 5
    assert parity.compare(narrow, narrow, oracle=()).exit_code == 2


def test_a_verdict_stands_where_its_explanation_fails(monkeypatch):
    from parity.explaining import explain

    def fails(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(explain, "explain", fails)
    wrong = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    report = parity.compare(wrong, torch.nn.Linear(3, 4), (np.ones((5, 3), np.float32),))
    (case,) = report.cases
    assert report.verdict == "DIVERGENT"
    assert case.diagnosis is None
    assert case.notes[0].startswith("not explained: MemoryError: no room")
