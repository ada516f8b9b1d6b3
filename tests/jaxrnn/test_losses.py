"""Losses against torch.nn.functional: values, gradients, kinks, errors, and what optax computes instead."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxrnn import losses
from tests.jaxrnn.common import mostly_slow
from tests.jaxrnn.loss_cases import (
    CASES,
    CLASS_WEIGHTS,
    LOGITS,
    ONE_EACH,
    SOME,
    UNIT,
    X,
    Y,
    jax_arrays,
    jax_numbers,
    loss_of,
    numbers,
    rms,
    torch_numbers,
)

NAN, INF = float("nan"), float("inf")
# Float32 has its own programs, each a second of compiling: the inner loop runs three of them.
FAST_IN_FLOAT32 = [name for name, case in CASES.items() if case.loss in ("nll_loss", "kl_div", "huber_loss")]


# Against torch


@pytest.mark.essential
@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch_in_float64(name, torch):
    ours, theirs = jax_numbers(CASES[name].loss, np.float64)[name], torch_numbers(CASES[name], np.float64)
    assert ours.keys() == theirs.keys()
    for each, expected in theirs.items():
        assert ours[each].shape == expected.shape, each
        np.testing.assert_array_equal(np.isnan(ours[each]), np.isnan(expected), each)
        # Ten thousand roundings, where the largest error found is ten; any other formula is far beyond.
        error = rms(np.nan_to_num(ours[each] - expected))
        assert error <= 1e-12 * rms(np.nan_to_num(expected)), each


@pytest.mark.torch
@pytest.mark.parametrize("name", mostly_slow(CASES, fast=tuple(FAST_IN_FLOAT32)))
def test_float32_is_as_accurate_as_in_torch(name, torch):
    ours = jax_numbers(CASES[name].loss, np.float32)[name]
    theirs, oracle = torch_numbers(CASES[name], np.float32), torch_numbers(CASES[name], np.float64)
    for each, true in oracle.items():
        if np.isnan(true).all():
            continue  # the mean of nothing
        # Four times torch's own error: another order of the same operations, but no loss of digits (largest found:
        # 1.4 times). The floor is for results that torch has exact by luck.
        floor = 4 * UNIT[np.float32] * rms(true)
        assert rms(ours[each] - true) <= 4 * max(rms(theirs[each] - true), floor), each


@pytest.mark.torch
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
@pytest.mark.parametrize("loss", mostly_slow(["mse_loss", "cross_entropy", "kl_div"], fast=("mse_loss",)))
def test_half_precision_rounds_once_where_torch_rounds_every_element(loss, dtype, torch):
    rng = np.random.default_rng(0)
    shape = (4000, 20) if loss == "cross_entropy" else (80000,)
    draws = [rng.standard_normal(shape), rng.uniform(0.1, 1, 80000)]
    x, y = (
        np.asarray(jnp.asarray(draw, dtype), np.float64) for draw in draws
    )  # numbers that half precision has
    target = rng.integers(0, 20, 4000) if loss == "cross_entropy" else y
    ours = getattr(losses, loss)(
        jnp.asarray(x, dtype), target if loss == "cross_entropy" else jnp.asarray(y, dtype)
    )

    def in_torch(precision):
        labels = torch.tensor(target, dtype=torch.int64 if loss == "cross_entropy" else precision)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "reduction: 'mean' divides")
            return getattr(torch.nn.functional, loss)(torch.tensor(x, dtype=precision), labels).item()

    true, theirs = in_torch(torch.float64), in_torch(getattr(torch, jnp.dtype(dtype).name))
    assert ours.dtype == dtype
    # The nearest number of the dtype is at most a rounding unit away; 1% for what float32 lost before.
    assert abs(float(ours) - true) <= 1.01 * UNIT[dtype] * abs(true)
    assert abs(float(ours) - true) <= 1.01 * max(abs(theirs - true), UNIT[dtype] * abs(true))


def test_gradients_of_half_precision_come_back_in_half_precision():
    x = jnp.asarray([[300.0, 0, 0, 0, 0]], jnp.float16)
    value, gradient = jax.value_and_grad(losses.mse_loss)(x, jnp.zeros_like(x))
    assert value.dtype == gradient.dtype == jnp.float16
    assert value == 18000  # 300² = 90000 overflows float16, and torch's mean with it
    np.testing.assert_array_equal(gradient, [[120, 0, 0, 0, 0]])


def test_a_million_elements_are_summed_without_losing_digits():
    x = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    true = np.mean(x.astype(np.float64) ** 2)
    # A plain running sum is off by some hundred units here; torch's cascade and XLA's blocks by a few.
    assert abs(float(losses.mse_loss(x, np.zeros_like(x))) - true) <= 8 * UNIT[np.float32] * true


@pytest.mark.torch
@pytest.mark.parametrize("loss", losses.__all__)
def test_arguments_are_named_and_ordered_as_in_torch(loss, torch):
    if loss in ("masked_mean", "ignore_padding"):
        pytest.skip("torch has no such function")
    ours = inspect.signature(getattr(losses, loss)).parameters.values()
    if loss == "cosine_similarity":  # torch keeps no signature of it
        assert [(p.name, p.default) for p in ours][2:] == [("dim", 1), ("eps", 1e-8)]
        return
    theirs = dict(inspect.signature(getattr(torch.nn.functional, loss)).parameters)
    assert {p.name: p.default for p in ours} == {
        name: p.default for name, p in theirs.items() if name not in ("size_average", "reduce")
    }
    positional = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)[: len(positional)]


# Kinks and the edges of what is defined: (loss, differentiated arguments, other arguments)
EDGES = {
    "no error": ("l1_loss", ([0.0, -0.0, 2.0, INF], [0.0, 0.0, 3.0, 0.0]), {}),
    "no error, beta 0": ("smooth_l1_loss", ([0.0, -0.0, 2.0], [0.0, 0.0, 3.0]), {"beta": 0.0}),
    "Huber's knee": ("huber_loss", ([0.5, -0.5, 0.0, INF, NAN], [0.0] * 5), {"delta": 0.5}),
    "smooth L1's knee": ("smooth_l1_loss", ([0.5, -0.5, 0.0, INF, NAN], [0.0] * 5), {"beta": 0.5}),
    "certain and right": ("binary_cross_entropy", ([0.0, 1.0], [0.0, 1.0]), {}),
    "certain and wrong": ("binary_cross_entropy", ([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.3, 0.3]), {}),
    "nearly certain": (
        "binary_cross_entropy",
        ([1e-300, 1e-40, 1e-13, 1 - 1e-13], [1.0, 1.0, 1.0, 0.0]),
        {},
    ),
    "huge logits": (
        "binary_cross_entropy_with_logits",
        ([200.0, -200.0, 0.0, 200.0, -200.0], [1.0, 0.0, 1.0, 0.0, 1.0]),
        {},
    ),
    "no such outcome": ("kl_div", ([-1.0, -INF, -0.5, -2.0], [0.0, 0.0, -0.5, 0.5]), {}),
    "no such outcome, logarithms": (
        "kl_div",
        ([-1.0, -INF, -3.0, -0.5], [-1.0, -1.0, -INF, -2.0]),
        {"log_target": True},
    ),
    "variance below eps": (
        "gaussian_nll_loss",
        ([1.0, 2.0, 3.0], [1.0, 1.0, 0.0], [1.0, 1e-9, 0.0]),
        {"full": True},
    ),
    "huge counts": ("poisson_nll_loss", ([1.0, 200.0, -200.0], [1.0, 2.0, 3.0]), {"full": True}),
    "zero vectors": ("cosine_similarity", ([[0.0, 0.0], [3.0, 4.0]], [[1.0, 2.0], [0.0, 0.0]]), {}),
    "vectors below eps": ("cosine_similarity", ([[1e-10, 1e-10]], [[1.0, 2.0]]), {}),
    "at the margin": (
        "cosine_embedding_loss",
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 2.0], [1.0, 2.0]]),
        {"target": np.array([-1, 1, -1])},
    ),
    "impossible class": (
        "cross_entropy",
        ([[1.0, -INF, 0.0], [1.0, -INF, 0.0]],),
        {"target": np.array([0, 1])},
    ),
    "impossible class, smooth": (
        "cross_entropy",
        ([[1.0, -INF, 0.0], [1.0, -INF, 0.0]],),
        {"target": np.array([0, 1]), "label_smoothing": 0.1},
    ),
    "ignored rows of NaN and infinity": (
        "cross_entropy",
        ([[1.0, 2.0], [NAN, 0.0], [INF, 0.0], [-INF, 0.0]],),
        {"target": np.array([0, -100, -100, -100])},
    ),
    "ignored NaN": (
        "nll_loss",
        ([[-1.0, -2.0], [NAN, INF]],),
        {"target": np.array([0, -100])},
    ),
    "weights of zero": (
        "nll_loss",
        ([[-1.0, -2.0]],),
        {"target": np.array([0]), "weight": np.array([0.0, 1.0])},
    ),
}


@functools.cache
def losses_at_edges():
    """Each edge's loss, element by element, and the gradients of its sum."""

    def at(edge):
        loss, arrays, others = EDGES[edge]
        options = others if loss == "cosine_similarity" else others | {"reduction": "none"}
        value, pull = jax.vjp(
            lambda *arrays: getattr(losses, loss)(*arrays, **options), *map(jnp.asarray, arrays)
        )
        return value, pull(jnp.ones_like(value))

    with jax.enable_x64(True):
        return jax.jit(lambda: {edge: at(edge) for edge in EDGES})()  # one program: compiling takes time


