"""Optimizers replayed on recorded gradients, against PyTorch and a float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrnn import optim

STEPS, SIZE = 200, 48
UNIT = 2.0**-24  # float32's rounding unit


def recorded_gradients():
    """Float32 gradients [STEPS, SIZE] from 1e-12 to 1e3, with zeros and changing signs."""
    rng = np.random.default_rng(0)
    magnitudes = 10.0 ** rng.uniform(-12, 3, SIZE)
    gradients = magnitudes * rng.standard_normal((STEPS, SIZE))
    gradients[rng.random(gradients.shape) < 0.1] = 0
    gradients[:, 0] = 0  # a parameter that never gets a gradient
    gradients[::2, 1], gradients[1::2, 1] = 1e3, -1e3
    return gradients.astype(np.float32)


GRADIENTS = recorded_gradients()
# Small beside lr * STEPS, so that the updates and not the parameters' own rounding decide the error.
START = (1e-2 * np.random.default_rng(1).standard_normal(SIZE)).astype(np.float32)


def halving(step):
    return 1e-2 * 0.5 ** (step // 50)


def jax_run(transformation, dtype, gradients=GRADIENTS):
    """Parameters after every step, [STEPS, SIZE] in float64."""

    def step(carry, gradient):
        params, state = carry
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    with jax.enable_x64(dtype == np.float64):
        params = jnp.asarray(START, dtype)
        carry = (params, transformation.init(params))
        return np.asarray(
            jax.jit(lambda g: jax.lax.scan(step, carry, g)[1])(jnp.asarray(gradients, dtype)), np.float64
        )


def torch_run(make, dtype, schedule=None):
    torch = pytest.importorskip("torch")
    params = torch.nn.Parameter(torch.tensor(START, dtype=getattr(torch, np.dtype(dtype).name)))
    optimizer = make(torch.optim, [params])
    run = []
    for number, gradient in enumerate(GRADIENTS):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule(number)
        params.grad = torch.tensor(gradient, dtype=params.dtype)
        optimizer.step()
        run.append(params.detach().double().numpy().copy())
    return np.stack(run)


def rms(values):
    return np.sqrt(np.mean(values**2, axis=-1))


def error_ratio(candidate, reference, oracle):
    """Largest ratio, over the steps, of the candidate's error to the reference's or to four roundings."""
    floor = 4 * UNIT * rms(oracle)
    return np.max(rms(candidate - oracle) / np.maximum(rms(reference - oracle), floor))


# name: (ours, torch's, the schedule torch is to follow)
CASES = {
    "adam": (optim.adam(1e-2), lambda t, p: t.Adam(p, lr=1e-2, foreach=False), None),
    "adam, weight decay": (
        optim.adam(1e-2, weight_decay=0.1),
        lambda t, p: t.Adam(p, lr=1e-2, weight_decay=0.1, foreach=False),
        None,
    ),
    "adam, large eps": (
        optim.adam(1e-2, eps=1e-3),
        lambda t, p: t.Adam(p, lr=1e-2, eps=1e-3, foreach=False),
        None,
    ),
    "adam, short memory": (  # b1 < 0.5 takes the other branch of torch's lerp
        optim.adam(1e-2, b1=0.3, b2=0.9),
        lambda t, p: t.Adam(p, lr=1e-2, betas=(0.3, 0.9), foreach=False),
        None,
    ),
    "adam, no memory": (
        optim.adam(1e-2, b1=0.0, b2=0.0),
        lambda t, p: t.Adam(p, lr=1e-2, betas=(0.0, 0.0), foreach=False),
        None,
    ),
    "adam, schedule": (optim.adam(halving), lambda t, p: t.Adam(p, lr=1e-2, foreach=False), halving),
    "sgd": (optim.sgd(1e-2), lambda t, p: t.SGD(p, lr=1e-2, foreach=False), None),
    "sgd, weight decay": (
        optim.sgd(1e-2, weight_decay=0.1),
        lambda t, p: t.SGD(p, lr=1e-2, weight_decay=0.1, foreach=False),
        None,
    ),
    "sgd, momentum and schedule": (
        optim.sgd(halving, momentum=0.9),
        lambda t, p: t.SGD(p, lr=1e-2, momentum=0.9, foreach=False),
        halving,
    ),
    "sgd, dampening": (
        optim.sgd(1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1),
        lambda t, p: t.SGD(p, lr=1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1, foreach=False),
        None,
    ),
    "sgd, nesterov": (
        optim.sgd(1e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda t, p: t.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=False),
        None,
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_in_float64_every_step_is_torchs(name):
    ours, make, schedule = CASES[name]
    candidate, reference = jax_run(ours, np.float64), torch_run(make, np.float64, schedule)
    # 200 steps of some ten roundings, 200 * 10 * 2**-53 = 2e-13, relative to the parameter at its largest.
    error = np.abs(candidate - reference) / np.max(np.abs(reference), axis=0)
    assert np.max(error) < 1e-12


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_in_float32_the_error_is_of_torchs_own_size(name):
    ours, make, schedule = CASES[name]
    oracle, reference = torch_run(make, np.float64, schedule), torch_run(make, np.float32, schedule)
    assert error_ratio(jax_run(ours, np.float32), reference, oracle) <= 4


@pytest.mark.torch
def test_the_float32_check_fails_for_optax_adam():
    """Its bias correction is a difference of float32 numbers: 30 times torch's error."""
    _, make, _ = CASES["adam"]
    oracle, reference = torch_run(make, np.float64), torch_run(make, np.float32)
    assert error_ratio(jax_run(optax.adam(1e-2), np.float32), reference, oracle) > 10
    # In float64 there is nothing to see: the formula is the same.
    assert np.max(np.abs(jax_run(optax.adam(1e-2), np.float64) - oracle)) < 1e-10


