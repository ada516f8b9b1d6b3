"""Classifiers, taggers and language models: what they read, what they leave out, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.models import Classifier, GaussianForecaster, LanguageModel, Tagger, TextClassifier
from tests.jaxrnn.common import draw, fill

pytestmark = pytest.mark.usefixtures("x64")
B, T, I, H, V, E, C = 3, 5, 4, 6, 7, 3, 2
LENGTHS = np.array([5, 2, 3])
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
# Sums of a few dozen float64 numbers, in another order.
SAME = {"rtol": 1e-12, "atol": 1e-13}


def made(model, *sizes, layer=jaxrnn.LSTM, **options):
    return fill(model(layer, *sizes, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options))


@pytest.mark.parametrize("model", [Classifier, Tagger])
def test_padding_changes_nothing_in_a_label(model):
    network = made(model, I, H, C, bidirectional=True)
    x = draw(1, B, T, I)
    padded = np.where(np.arange(T)[:, None] < LENGTHS[:, None, None], x, np.nan)
    found = network(padded, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = network(x[row : row + 1, :length])[0]
        np.testing.assert_allclose(found[row] if alone.ndim == 1 else found[row, :length], alone, **SAME)


def test_a_classifier_of_two_directions_has_read_the_whole_sequence_with_both():
    network = made(Classifier, I, H, C, bidirectional=True)
    x = jnp.asarray(draw(1, B, T, I))
    _, (h, _) = network.rnn(x)
    np.testing.assert_array_equal(network(x), network.fc(jnp.concatenate([h[0], h[1]], -1)))
    only_reverse = jnp.zeros_like(network.fc.kernel.get_value()).at[H:].set(1.0)
    network.fc.kernel.set_value(only_reverse)
    reached = jax.grad(lambda x: network(x).sum())(x)
    assert (np.abs(reached).max(axis=(0, 2)) > 0).all()  # at the last step, the reverse output has read one


def test_a_tagger_of_one_direction_looks_at_no_step_to_come():
    for bidirectional in (False, True):
        network = made(Tagger, I, H, C, bidirectional=bidirectional)
        reached = jax.grad(lambda x: network(x)[:, 1].sum())(jnp.asarray(draw(1, B, T, I)))  # noqa: B023
        assert (np.abs(reached[:, 2:]).max() > 0) == bidirectional


@pytest.mark.parametrize(
    "layer", [jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM, jaxrnn.MinGRU, jaxrnn.MinLSTM]
)
def test_a_language_model_says_the_same_token_by_token(layer):
    network = made(LanguageModel, V, E, H, 2, layer=layer)
    whole, end = network(TOKENS)
    state, steps = network.start(B), []
    assert all(leaf.shape == (B, 2, H) for leaf in jax.tree.leaves(state))
    for column in TOKENS.T:
        logits, state = network.step(column, state)
        steps.append(logits)
    np.testing.assert_allclose(np.stack(steps, 1), whole, **SAME)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(np.swapaxes(ours, 0, 1), theirs, **SAME)


def test_a_text_may_be_read_in_pieces():
    network = made(LanguageModel, V, E, H)
    first, state = network(TOKENS[:, :2])
    second, _ = network(TOKENS[:, 2:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), network(TOKENS)[0], **SAME)


@pytest.mark.parametrize("token", [-1, V])
def test_a_token_that_is_no_word_is_refused_and_in_compiled_code_nan(token):
    network = made(LanguageModel, V, E, H)
    wrong = np.where(np.arange(T) == 2, token, TOKENS)
    with pytest.raises(IndexError, match=f"{token}.*, but the vocabulary has {V} tokens"):
        network(wrong)
    logits = np.asarray(nnx.jit(lambda m, t: m(t)[0])(network, wrong))
    assert np.isnan(logits[:, 2:]).all()
    assert not np.isnan(logits[:, :2]).any()


def test_tokens_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match=r"tokens must be integers.*float64"):
        made(TextClassifier, V, E, H, C)(draw(0, B, T))


MASKS = {"embedding_dropout": draw(2, B, T, E) > 0, "state_dropout": draw(3, B, H) > 0}


def test_masks_stand_in_for_what_dropout_draws():
    network = made(TextClassifier, V, E, H, C, dropout=0.25)
    network.train()
    kept = nnx.clone(network)
    kept.embedding.embedding.set_value(network.embedding.embedding.get_value() / 0.75)
    kept.fc.kernel.set_value(network.fc.kernel.get_value() / 0.75)
    kept.eval()
    everything = {name: np.ones_like(mask) for name, mask in MASKS.items()}
    np.testing.assert_allclose(network(TOKENS, dropout_masks=everything), kept(TOKENS), **SAME)
    nothing = {
        "embedding_dropout": MASKS["embedding_dropout"],
        "state_dropout": np.zeros_like(MASKS["state_dropout"]),
    }
    bias = np.broadcast_to(network.fc.bias.get_value(), (B, C))
    np.testing.assert_array_equal(network(TOKENS, dropout_masks=nothing), bias)
    assert not np.allclose(network(TOKENS), network(TOKENS))  # drawn anew at each call


@pytest.mark.parametrize(
    "masks", [{}, {"state_dropout": MASKS["state_dropout"]}, MASKS | {"output": MASKS["state_dropout"]}]
)
def test_masks_are_for_all_places_or_none(masks):
    network = made(TextClassifier, V, E, H, C, dropout=0.25)
    with pytest.raises(ValueError, match='Give a mask for each of "embedding_dropout", "state_dropout"'):
        network(TOKENS, dropout_masks=masks)


def test_masks_are_refused_where_nothing_is_dropped():
    network = made(TextClassifier, V, E, H, C, dropout=0.25)
    network.eval()
    with pytest.raises(ValueError, match=r"nothing is dropped.*training mode"):
        network(TOKENS, dropout_masks=MASKS)


def test_a_variance_is_never_below_its_minimum_and_learns():
    network = made(GaussianForecaster, I, H, 1, 2, minimum_variance=0.5)
    x = draw(1, B, T, I)
    bias = network.spread.bias
    bias.set_value(jnp.full(2, -800.0))
    np.testing.assert_array_equal(network(x).variance, 0.5)
    bias.set_value(jnp.zeros(2))
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    slopes = jax.grad(lambda params: nnx.merge(graph, params, rest)(x).variance.sum())(params)
    assert np.abs(slopes["rnn"]["weight_hh_l0"].get_value()).max() > 0
    assert np.abs(slopes["mean"]["kernel"].get_value()).max() == 0
