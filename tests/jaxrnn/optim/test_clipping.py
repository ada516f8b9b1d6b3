"""Clipping against `torch.nn.utils`, alone and before an optimizer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import optim
from tests.jaxrnn.optim.replay import GRADIENTS, difference, error_ratio, jax_runs, rate, torch_run

RNG = np.random.default_rng(0)
TREE = {
    "weight": RNG.standard_normal((4, 3)),
    "bias": RNG.standard_normal(5),
    "scale": RNG.standard_normal(()),
}
MEDIAN = float(np.median(np.linalg.norm(GRADIENTS.astype(np.float64), axis=1)))  # clips every second step


def clipped_by_torch(torch, grads, dtype, max_norm, norm_type):
    """(gradients, norm) as float64 arrays."""
    parameters = []
    for gradient in grads.values():
        parameters.append(torch.nn.Parameter(torch.zeros(np.shape(gradient), dtype=dtype)))
        parameters[-1].grad = torch.tensor(np.asarray(gradient)).to(dtype)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, foreach=False)
    return [p.grad.double().numpy() for p in parameters], norm.double().numpy()


def clipped_by_us(grads, dtype, max_norm, norm_type):
    with jax.enable_x64(dtype == jnp.float64):
        grads = {name: jnp.asarray(value, dtype) for name, value in grads.items()}
        clipped, norm = jax.jit(optim.clip_gradients, static_argnums=(1, 2))(grads, max_norm, norm_type)
        return [np.asarray(clipped[name], np.float64) for name in grads], np.asarray(norm, np.float64)


@pytest.mark.torch
@pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, 0.5, math.inf, "inf"])
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0, 1e4])
def test_gradients_and_norm_are_those_of_torch(torch, norm_type, size):
    grads = {name: size * value for name, value in TREE.items()}
    for max_norm in (0.5, 1e6, math.inf, 0.0):
        clipped, norm = clipped_by_us(grads, jnp.float64, max_norm, norm_type)
        expected, expected_norm = clipped_by_torch(torch, grads, torch.float64, max_norm, norm_type)
        # A sum of 18 terms, a root, a quotient, a product; powers of 3.5 and 2 take a few more.
        np.testing.assert_allclose(norm, expected_norm, rtol=64 * 2.0**-53)
        for left, right in zip(clipped, expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=64 * 2.0**-53)


@pytest.mark.torch
def test_at_the_threshold_torch_scales_and_so_do_we(torch):
    grads = {"pair": np.array([0.6, 0.8])}
    clipped, norm = clipped_by_us(grads, jnp.float64, 1.0, 2.0)
    (expected,), _ = clipped_by_torch(torch, grads, torch.float64, 1.0, 2.0)
    assert norm == 1.0
    np.testing.assert_array_equal(clipped[0], expected)
    np.testing.assert_allclose(clipped[0], [0.6 * (1 - 1e-6), 0.8 * (1 - 1e-6)], rtol=1e-11)  # 1e-6 squared


@pytest.mark.torch
def test_bfloat16_gradients_have_a_bfloat16_norm_as_in_torch(torch):
    clipped, norm = clipped_by_us(TREE, jnp.bfloat16, 0.5, 2.0)
    expected, expected_norm = clipped_by_torch(torch, TREE, torch.bfloat16, 0.5, 2.0)
    # Norms of norms, each rounded to 8 bits: two roundings, then quotient and product.
    np.testing.assert_allclose(norm, expected_norm, rtol=2 * 2.0**-9)
    for left, right in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=4 * 2.0**-9)
    assert optim.total_norm({"a": jnp.ones(3, jnp.bfloat16)}).dtype == jnp.bfloat16
    assert optim.total_norm({"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(3)}).dtype == jnp.float32


@pytest.mark.torch
@pytest.mark.parametrize("spoiler", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_spoils_what_it_spoils_in_torch(torch, spoiler):
    grads = {"a": np.array([1.0, spoiler]), "b": np.array([2.0])}
    clipped, norm = clipped_by_us(grads, jnp.float64, 0.5, 2.0)
    expected, expected_norm = clipped_by_torch(torch, grads, torch.float64, 0.5, 2.0)
    np.testing.assert_array_equal(norm, expected_norm)
    for left, right in zip(clipped, expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_norm_that_is_not_finite_can_be_an_error():
    grads = {"a": jnp.asarray([1.0, jnp.inf])}
    with pytest.raises(RuntimeError, match=r"total norm of order 2.0 for gradients .* is non-finite"):
        optim.clip_gradients(grads, 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match=r"error_if_nonfinite: cannot look at a value inside jax.jit"):
        jax.jit(lambda g: optim.clip_gradients(g, 1.0, error_if_nonfinite=True))(grads)
    finite = {"a": jnp.asarray([3.0, 4.0])}
    _, norm = optim.clip_gradients(finite, 1.0, error_if_nonfinite=True)
    assert norm == 5.0


def test_the_norm_of_nothing_is_zero():
    assert optim.total_norm({}) == 0.0
    assert optim.total_norm({"empty": jnp.zeros((0, 3))}, math.inf) == 0.0


@pytest.mark.torch
def test_clipping_by_value_is_that_of_torch(torch):
    grads = np.array([-3.0, -1.0, 0.5, 1.0, 2.0, np.inf, np.nan])
    parameter = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    parameter.grad = torch.tensor(grads)
    torch.nn.utils.clip_grad_value_([parameter], 1.0, foreach=False)
    with jax.enable_x64(True):
        transformation = optim.clip_grad_value(1.0)
        clipped, _ = transformation.update(jnp.asarray(grads), transformation.init(jnp.zeros(7)))
    np.testing.assert_array_equal(clipped, parameter.grad.numpy())


def by_norm(max_norm, norm_type=2.0):
    def prepare(library, parameters):
        library.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, foreach=False)

    return optim.clip_grad_norm(max_norm, norm_type), prepare


def by_value(value):
    return optim.clip_grad_value(value), lambda library, p: library.nn.utils.clip_grad_value_(p, value)


CLIPPINGS = {
    "every second step": by_norm(MEDIAN),
    "never": by_norm(1e9),
    "always, by sum": by_norm(1e-2, 1.0),
    "always, by largest": by_norm(1e-2, math.inf),
    "by value": by_value(1e-3),
}
CLIPPED = {
    "sgd": (optim.sgd(rate, momentum=0.9), lambda t, p: t.SGD(p, momentum=0.9, foreach=False)),
    "adam": (optim.adam(rate), lambda t, p: t.Adam(p, foreach=False)),
    "adamw": (optim.adamw(rate), lambda t, p: t.AdamW(p, foreach=False)),
}


@pytest.fixture(scope="module")
def our_runs():
    chains = {
        f"{name} / {clipping}": optax.chain(CLIPPINGS[clipping][0], CLIPPED[name][0])
        for name in CLIPPED
        for clipping in CLIPPINGS
    }
    return {dtype: jax_runs(chains, dtype) for dtype in (np.float32, np.float64)}


@pytest.mark.torch
@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_steps_are_those_of_torch(torch, our_runs, name, clipping):
    (_, make), (_, prepare) = CLIPPED[name], CLIPPINGS[clipping]
    oracle, reference = (
        torch_run(make, dtype, prepare=lambda parameters: prepare(torch, parameters))
        for dtype in (np.float64, np.float32)
    )
    run = f"{name} / {clipping}"
    # 50 steps of some twenty roundings: 50 * 20 * 2**-53 = 1e-13.
    assert difference(our_runs[np.float64][run], oracle) < 1e-12
    assert error_ratio(our_runs[np.float32][run], reference, oracle) <= 4


@pytest.mark.torch
def test_an_optimizer_that_is_not_clipped_is_found_out(torch, our_runs):
    reference = torch_run(CLIPPED["sgd"][1], np.float64)
    assert difference(our_runs[np.float64]["sgd / every second step"], reference) > 1e-2
    assert difference(our_runs[np.float64]["sgd / never"], reference) < 1e-12  # as above


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.clip_grad_norm(-1.0), ValueError, "max_norm=-1.0: expected at least 0"),
        (lambda: optim.clip_grad_norm(math.nan), ValueError, "max_norm=nan"),
        (lambda: optim.clip_grad_norm(None), TypeError, "max_norm: expected a Python number, got NoneType"),
        (lambda: optim.clip_grad_norm(1.0, 0), ValueError, "norm_type=0: expected a number above 0 or 'inf'"),
        (lambda: optim.clip_grad_norm(1.0, "two"), ValueError, "norm_type='two'"),
        (lambda: optim.clip_gradients({}, -2), ValueError, "max_norm=-2"),
        (lambda: optim.clip_grad_value(-1.0), ValueError, "clip_value=-1.0: expected at least 0"),
        (lambda: optim.total_norm({"a": jnp.ones(2, int)}), TypeError, "expected floating point arrays"),
    ],
)
def test_impossible_clippings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
