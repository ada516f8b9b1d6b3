"""The optimizers' arithmetic and surface; `tests/jaxrnn/optim` replays them against PyTorch."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrnn import optim, training_state
from jaxrnn.optim._common import bias_correction
from jaxrnn.optim.adams import _sma_length
from tests.jaxrnn.optim.replay import GRADIENTS, difference, error_ratio, jax_run, jax_runs, torch_run

UNIT = 2.0**-24  # float32's rounding unit

EVERY = {
    "adam": optim.adam(amsgrad=True),
    "adamw": optim.adamw(lambda step: 1e-2 / (step + 1)),
    "adamax": optim.adamax(),
    "nadam": optim.nadam(weight_decay=0.1),
    "radam": optim.radam(b1=lambda step: 0.9 - 0.1 / (step + 1)),
    "sgd": optim.sgd(momentum=0.9),
    "rmsprop": optim.rmsprop(momentum=0.9, centered=True),
    "adagrad": optim.adagrad(),
    "adadelta": optim.adadelta(),
    "rprop": optim.rprop(),
    "plateau": optax.chain(
        optim.clip_grad_norm(1.0), optim.adam(1.0), optim.reduce_on_plateau(1e-2, patience=0)
    ),
}


def torchs_adam(library, parameters):
    return library.Adam(parameters, lr=1e-2, foreach=False)


@pytest.mark.torch
def test_two_hundred_steps_of_adam_stay_torchs():
    gradients = np.tile(GRADIENTS, (4, 1))
    oracle, reference = (
        torch_run(torchs_adam, dtype, gradients, rates=None) for dtype in (np.float64, np.float32)
    )
    # 200 steps of some ten roundings: 200 * 10 * 2**-53 = 2e-13.
    assert difference(jax_run(optim.adam(1e-2), np.float64, gradients), oracle) < 1e-12
    assert error_ratio(jax_run(optim.adam(1e-2), np.float32, gradients), reference, oracle) <= 4


@pytest.mark.torch
def test_the_float32_check_fails_for_optax_adam():
    """Its bias correction is a difference of float32 numbers: 30 times torch's error."""
    oracle, reference = (torch_run(torchs_adam, dtype, rates=None) for dtype in (np.float64, np.float32))
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
        ours = np.array([bias_correction(decay, jnp.asarray(t), np.float32) for t in steps])
        # log(decay), its product with t, expm1: three roundings and expm1's own.
        np.testing.assert_allclose(ours, exact, rtol=4 * UNIT)


@pytest.mark.parametrize("b2", [0.7, 0.9, 0.99, 0.999, 0.9999, 0.999999])
def test_radams_length_keeps_float32_digits_where_its_terms_cancel(b2):
    steps = np.array([1, 2, 5, 6, 7, 20, 300, 1000, 1001, 5000, 30_000, 200_000])
    exact = [exact_length(b2, int(t)) for t in steps]
    for less in (0, 4, 5):
        ours = np.array([_sma_length(b2, jnp.asarray(t), np.float32)(less) for t in steps])
        # Four terms of at most ρ, each with its rounding; less is taken from whole steps while they are few.
        np.testing.assert_allclose(ours, np.array(exact) - less, rtol=0, atol=8 * UNIT * max(exact))
        small = np.array(exact) < 30
        np.testing.assert_allclose(ours[small], (np.array(exact) - less)[small], rtol=0, atol=8 * UNIT * 30)
    naive = np.float32(2 / (1 - b2) - 1) - np.float32(12) * np.float32(b2**6) / np.float32(1 - b2**6)
    assert (
        b2 < 0.999 or abs(naive - exact_length(b2, 6)) > 1e-5
    )  # what is avoided here: 400 roundings of ρ = 6


def exact_length(b2, t):
    """ρ in fractions: the published form, without a rounding."""
    b2 = Fraction(b2)
    power = b2**t if t <= 5000 else Fraction(math.exp(t * math.log(b2)))  # later on nothing cancels
    return float(2 / (1 - b2) - 1 - 2 * t * power / (1 - power))


@pytest.mark.parametrize("name", EVERY)
def test_each_leaf_of_a_tree_is_treated_alone_and_keeps_its_dtype(name):
    """All but clipping, which is why the gradients' norm stays below 1."""
    grads = {"a": jnp.asarray([[0.05, -0.025]]), "b": [jnp.asarray(0.4, jnp.bfloat16)]}
    params = {"a": jnp.asarray([[1.0, -2.0]]), "b": [jnp.asarray(3.0, jnp.bfloat16)]}
    together, alone = (
        two_updates(EVERY[name], grads, params),
        two_updates(EVERY[name], grads["a"], params["a"]),
    )
    np.testing.assert_array_equal(together["a"], alone)
    assert together["b"][0].dtype == jnp.bfloat16
    assert np.all(np.asarray(together["b"][0], np.float32) != 0)


def two_updates(transformation, grads, params):
    """The second updates of one gradient."""
    state = transformation.init(params)
    updates, state = transformation.update(grads, state, params, **metric_for(transformation))
    updates, _ = transformation.update(grads, state, params, **metric_for(transformation))
    return updates