@pytest.mark.torch
@pytest.mark.parametrize("edge", EDGES)
def test_values_and_slopes_at_kinks_are_those_of_torch(edge, torch):
    loss, arrays, others = EDGES[edge]
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    options = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in others.items()}
    if loss != "cosine_similarity":
        options["reduction"] = "none"
    expected = getattr(torch.nn.functional, loss)(*tensors, **options)
    slopes = torch.autograd.grad(expected.sum(), tensors)

    value, our_slopes = losses_at_edges()[edge]
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-12)  # rounding
    for slope, expected in zip(our_slopes, slopes, strict=True):
        # Relative as above; torch's σ(x) - 1 is exactly 0 at 200 where the true slope is e^-200.
        np.testing.assert_allclose(slope, expected, rtol=1e-12, atol=1e-80)


@pytest.mark.torch
def test_where_torch_hides_nan_or_makes_one_we_do_not_follow(torch, x64):
    nan = torch.tensor([NAN], dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(torch.nn.functional.l1_loss(nan, torch.zeros_like(nan)), nan)
    assert theirs == 0
    assert np.isnan(jax.grad(losses.l1_loss)(jnp.array([NAN]), jnp.zeros(1))).all()  # a NaN stays visible

    count = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.poisson_nll_loss(torch.ones_like(count), count, full=True)
    assert torch.autograd.grad(loss, count)[0].isnan()
    assert jax.grad(losses.poisson_nll_loss, 1)(jnp.ones(1), jnp.zeros(1), full=True) == -1  # d(-y x)/dy


def test_a_kink_keeps_its_slope_inside_a_second_derivative():
    loss = jax.value_and_grad(lambda x: losses.l1_loss(x, 0.0))
    (value, slope), (change, bend) = jax.jvp(loss, (0.0,), (1.0,))
    assert value == slope == change == bend == 0


def test_the_mean_over_no_labels_is_nan_and_harms_no_gradient():
    ignored = np.full(7, -100)
    value, gradient = jax.value_and_grad(losses.cross_entropy)(jnp.asarray(LOGITS), ignored)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, 0)
    assert losses.cross_entropy(LOGITS, ignored, reduction="sum") == 0