@pytest.mark.parametrize(
    "wrong",
    [
        optim.adam(1e-2, eps=1e-7),
        optim.adam(1e-2, b2=0.99),
        optim.adam(1e-2 * (1 + 1e-5)),
        optax.adamw(1e-2, weight_decay=1e-4),
    ],
)
def test_the_float32_check_sees_small_mistakes(wrong):
    oracle = jax_run(optim.adam(1e-2), np.float64)
    reference = jax_run(optim.adam(1e-2), np.float32)
    assert error_ratio(jax_run(wrong, np.float32), reference, oracle) > 4


def test_bias_correction_keeps_float32_digits_at_every_step():
    steps = np.array([1, 2, 10, 100, 1000, 100_000, 2_000_000])
    for decay in (0.9, 0.999, 0.9999):
        exact = -np.expm1(steps * np.log(decay))
        ours = np.array([optim._bias_correction(decay, jnp.asarray(t), np.float32) for t in steps])
        # log(decay), its product with t, expm1: three roundings and expm1's own.
        np.testing.assert_allclose(ours, exact, rtol=4 * UNIT)


def test_each_leaf_of_a_tree_is_treated_alone_and_keeps_its_dtype():
    params = {"a": jnp.asarray([1.0, -2.0]), "b": [jnp.asarray(3.0, jnp.bfloat16)]}
    grads = {"a": jnp.asarray([0.5, -0.25]), "b": [jnp.asarray(4.0, jnp.bfloat16)]}
    for transformation in (optim.adam(0.1), optim.sgd(0.1, momentum=0.9)):
        state = transformation.init(params)
        updates, state = transformation.update(grads, state, params)
        updates, _ = transformation.update(grads, state, params)
        alone = transformation.init(params["a"])
        expected, alone = transformation.update(grads["a"], alone, params["a"])
        expected, _ = transformation.update(grads["a"], alone, params["a"])
        np.testing.assert_array_equal(updates["a"], expected)
        assert updates["b"][0].dtype == jnp.bfloat16


def test_adams_first_step_is_the_learning_rate_against_the_sign():
    params = {"w": jnp.asarray([1.0, 2.0, -3.0])}
    model_free = optim.adam(0.25)
    updates, _ = model_free.update({"w": jnp.asarray([1e3, -1e-3, 0.0])}, model_free.init(params))
    # |g| / (|g| + 1e-8): 1 to 1e-5 for g = 1e-3.
    np.testing.assert_allclose(updates["w"], [-0.25, 0.25, 0.0], rtol=2e-5)


def test_an_nnx_optimizer_takes_them():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    before = np.asarray(model.kernel[...])
    optimizer = nnx.Optimizer(model, optim.sgd(0.5, weight_decay=0.1), wrt=nnx.Param)
    grads = nnx.grad(lambda m: m(jnp.ones((1, 3))).sum())(model)
    optimizer.update(model, grads)
    # g = 1 + 0.1 p, p - 0.5 g: three float32 roundings.
    np.testing.assert_allclose(
        model.kernel[...], before - 0.5 * (1 + 0.1 * before), rtol=4 * UNIT, atol=4 * UNIT
    )


def test_the_learning_rate_can_be_injected():
    make = optax.inject_hyperparams(optim.adam, static_args=("b1", "b2", "eps", "weight_decay"))
    np.testing.assert_allclose(
        jax_run(make(learning_rate=1e-2), np.float32),
        jax_run(optim.adam(1e-2), np.float32),
        rtol=64 * UNIT,  # the same operations, compiled with the rate as a variable
        atol=64 * UNIT,
    )
    with pytest.raises(TypeError, match="list b1 in static_args"):
        optax.inject_hyperparams(optim.adam)(learning_rate=1e-2).init(jnp.ones(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.adam(-1.0), "learning_rate=-1.0: expected a finite number of at least 0"),
        (lambda: optim.adam(1e-3, b1=1.0), "b1=1.0: expected at least 0 and less than 1"),
        (lambda: optim.adam(1e-3, b2=-0.1), "b2=-0.1"),
        (lambda: optim.adam(1e-3, eps=-1e-8), "eps=-1e-08"),
        (lambda: optim.adam(1e-3, weight_decay=float("nan")), "weight_decay=nan"),
        (lambda: optim.sgd(1e-3, momentum=-0.5), "momentum=-0.5"),
        (lambda: optim.sgd(1e-3, nesterov=True), "Nesterov momentum requires a momentum and zero dampening"),
        (lambda: optim.sgd(1e-3, momentum=0.9, dampening=0.1, nesterov=True), "dampening=0.1"),
        (lambda: optim.sgd(1e-3, dampening=0.1), "has no effect without momentum"),
    ],
)
def test_impossible_hyperparameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