def metric_for(transformation):
    return {"value": 1.0} if transformation is EVERY["plateau"] else {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("adam", "rmsprop", "plateau") else [pytest.mark.slow])
        for name in EVERY
    ],
)
def test_a_run_goes_on_bit_for_bit_from_a_state_that_was_written_down(name):
    """In an `nnx.Optimizer`, jitted, by the functions that checkpoints use."""
    side, resumed = ((model := linear(), nnx.Optimizer(model, EVERY[name], wrt=nnx.Param)) for _ in range(2))

    @nnx.jit
    def train(model, optimizer):
        grads = nnx.grad(lambda model: jnp.mean((model(X) - 1) ** 2))(model)
        optimizer.update(model, grads, **metric_for(EVERY[name]))

    train(*side)
    train(*side)
    written = [jax.tree.map(np.asarray, training_state.pure(node)) for node in side]
    before = np.asarray(side[0].kernel[...])
    for node, arrays in zip(resumed, written, strict=True):
        training_state.replace(node, arrays)
    train(*side)
    train(*resumed)
    np.testing.assert_array_equal(side[0].kernel[...], resumed[0].kernel[...])
    assert np.all(np.asarray(side[0].kernel[...]) != before)
    for left, right in zip(
        *(jax.tree.leaves(training_state.pure(o)) for _, o in (side, resumed)), strict=True
    ):
        np.testing.assert_array_equal(left, right, strict=True)


X = np.random.default_rng(4).standard_normal((5, 3)).astype(np.float32)


def linear():
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0))


def test_adams_first_step_is_the_learning_rate_against_the_sign():
    params = {"w": jnp.asarray([1.0, 2.0, -3.0])}
    model_free = optim.adam(0.25)
    updates, _ = model_free.update({"w": jnp.asarray([1e3, -1e-3, 0.0])}, model_free.init(params))
    # |g| / (|g| + 1e-8): 1 to 1e-5 for g = 1e-3.
    np.testing.assert_allclose(updates["w"], [-0.25, 0.25, 0.0], rtol=2e-5)


def test_an_nnx_optimizer_takes_them():
    model = linear()
    before = np.asarray(model.kernel[...])
    optimizer = nnx.Optimizer(model, optim.sgd(0.5, weight_decay=0.1), wrt=nnx.Param)
    grads = nnx.grad(lambda m: m(jnp.ones((1, 3))).sum())(model)
    optimizer.update(model, grads)
    # g = 1 + 0.1 p, p - 0.5 g: three float32 roundings.
    np.testing.assert_allclose(
        model.kernel[...], before - 0.5 * (1 + 0.1 * before), rtol=4 * UNIT, atol=4 * UNIT
    )


@pytest.mark.parametrize(
    ("name", "static"),
    [
        ("adam", ("b1", "b2", "eps", "weight_decay")),
        ("nadam", ("b1", "b2", "eps", "weight_decay", "momentum_decay")),
        ("rprop", ()),
    ],
)
def test_the_learning_rate_can_be_injected(name, static):
    make = getattr(optim, name)
    injected = optax.inject_hyperparams(make, static_args=static)(learning_rate=1e-2)
    runs = jax_runs({"injected": injected, "fixed": make(1e-2)}, np.float32)
    # The same operations, compiled with the rate as a variable.
    np.testing.assert_allclose(runs["injected"], runs["fixed"], rtol=64 * UNIT, atol=64 * UNIT)


def test_an_injected_rate_can_be_changed_between_two_updates():
    make = optax.inject_hyperparams(optim.sgd, static_args=("momentum", "dampening", "weight_decay"))
    optimizer = make(learning_rate=1.0, momentum=0.5)
    state = optimizer.init(jnp.ones(()))
    first, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
    state.hyperparams["learning_rate"] = jnp.asarray(0.25)
    second, _ = optimizer.update(jnp.ones(()), state, jnp.ones(()))
    assert (first, second) == (-1.0, -0.25 * 1.5)


def test_only_the_learning_rate_may_be_an_array():
    with pytest.raises(TypeError, match="list b1 in static_args"):
        optax.inject_hyperparams(optim.adam)(learning_rate=1e-2).init(jnp.ones(3))


def test_maximizing_climbs_where_minimizing_descends():
    for name in (
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "radam",
        "sgd",
        "rmsprop",
        "adagrad",
        "adadelta",
        "rprop",
    ):
        up, down = (getattr(optim, name)(0.1, maximize=maximize) for maximize in (True, False))
        for transformation, sign in ((up, 1), (down, -1)):
            updates, _ = transformation.update(jnp.ones(2), transformation.init(jnp.ones(2)), jnp.ones(2))
            assert np.all(np.sign(updates) == sign), name


def test_a_centered_rmsprop_survives_a_variance_below_zero():
    """Rounding makes it negative: in torch, 5 of 200 parameters are NaN after 4000 steps of one gradient."""
    optimizer = optim.rmsprop(0.1, alpha=1.0, eps=0.5, centered=True)  # moments stay as they are
    rms, rate = optimizer.init(jnp.ones(()))
    rms = rms._replace(mu=jnp.asarray(1.0), nu=jnp.asarray(1.0 - UNIT))
    updates, _ = optimizer.update(jnp.asarray(1.0), (rms, rate))
    assert updates == jnp.float32(-0.1 / 0.5)


def test_rprop_agrees_with_tiny_gradients_about_their_sign():
    """The product of two gradients of 1e-30 is 0 in float32; their signs are what counts."""
    optimizer = optim.rprop(1.0)
    grads = jnp.asarray([1e-30, -1e-30])
    updates, state = optimizer.update(grads, optimizer.init(grads))
    updates, _ = optimizer.update(grads, state)
    np.testing.assert_allclose(updates, [-1.2, 1.2], rtol=2 * UNIT)


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