def test_padding_ignored_by_the_loss_changes_neither_value_nor_gradient():
    garbage = LOGITS.copy()
    garbage[SOME == -100] = 1e4
    for smoothing in (0.0, 0.2):
        first, second = (
            jax.value_and_grad(lambda x: losses.cross_entropy(x, SOME, label_smoothing=smoothing))(  # noqa: B023
                jnp.asarray(logits)
            )
            for logits in (LOGITS, garbage)
        )
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        np.testing.assert_array_equal(first[1][SOME == -100], 0)


def test_class_weights_have_the_gradient_that_torch_lacks(x64):
    log_probs = jnp.asarray(np.where(SOME[:, None] == -100, NAN, LOGITS))
    found = jax.grad(lambda w: losses.nll_loss(log_probs, SOME, w, reduction="sum"))(
        jnp.asarray(CLASS_WEIGHTS)
    )
    expected = [-LOGITS[c == SOME, c].sum() for c in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)  # a sum of at most two numbers


def test_one_row_of_logits_takes_its_class_as_number_or_vector():
    for target in (2, np.array(2), np.array([2]), np.array([2], np.uint8)):
        loss = losses.cross_entropy(LOGITS[3], target, reduction="none")
        assert loss.shape == ()
        np.testing.assert_array_equal(
            loss, losses.cross_entropy(LOGITS[3:4], np.array([2]), reduction="none")[0]
        )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64])
