"""Every number that a JAX program computes is seen, wherever it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.running.recording import Values, recorded


def holds(values, number):
    return values.distance(np.asarray([number]))[0] < 1e-6  # float32 rounding of numbers around 1


def test_values_inside_loops_calls_and_derivative_rules_are_seen():
    @jax.custom_jvp
    def tripled(x):
        return 3.0 * x

    tripled.defjvp(lambda primals, tangents: (tripled(*primals), 3.0 * tangents[0]))

    def body(carry, x):
        inside = carry * x + 0.125
        return carry + 1.0, jnp.sin(inside)

    def function(x):
        _, outputs = jax.lax.scan(body, 2.0, x)
        again = jax.checkpoint(lambda y: jnp.exp(jax.jit(tripled)(y) - 7.0))(outputs)
        return jnp.sum(again)

    x = jnp.asarray([0.5, 0.75])
    values = Values(jax.jit(recorded(function))(x))
    inside = [2.0 * 0.5 + 0.125, 3.0 * 0.75 + 0.125]
    for number in (*inside, *np.sin(inside), *(3 * np.sin(inside)), *np.exp(3 * np.sin(inside) - 7)):
        assert holds(values, number)
    assert not holds(values, 0.333)


def test_values_of_the_backward_pass_are_seen_too():
    def loss(w):
        def body(h, _):
            h = jnp.tanh(w * h)
            return h, h

        return jnp.sum(jax.lax.scan(body, 0.7, None, length=3)[1])

    values = Values(recorded(jax.grad(loss))(1.3))
    assert holds(values, float(jax.grad(loss)(1.3)))
    h1 = np.tanh(1.3 * 0.7)
    assert holds(values, h1)


def test_reverse_loops_and_integers_do_not_confuse_the_record():
    def function(x, n):
        def body(carry, inputs):
            value, count = inputs
            return carry + value, (carry * 2.0, count + 1)

        return jax.lax.scan(body, 0.0, (x, n), reverse=True)

    found = recorded(function)(jnp.asarray([1.25, 2.5]), jnp.asarray([3, 4]))
    assert all(jnp.issubdtype(array.dtype, jnp.floating) for array in found)
    assert holds(Values(found), 3.75)


@pytest.mark.parametrize("kind", ["cond", "while"])
def test_what_cannot_be_looked_into_is_seen_from_outside(kind):
    def function(x):
        if kind == "cond":
            return jax.lax.cond(x > 0, lambda y: y * 5.0, lambda y: y, x)
        return jax.lax.while_loop(lambda y: y < 9.0, lambda y: y * 3.0, x)

    expected = 6.25 if kind == "cond" else 1.25 * 9
    assert holds(Values(recorded(function)(jnp.float32(1.25))), expected)


def test_the_distance_is_that_of_the_nearest_finite_number():
    values = Values([np.asarray([[1.0, np.nan], [np.inf, -2.0]]), np.float32(5.0)])
    assert len(values) == 4  # -2, 0, 1, 5
    np.testing.assert_allclose(values.distance(np.asarray([-3.0, 0.4, 4.0, 100.0])), [1.0, 0.4, 1.0, 95.0])
