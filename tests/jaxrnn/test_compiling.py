"""A step that is defined again is compiled again only where it could be another."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import compiling

TRACED: list[int] = []
note = TRACED.append  # which cannot change, as the list can


@pytest.fixture(autouse=True)
def nothing_kept():
    compiling._KEPT.clear()


def train(model, x, criterion, scale=1.0):
    def loss_of(model, x):
        note(1)
        return criterion(model(x)) * scale

    @jaxrnn.compiled_once
    def step(model, x):
        return nnx.value_and_grad(loss_of)(model, x)[0]

    return float(step(model, x))


def traces(*calls):
    """Return how often the step is traced in each of some calls."""
    found = []
    for call in calls:
        TRACED.clear()
        call()
        found.append(len(TRACED))
    return found


def test_the_same_code_over_the_same_values_is_compiled_once():
    x, first, second = jnp.ones((3, 4)), *(nnx.Linear(4, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    power = functools.partial(lambda y, exponent: (y**exponent).sum(), exponent=2)
    again = functools.partial(power.func, exponent=2)
    assert (
        traces(
            lambda: train(first, x, jnp.sum),
            lambda: train(second, 2 * x, jnp.sum),  # models and data are arguments
            lambda: train(first, x, power, 2.0),
            lambda: train(first, x, again, 2.0),  # made anew, and equal
            lambda: train(first, x[:2], power, 2.0),  # another shape is another program, as ever
        )
        == [1, 0, 1, 0, 1]
    )
    assert train(first, x, jnp.sum) != train(second, x, jnp.sum)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: (jnp.sum, 2.0), lambda: (jnp.sum, 3.0)),
        (lambda: (jnp.sum, 2), lambda: (jnp.sum, 2.0)),
        (lambda: (jnp.sum, np.float32(2)), lambda: (jnp.sum, np.float32(3))),
        (
            lambda: (functools.partial(jnp.sum, axis=None), 1.0),
            lambda: (functools.partial(jnp.sum, axis=None, keepdims=False), 1.0),
        ),
        (lambda: (lambda y: y.sum(), 1.0), lambda: (lambda y: y.mean(), 1.0)),
    ],
)
def test_another_value_around_it_is_another_program(first, second):
    model, x = nnx.Linear(4, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 4))
    assert traces(*(lambda make=make: train(model, x, *make()) for make in (first, second))) == [1, 1]


def test_a_value_that_can_change_is_never_taken_for_the_same():
    model, x, scale = nnx.Linear(4, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 4)), np.ones(())
    assert traces(lambda: train(model, x, jnp.sum, scale), lambda: train(model, x, jnp.sum, scale)) == [1, 1]

    def through(module):
        return lambda y: module(y).sum()

    other = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    before = train(model, x, through(other))
    other.kernel[...] = 3 * other.kernel[...]
    assert train(model, x, through(other)) == pytest.approx(3 * before)


def test_a_name_at_the_top_of_the_file_that_changed_is_another_value():
    code = """
import jaxrnn
from flax import nnx

BETA, RUNNING = 1.0, []

def weighted(x):
    return sum(BETA * each for each in (x, x))

def down(n):
    return 1.0 if n == 0 else down(n - 1)

def train(model, x):
    @jaxrnn.compiled_once
    def step(model, x):
        note(1)
        return weighted(model(x)).sum() * down(2)

    return float(step(model, x))
"""
    names: dict = {"note": note}
    exec(code, names)
    model, x = nnx.Linear(4, 2, rngs=nnx.Rngs(0)), jnp.ones((3, 4))
    before = names["train"](model, x)

    def change():
        names["BETA"] = 2.0
        assert names["train"](model, x) == pytest.approx(2 * before)

    assert traces(lambda: names["train"](model, x), change, lambda: names["train"](model, x)) == [0, 1, 0]