def test_labels_of_every_integer_type_mean_the_same(dtype):
    labels = np.array([4, 0, 1, 2, 3, 1, 0])
    expected = losses.cross_entropy(LOGITS, labels, ignore_index=1)
    found = losses.cross_entropy(LOGITS, labels.astype(dtype), ignore_index=1)
    traced = jax.jit(lambda y: losses.cross_entropy(LOGITS, y))(labels.astype(dtype))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(traced, losses.cross_entropy(LOGITS, labels), rtol=1e-6)  # rounding


# Transformations


@pytest.mark.parametrize("loss", mostly_slow(ONE_EACH, fast=("cross_entropy", "huber_loss")))
def test_compiled_and_mapped_losses_are_the_plain_ones(loss, x64):
    case = CASES[ONE_EACH[loss]]
    inputs, fixed = jax_arrays(case, np.float64)
    other = jax.tree.map(lambda x: x[::-1] if x.ndim else -x, inputs)
    both = jax.tree.map(lambda *pair: jnp.stack(pair), inputs, other)
    plain = [numbers(case, each, fixed) for each in (inputs, other)]  # labels known, as at the prompt
    mapped = jax.jit(jax.vmap(lambda inputs: numbers(case, inputs, fixed)))(both)
    for each in mapped:
        for row in range(2):
            # Roundings: XLA fuses differently in each.
            np.testing.assert_allclose(
                mapped[each][row], plain[row][each], rtol=1e-12, atol=1e-14, err_msg=each
            )


@pytest.mark.slow
@pytest.mark.parametrize("loss", ONE_EACH)
def test_derivatives_of_both_orders_and_modes_agree_with_differences(loss, x64):
    case = next(case for case in CASES.values() if case.loss == loss)
    inputs, fixed = jax_arrays(case, np.float64)
    if "entropy" in loss:  # saturated logits have derivatives too small for differences
        inputs["input"] = inputs["input"].clip(-5, 5)
    # Differences of a step of 1e-5 are good to about its square over the curvature.
    check_grads(loss_of(case, fixed, case.reductions[-1]), (inputs,), order=2, rtol=1e-4, atol=1e-4, eps=1e-5)


# Errors

