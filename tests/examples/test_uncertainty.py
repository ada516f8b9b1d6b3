"""The parts of an uncertain forecast, its measures, and networks that are trained side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("matplotlib")
pytest.importorskip("statsmodels")
pytest.importorskip("scipy")

from scipy.stats import norm

from examples import uncertainty
from examples.uncertainty import (
    Ensemble,
    Mixture,
    clean,
    coverage,
    deviation,
    known_noise,
    likelihood,
    miss,
    nll,
)


@pytest.fixture(scope="module")
def ensemble():
    made = Ensemble(2, 3, 1, 4, members=3, rngs=nnx.Rngs(0))
    made.eval()
    return made


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return random.normal(size=(5, 6, 2)).astype("f4"), random.normal(size=(5, 4)).astype("f4")


def test_the_parts_of_a_mixture_add_up_to_its_variance():
    random = np.random.default_rng(0)
    means, variances = random.normal(size=(3, 1, 1)), random.uniform(0.1, 2, (3, 1, 1))
    drawn = (means + np.sqrt(variances) * random.normal(size=(3, 400_000, 1))).ravel()
    found = Mixture.of(means, variances)
    # Of 1.2 million draws the variance is known to about 0.2 %.
    assert found.variance.item() == pytest.approx(drawn.var(), rel=0.01)
    assert found.mean.item() == pytest.approx(drawn.mean(), abs=0.01)
    assert found.epistemic.item() == pytest.approx(means.var())


def test_intervals_of_the_true_distribution_hold_what_they_should():
    truth = 1 + 2 * np.random.default_rng(0).normal(size=(1000, 100))
    right = Mixture(np.ones_like(truth), np.full_like(truth, 3.0), np.ones_like(truth))
    for level in (0.5, 0.8, 0.95):
        assert coverage(right, truth, level) == pytest.approx(level, abs=0.01)  # six deviations of the count
    assert miss(right, truth) < 1
    assert miss(right._replace(stochastic=right.stochastic * 9), truth) > 10
    assert nll(right, truth) == pytest.approx(-norm.logpdf(truth, 1, 2).mean())


def test_the_made_series_has_the_noise_that_is_said():
    series = known_noise()
    steps = np.arange(len(series.values))
    noise = (series.values - clean(steps)) / deviation(steps)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(np.abs(series.values - clean(steps)), deviation(steps))[0, 1] > 0.5
    assert (deviation(steps).min(), deviation(steps).max()) == pytest.approx((0.05, 0.35), abs=2e-3)


@pytest.mark.slow
def test_members_are_networks_of_their_own_with_their_own_gradients(ensemble, batch):
    means, variances = ensemble(batch[0])
    assert means.shape == variances.shape == (3, 5, 4)
    assert float(jnp.std(means, axis=0).min()) > 0
    alone = ensemble.first()
    mean, variance = alone(jnp.asarray(batch[0]))
    np.testing.assert_allclose(means[0], mean, rtol=1e-5, atol=1e-6)  # float32, another order of sums
    np.testing.assert_allclose(variances[0], variance, rtol=1e-5, atol=1e-6)

    def single(network):
        mean, variance = network(jnp.asarray(batch[0]))
        return uncertainty.gaussian_nll_loss(mean, jnp.asarray(batch[1]), variance)

    together = nnx.grad(likelihood)(ensemble, batch).members
    apart = nnx.grad(single)(alone)
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-6)  # as above, through 6 steps
        assert float(jnp.abs(theirs).max()) > 0


@pytest.mark.slow
def test_members_drop_different_features(batch):
    same = Ensemble(2, 64, 1, 4, members=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(same.members)
    params, other = nnx.split_state(state, nnx.Param, ...)
    params = jax.tree.map(lambda array: jnp.broadcast_to(array[:1], array.shape), params)
    same.members = nnx.merge(graph, params, other)
    same.train()
    means, _ = same(batch[0])
    assert float(jnp.abs(means[0] - means[1]).max()) > 1e-3
    same.eval()
    np.testing.assert_array_equal(*same(batch[0])[0])
