"""Captions start from an image: the mirror's numbers, bits and tokens, and images that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import models
from tests.jaxrnn.common import draw, fill

B, T, E, H, WORDS = 3, 4, 5, 6, 7
IMAGE = (3, 10, 14)
KINDS = {"plain": ("LSTM", None, 2), "attentive": ("GRU", "AdditiveAttention", 1)}
each_kind = pytest.mark.parametrize("kind", KINDS)


def build(home, kind, **more):
    layer, attention, layers = KINDS[kind]
    attention = attention and getattr(home, attention)
    more = {"features": (4, 8), "attention": attention} | more
    more |= {"rngs": nnx.Rngs(0)} if home is jaxrnn else {}
    return home.models.Captioner(getattr(home, layer), WORDS, E, H, layers, **more)


def twins(torch, kind):
    import torch_ref.models

    twin = build(torch_ref, kind)
    model = fill(build(jaxrnn, kind), jnp.float32)
    twin.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(model).items()})
    return model, twin


def images():
    return draw(1, B, *IMAGE).astype(np.float32)


@pytest.mark.torch
@each_kind
def test_logits_weights_and_tokens_are_those_of_the_mirror(torch, kind):
    from torch_ref import models as mirror

    model, twin = twins(torch, kind)
    target = np.random.default_rng(2).integers(WORDS, size=(B, T))
    given = (jnp.asarray(images()), jnp.asarray(target)), (torch.tensor(images()), torch.tensor(target))
    np.testing.assert_allclose(model(*given[0]), twin(*given[1]).detach(), rtol=1e-5, atol=1e-5)
    if kind == "attentive":
        weights = model.attention_weights(*given[0])
        assert weights.shape == (B, T, 3 * 4)  # 10 by 14, halved twice
        np.testing.assert_allclose(weights, twin.attention_weights(*given[1]).detach(), rtol=1e-4, atol=1e-6)
    options = {"bos": 1, "eos": 2, "max_length": 5, "width": 3}
    ours = models.beam_search(model, given[0][0], **options)
    theirs = mirror.beam_search(twin, given[1][0], **options)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4)


@pytest.mark.torch
@each_kind
def test_like_torch_gives_the_bits_that_the_mirror_draws(torch, kind):
    import torch_ref.models

    ours = jaxrnn.state_dict(jaxrnn.init.like_torch(build(jaxrnn, kind), 3))
    torch.manual_seed(3)
    theirs = build(torch_ref, kind).state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.numpy().tobytes(), name


@each_kind
def test_steps_give_what_all_at_once_gives(kind):
    model = fill(build(jaxrnn, kind), jnp.float32)
    target = jnp.asarray(np.random.default_rng(2).integers(WORDS, size=(B, T)))
    state, logits, advance = model.start(images()), [], jax.jit(model.step)
    for t in range(T):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {B}
        step, state = advance(target[:, t], state)
        logits.append(step)
    np.testing.assert_allclose(jnp.stack(logits, 1), model(images(), target), rtol=1e-4, atol=1e-5)


@each_kind
def test_every_part_of_an_image_has_a_say_and_rows_keep_apart(kind):
    model = fill(build(jaxrnn, kind), jnp.float32)
    target = jnp.ones((B, T), int)
    jacobian = jax.grad(lambda x: jnp.sum(model(x, target)[0] ** 2))(jnp.asarray(images()))
    assert np.mean(np.asarray(jacobian[0]) != 0) > 0.9
    assert not np.asarray(jacobian[1:]).any()


def test_an_image_that_does_not_fit_is_refused():
    model, target = build(jaxrnn, "plain"), jnp.ones((B, T), int)
    for wrong in (np.moveaxis(images(), 1, -1), images()[0], images()[:, :2]):
        with pytest.raises(
            ValueError, match=r"images should be \[B, 3, height, width\], channels first as in torch"
        ):
            model(wrong, target)


def test_embeddings_are_dropped_by_a_given_mask():
    model, target = fill(build(jaxrnn, "plain", dropout=0.5), jnp.float32), jnp.ones((B, T), int)
    nothing, everything = ({"decoder.dropout": kept((B, T, E), bool)} for kept in (jnp.zeros, jnp.ones))
    blind = model(images(), target, dropout_masks=nothing)
    np.testing.assert_array_equal(blind, model(images(), target + 1, dropout_masks=nothing))
    doubled = model(images(), target, dropout_masks=everything)
    model.decoder.embedding.embedding[...] *= 2
    model.eval()
    np.testing.assert_allclose(model(images(), target), doubled, rtol=1e-6)