ERRORS = [
    # loss, arguments, options, what is said after torch's words
    ("cross_entropy", (LOGITS, np.array([0, 5, 1, 2, 3, 1, 0])), {}, "Labels go from 0 to 4"),
    ("cross_entropy", (LOGITS, np.array([0, -1, 1, 2, 3, 1, 0])), {"label_smoothing": 0.1}, "ignore_index"),
    ("cross_entropy", (LOGITS, SOME[:3]), {}, "classes are on axis 1"),
    ("cross_entropy", (LOGITS, np.array(1)), {}, "classes are on axis 1"),
    ("cross_entropy", (LOGITS, SOME[:, None]), {}, r"target\[:, 0\]"),
    ("cross_entropy", (LOGITS[None], SOME[None]), {}, "moveaxis"),
    ("cross_entropy", (LOGITS[0], np.array([1, 2])), {}, "one row"),
    ("cross_entropy", (LOGITS, LOGITS), {"ignore_index": 3}, "masked_mean"),
    ("cross_entropy", (LOGITS, SOME.clip(0)), {"label_smoothing": 1.5}, "0.1 is usual"),
    ("cross_entropy", (LOGITS, SOME.clip(0)), {"reduction": "avg"}, "'none', 'mean', 'sum'"),
    ("cross_entropy", (LOGITS, SOME.clip(0), CLASS_WEIGHTS[:2]), {}, "classes are on axis 1"),
    ("nll_loss", (LOGITS[0, 0], np.array(1)), {}, r"\(N, C, ...\)"),
    ("nll_loss", (LOGITS, LOGITS), {}, r"target\[:, 0\]"),
    ("nll_loss", (LOGITS, np.array([0, 7, 1, 2, 3, 1, 0])), {}, "Labels go from 0 to 4"),
    ("nll_loss", (LOGITS, SOME[:6]), {}, "classes are on axis 1"),
    ("mse_loss", (X, Y), {"reduction": "batchmean"}, "'none', 'mean', 'sum'"),
    ("mse_loss", (X, Y), {"weight": X[0]}, "broadcast_to"),
    ("l1_loss", (X, Y), {"weight": X[0]}, "broadcast_to"),
    ("huber_loss", (X, Y), {"weight": X[0]}, "broadcast_to"),
    ("huber_loss", (X, Y), {"delta": 0.0}, "Pass delta > 0"),
    ("huber_loss", (X, Y), {"delta": -1.0}, "Pass delta > 0"),
    ("smooth_l1_loss", (X, Y), {"beta": -1.0}, "Pass beta >= 0"),
    ("kl_div", (X, Y), {"reduction": "avg"}, "'batchmean'"),
    ("kl_div", (X, np.ones((7, 5), int)), {"reduction": "sum"}, "nll_loss"),
    ("binary_cross_entropy", (X, Y), {}, "with_logits"),
    ("binary_cross_entropy", (X * 0 + 0.5, Y), {}, "with_logits"),
    ("binary_cross_entropy", (X * 0 + NAN, Y * 0), {}, "with_logits"),
    ("binary_cross_entropy", (X, Y[:, :1]), {}, r"input\[:, 0\]"),
    ("binary_cross_entropy_with_logits", (X, Y[:, 0]), {}, r"input\[:, 0\]"),
    ("gaussian_nll_loss", (X, Y, -np.ones((7, 5))), {}, "softplus"),
    ("gaussian_nll_loss", (X, Y, -1.0), {}, "softplus"),
    ("gaussian_nll_loss", (X, Y, np.ones((2, 5))), {}, r"got \[2, 5\]"),
    ("gaussian_nll_loss", (X, Y, np.ones((1, 1))), {}, "one axis of length 1"),
    ("poisson_nll_loss", (X, Y), {"reduction": "avg"}, "'none', 'mean', 'sum'"),
    ("cosine_similarity", (X[0], Y[0]), {}, "dim=0"),
    ("cosine_similarity", (X, Y), {"eps": -1}, "zero vector"),
    ("cosine_embedding_loss", (X, Y, np.array(1)), {}, r"\[N, D\]"),
    ("cosine_embedding_loss", (X[0], Y[0], np.ones(7)), {}, r"\[N, D\]"),
    ("cosine_embedding_loss", (X, Y, np.ones(7)), {"reduction": "avg"}, "'none', 'mean', 'sum'"),
]


