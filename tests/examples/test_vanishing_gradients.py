"""What the lesson of vanishing gradients measures is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

pytest.importorskip("matplotlib")

import jaxrnn
from examples import vanishing_gradients as lesson
from examples.vanishing_gradients import FEATURES, LONGEST, OPEN, SHORTEST, SIZES, SYMBOLS, TRIALS
from jaxrnn.models import Classifier


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


def test_the_symbol_is_shown_once_and_the_question_comes_after_the_delay():
    recall = lesson.draw(np.random.default_rng(0), 500)
    np.testing.assert_array_equal(recall.inputs[:, 0].argmax(-1), recall.symbols)
    assert (recall.inputs.sum(-1) == 1).all()
    assert (recall.inputs[:, 1:].argmax(-1) >= SYMBOLS).all()
    assert (recall.lengths.min(), recall.lengths.max()) == (1 + SHORTEST, 1 + LONGEST)
    assert lesson.draw(np.random.default_rng(0), 500, 0).lengths.min() == 1


def test_sensitivity_is_the_norm_of_the_jacobian():
    network = Classifier(jaxrnn.LSTM, FEATURES, 3, SYMBOLS, rngs=nnx.Rngs(0))
    inputs = lesson.draw(np.random.default_rng(0), 2).inputs[:, :5]

    def states(first, row):
        return network.rnn(jnp.concatenate([first[None], row[1:]])[None])[0][0]

    norms = [
        jnp.linalg.norm(jax.jacrev(states)(jnp.asarray(row[0]), row).reshape(5, -1), axis=1) for row in inputs
    ]
    # Both in float32, over five steps.
    np.testing.assert_allclose(lesson.sensitivity(network, inputs), np.mean(norms, axis=0), rtol=1e-5)


def test_norms_are_kept_and_gradients_passed_on():
    rule = lesson.record_norms(3)
    state = rule.init({})
    for scale in (1.0, 2.0):
        gradients = {"a": jnp.array([3.0 * scale]), "b": jnp.array([4.0 * scale])}
        passed, state = rule.update(gradients, state)
        assert optax.tree.norm(passed) == optax.tree.norm(gradients)
    np.testing.assert_array_equal(state.values, [5, 10, 0])


def test_opening_the_forget_gates_changes_their_bias_alone():
    size = SIZES["small"]
    plain, opened = (jaxrnn.state_dict(lesson.build(TRIALS[name], size, 0)) for name in ("LSTM", OPEN))
    changed = {name: opened[name] - plain[name] for name in plain}
    expected = np.zeros(4 * size.hidden)
    expected[size.hidden : 2 * size.hidden] = TRIALS[OPEN].forget_bias
    # The sum is rounded once, to 24 bits.
    np.testing.assert_allclose(changed.pop("rnn.bias_ih_l0"), expected, atol=1e-6)
    assert all((difference == 0).all() for difference in changed.values())


def test_a_network_that_never_learns_says_so():
    trained = lesson.Trained(None, checks=(2.0, 1.0, 0.1))
    assert lesson.steps_to_learn(trained, SIZES["small"]) == "30"
    trained.checks = (2.0, 2.0, 2.0)
    assert lesson.steps_to_learn(trained, SIZES["small"]) == "never"
