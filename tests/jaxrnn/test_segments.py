"""A function of time, cut into segments, is the same function, and keeps states at their bounds alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops.planning import planning_for
from jaxrnn.ops.segments import in_segments
from tests.jaxrnn.common import draw

T = 13
CUTS = [(), (1,), (4,), (13,), (20,), (6, 2), (5, 2), (8, 4, 2), (100, 3)]


def run(state, piece):
    """Return a recurrence that is not the same in another order, along time, and a sum over time."""

    def step(state, x):
        state = jnp.sin(state + x)
        return state, (state, state**2)

    state, (along_time, squares) = jax.lax.scan(step, state, piece)
    return state, along_time, squares.sum(0)


def backwards(state, piece):
    state, along_time, sums = run(state, piece[::-1])
    return state, along_time[::-1], sums


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lengths", CUTS, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_cutting_changes_no_value_and_no_gradient(lengths, reverse):
    whole = backwards if reverse else run
    state, x = jnp.asarray(draw(0, 3)), jnp.asarray(draw(1, T, 3))

    def total(function, state, x):
        return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(function(state, x)))

    def cut(state, x):
        return in_segments(whole, state, x, lengths, reverse=reverse)

    for ours, theirs in zip(jax.tree.leaves(cut(state, x)), jax.tree.leaves(whole(state, x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    ours, theirs = (jax.grad(total, argnums=(1, 2))(function, state, x) for function in (cut, whole))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lengths", [(4,), (6, 2)], ids=str)
def test_few_features_on_a_tpu_are_sliced_as_they_lie_and_differentiated_all_the_same(lengths):
    state, x = jnp.asarray(draw(0, 3)), jnp.asarray(draw(1, T, 3))
    direction = jnp.asarray(draw(2, T, 3))

    def differentiated(function):
        def total(x):
            return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(function(state, x)))

        along = jax.jvp(jax.grad(total), (x,), (direction,))
        return total(x), *along, jax.jvp(total, (x,), (direction,))

    def cut(state, x):
        return in_segments(run, state, x, lengths)

    def of_rows(function):
        return jax.grad(lambda x: jnp.sum(jnp.cos(jax.vmap(function, (None, 2))(state, x)[1])))(
            jnp.stack([x, direction], 2)
        )

    with planning_for("tpu"):
        ours = differentiated(cut), of_rows(cut)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves((differentiated(run), of_rows(run))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def temporary(lengths, steps=4096, features=64):
    def loss(state, x):
        return in_segments(run, state, x, lengths)[2].sum()

    x = jax.ShapeDtypeStruct((steps, features), jnp.float32)
    program = jax.jit(jax.grad(loss)).lower(jax.ShapeDtypeStruct((features,), jnp.float32), x).compile()
    return program.memory_analysis().temp_size_in_bytes / (4 * features)  # in states


def test_what_is_kept_is_the_states_at_the_bounds_and_one_segment():
    assert temporary(()) > 4096
    assert temporary((64,)) < 6 * 64
    assert temporary((256, 16)) < 256 + 8 * 16  # the pieces of the outer segment are copied


def test_states_at_bounds_can_wait_on_the_host():
    state, x = jnp.asarray(draw(0, 3), jnp.float32), jnp.asarray(draw(1, T, 3), jnp.float32)

    @jax.jit
    def gradients(state, x):
        return [
            jax.grad(
                lambda state, offload=offload: in_segments(run, state, x, (4,), offload=offload)[2].sum()
            )(state)
            for offload in (False, True)
        ]

    np.testing.assert_allclose(*gradients(state, x), rtol=1e-6)