@pytest.mark.torch
@pytest.mark.parametrize(("loss", "arrays", "options", "remedy"), ERRORS)
def test_errors_begin_with_the_words_of_torch_and_go_on_with_a_remedy(loss, arrays, options, remedy, torch):
    def tensor(array):
        return torch.as_tensor(array) if isinstance(array, np.ndarray | np.floating) else array

    options_of_torch = {name: tensor(option) for name, option in options.items()}
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - ours must be of the same kind
        getattr(torch.nn.functional, loss)(*map(tensor, arrays), **options_of_torch)
    with pytest.raises(theirs.type, match=remedy) as ours:
        getattr(losses, loss)(*arrays, **options)
    # torch prints numbers in its own way.
    words = str(theirs.value).removeprefix("cross_entropy: ").rstrip(".")
    assert str(ours.value).startswith(words)


@pytest.mark.parametrize(
    ("loss", "arrays", "options", "error", "text"),
    [
        ("mse_loss", (X, Y[:, :1]), {}, ValueError, r"input size \(torch.Size\(\[7, 5\]\)\).*\(N, N\)"),
        ("l1_loss", (X[:, :1], Y[:, 0]), {}, ValueError, r"target\[:, None\]"),
        ("huber_loss", (X, Y[:1]), {}, ValueError, "broadcasting"),
        ("smooth_l1_loss", (X, Y[0]), {}, ValueError, "broadcasting"),
        ("kl_div", (X, Y[:1]), {"reduction": "sum"}, ValueError, "broadcasting"),
        ("poisson_nll_loss", (X, Y[:1]), {}, ValueError, "broadcasting"),
        ("gaussian_nll_loss", (X, Y[0], X**2), {}, ValueError, "broadcasting"),
        ("gaussian_nll_loss", (X[:, :1], Y[:, 0], X[:, :1] ** 2), {}, ValueError, "broadcasting"),
        ("cosine_embedding_loss", (X, Y[:1], np.ones(7)), {}, ValueError, "broadcasting"),
        ("cosine_embedding_loss", (X, Y, np.ones(3)), {}, RuntimeError, "one target per pair"),
        ("cosine_embedding_loss", (X, Y, np.ones((7, 1))), {}, RuntimeError, "multi-target"),
        ("cosine_embedding_loss", (X, Y, np.arange(7)), {}, ValueError, r"got 0.*2 \* target - 1"),
        ("cosine_similarity", (X, Y[:, :3]), {}, RuntimeError, "do not broadcast"),
        ("binary_cross_entropy", (X, Y, X[0, :3]), {}, RuntimeError, r"weight with shape \[3\]"),
        ("binary_cross_entropy_with_logits", (X, Y), {"pos_weight": X[None]}, RuntimeError, "pos_weight"),
        ("cross_entropy", (LOGITS, SOME.astype(float)), {}, RuntimeError, "expected target dtype to be Long"),
        ("cross_entropy", (LOGITS, np.ones((7, 5), int)), {}, RuntimeError, "no class axis"),
        ("cross_entropy", (np.ones((7, 5), int), SOME), {}, TypeError, "input: expected floating point"),
        ("cross_entropy", (LOGITS, SOME), {"label_smoothing": -0.1}, RuntimeError, "between 0.0 and 1.0"),
        ("cross_entropy", (LOGITS, SOME), {"label_smoothing": NAN}, ValueError, "label_smoothing is NaN"),
        ("huber_loss", (X, Y), {"delta": jnp.ones(())}, TypeError, "delta: expected a Python number"),
        ("smooth_l1_loss", (X, Y), {"beta": NAN}, ValueError, "beta is NaN"),
        ("mse_loss", (X, Y + 0j), {}, TypeError, "expected real values"),
    ],
)
def test_what_torch_lets_pass_or_words_badly_is_refused_with_a_remedy(loss, arrays, options, error, text):
    with pytest.raises(error, match=re.compile(text, re.DOTALL)):
        getattr(losses, loss)(*arrays, **options)


@pytest.mark.parametrize(
    ("loss", "arrays"),
    [
        ("cross_entropy", (LOGITS[2:5], np.array([0, -1, 1]))),
        ("cross_entropy", (LOGITS[2:5], np.array([0, 5, 1]))),
        ("nll_loss", (LOGITS[2:5], np.array([0, 99, 1], np.uint8))),
        ("binary_cross_entropy", (np.array([0.5, 1.5, 0.1]), np.ones(3))),
        ("binary_cross_entropy", (np.array([0.5, -0.5, 0.1]), np.zeros(3))),
        ("binary_cross_entropy", (np.array([0.5, 0.5, 0.1]), np.array([1, 1.5, 1]))),
        ("gaussian_nll_loss", (X[0, :3], Y[0, :3], np.array([1.0, -1.0, 1.0]))),
        ("cosine_embedding_loss", (X[:3], Y[:3], np.array([1, 0, -1]))),
    ],
)
def test_values_that_raise_when_known_are_nan_in_value_and_gradient_when_traced(loss, arrays):
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        getattr(losses, loss)(*arrays)

    @jax.jit
    def both(*arrays):
        value, pull = jax.vjp(lambda x: getattr(losses, loss)(x, *arrays[1:], reduction="none"), arrays[0])
        return value, pull(jnp.ones_like(value))[0]

    value, gradient = both(*arrays)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).reshape(3, -1).any(1), [False, True, False])


def test_labels_known_while_the_rest_is_traced_still_raise():
    with pytest.raises(IndexError, match="Target 5 is out of bounds"):
        jax.jit(lambda x: losses.cross_entropy(x, np.array([5, 0])))(LOGITS[:2])
    with pytest.raises(RuntimeError, match="target should be between 0 and 1"):
        jax.grad(lambda x: losses.binary_cross_entropy(x, np.array([5.0])))(jnp.array([0.5]))


# Padded sequences


def test_masked_mean_divides_by_what_is_valid_whatever_the_padding_holds():
    values = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)
    lengths = np.array([4, 0, 3])
    mask = np.arange(4) < lengths[:, None]
    everything = np.broadcast_to(mask[..., None], values.shape)
    expected = np.mean(values[mask].astype(np.float64))
    for garbage in (0, NAN, INF):
        filled = jnp.asarray(np.where(mask[..., None], values, garbage))
        for options in ({"lengths": lengths}, {"mask": mask}):
            value, gradient = jax.jit(jax.value_and_grad(lambda x: losses.masked_mean(x, **options)))(filled)  # noqa: B023
            np.testing.assert_allclose(value, expected, rtol=1e-6)  # a sum of 14 in float32
            np.testing.assert_array_equal(gradient, np.where(everything, np.float32(1 / 14), 0))
    np.testing.assert_array_equal(
        losses.masked_mean(values, mask=everything), losses.masked_mean(values, mask=mask)
    )


def test_masked_mean_of_nothing_is_nan_and_harms_no_gradient():
    value, gradient = jax.value_and_grad(lambda x: losses.masked_mean(x, lengths=[0, 0]))(jnp.ones((2, 3)))
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, 0)


def test_nan_targets_in_padding_are_harmless_once_replaced():
    """The recipe of `masked_mean`, and what happens without it."""
    mask = np.arange(5) < np.array([3, 5, 0, 1, 2, 5, 4])[:, None]
    target = np.where(mask, Y, NAN)

    def slope(target):
        return jax.grad(
            lambda x: losses.masked_mean(losses.mse_loss(x, target, reduction="none"), mask=mask)
        )(jnp.asarray(X, jnp.float32))

    assert np.isnan(slope(target)).any()
    # Each is one rounding of 2 (x - y) / n.
    np.testing.assert_allclose(
        slope(np.where(mask, target, 0)), np.where(mask, 2 * (X - Y) / mask.sum(), 0), rtol=1e-6
    )


def test_ignored_padding_gives_the_mean_over_the_valid_labels():
    logits, labels = np.random.default_rng(0).standard_normal((3, 4, 5)), np.arange(12).reshape(3, 4) % 5
    lengths = np.array([4, 1, 2])
    padded = losses.ignore_padding(labels.astype(np.uint8), lengths)
    mask = np.arange(4) < lengths[:, None]
    np.testing.assert_array_equal(padded, np.where(mask, labels, -100))
    # Sums of seven float32 numbers in another order.
    np.testing.assert_allclose(
        losses.cross_entropy(np.moveaxis(logits, -1, 1), padded),
        losses.cross_entropy(logits[mask], labels[mask]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.masked_mean(
            losses.cross_entropy(np.moveaxis(logits, -1, 1), labels, reduction="none"), lengths=lengths
        ),
        losses.cross_entropy(logits[mask], labels[mask]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: losses.masked_mean(X), TypeError, "either lengths or mask"),
        (lambda: losses.masked_mean(X, lengths=[1] * 7, mask=X > 0), TypeError, "either lengths or mask"),
        (lambda: losses.masked_mean(X, mask=np.ones((7, 5))), TypeError, "mask > 0"),
        (lambda: losses.masked_mean(X, mask=np.ones(5, bool)), ValueError, "first axes"),
        (lambda: losses.masked_mean(X, lengths=[6] * 7), ValueError, r"lengths\[0\] is 6"),
        (lambda: losses.masked_mean(X, lengths=[1, 2]), RuntimeError, "one length per row"),
        (lambda: losses.masked_mean(X[0], lengths=[1]), ValueError, r"\[B, T, ...\]"),
        (lambda: losses.ignore_padding(X, [1] * 7), TypeError, "masked_mean"),
        (lambda: losses.ignore_padding(SOME, [1] * 7), ValueError, r"\[B, T, ...\]"),
    ],
)
def test_padding_that_cannot_be_meant_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


# What a port to optax would have got

ONE_ROW = np.array([[1.0, 2.0, 3.0]])
ERROR = np.array([3.0])
NOTHING = np.array([0.0])


# what differs: (ours and optax's, what they are)
IN_OPTAX = {
    "ignored label": (
        lambda: (
            losses.cross_entropy(ONE_ROW, np.array([-100]), reduction="sum"),
            optax.softmax_cross_entropy_with_integer_labels(ONE_ROW, np.array([-100]))[0],
        ),
        (0, NAN),
    ),
    "-1 is the last class": (
        lambda: (
            losses.cross_entropy(ONE_ROW, np.array([-1]), ignore_index=-1, reduction="sum"),
            optax.softmax_cross_entropy_with_integer_labels(ONE_ROW, np.array([-1]))[0],
        ),
        (0, np.log(1 + np.e**-1 + np.e**-2)),
    ),
    "half a square": (
        lambda: (losses.mse_loss(ERROR, NOTHING), optax.l2_loss(ERROR, NOTHING)[0]),
        (9, 4.5),
    ),
    "beta is not delta": (
        lambda: (
            losses.smooth_l1_loss(ERROR, NOTHING, beta=2.0),
            optax.huber_loss(ERROR, NOTHING, delta=2.0)[0],
        ),
        (2, 4),
    ),
    "zero vector": (
        lambda: (
            losses.cosine_similarity(np.zeros(2), np.ones(2), dim=0),
            optax.cosine_similarity(np.zeros(2), np.ones(2)),
        ),
        (0, NAN),
    ),
    "mean of elements": (
        lambda: (
            losses.kl_div(np.log(ONE_ROW / 7), ONE_ROW / 6),
            optax.kl_divergence(np.log(ONE_ROW / 7), ONE_ROW / 6)[0],
        ),
        (np.log(7 / 6) / 3, np.log(7 / 6)),
    ),
    "impossible alignment": (
        lambda: (
            losses.ctc_loss(np.full((1, 1, 2), -np.log(2)), np.array([[1, 1]]), [1], [2], reduction="sum"),
            optax.ctc_loss(np.zeros((1, 1, 2)), np.zeros((1, 1)), np.array([[1, 1]]), np.zeros((1, 2)))[0],
        ),
        (INF, 1e5),
    ),
}


@pytest.mark.parametrize(
    "difference", mostly_slow(IN_OPTAX, fast=tuple(IN_OPTAX)[:-1])
)  # the last compiles CTC
def test_losses_of_optax_are_not_those_of_torch(difference):
    calls, expected = IN_OPTAX[difference]
    np.testing.assert_allclose(calls(), expected, rtol=1e-5)  # float32; optax's 1e5 is a sum with other terms
