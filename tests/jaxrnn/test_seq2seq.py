"""Encoder and decoder: steps, padding, empty sources, attention weights, dropout, and the mirror's very tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import models
from tests.jaxrnn.common import draw, fill, mostly_slow

B, S, T, E, H, SOURCE, TARGET = 3, 5, 4, 2, 6, 7, 8
LENGTHS = np.array([5, 0, 3])
KINDS = {
    "plain": ("GRU", {"num_layers": 2}),
    "plain bidirectional": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "additive": ("LSTM", {"attention": "AdditiveAttention", "bidirectional": True}),
    "bilinear": ("GRU", {"attention": "BilinearAttention", "num_layers": 2, "bidirectional": True}),
    "dot": ("RNN", {"attention": "DotAttention"}),
    "minimal": ("MinGRU", {"attention": "AdditiveAttention"}),
}
ATTENTIVE = [kind for kind, (_, options) in KINDS.items() if "attention" in options]


def tokens(seed, vocabulary, *shape):
    return np.random.default_rng(seed).integers(vocabulary, size=shape)


def build(home, kind, source=SOURCE, target=TARGET, **more):
    layer, options = KINDS[kind]
    options = options | ({"attention": getattr(home, options["attention"])} if "attention" in options else {})
    sizes = (source, target, E, H)
    if home is jaxrnn:
        more = {"rngs": nnx.Rngs(0)} | more
    return home.models.Seq2Seq(getattr(home, layer), *sizes, **options, **more)


def model_of(kind, dtype=jnp.float64, **more):
    return fill(build(jaxrnn, kind, param_dtype=dtype, **more), dtype)


def batch():
    return jnp.asarray(tokens(1, SOURCE, B, S)), jnp.asarray(tokens(2, TARGET, B, T))


def numbers(model, *arguments):
    """Logits, and the gradients of the parameters by torch's names."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def run(params, arguments):
        logits = nnx.merge(graph, params, rest)(*arguments)
        return (logits * draw(9, *logits.shape)).sum(), logits

    found, logits = jax.jit(jax.grad(run, has_aux=True))(params, arguments)
    return logits, jaxrnn.state_dict(nnx.merge(graph, found, rest))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", mostly_slow(list(KINDS), fast=("additive",)))
def test_steps_give_what_all_at_once_gives(kind):
    model, (source, target) = model_of(kind), batch()
    state, logits, advance = model.start(source, LENGTHS), [], jax.jit(model.step)
    for t in range(T):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {B}  # so that rows can be chosen
        step, state = advance(target[:, t], state)
        logits.append(step)
    np.testing.assert_allclose(jnp.stack(logits, 1), model(source, target, LENGTHS), rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", mostly_slow(list(KINDS), fast=("additive",)))
def test_rows_of_a_state_can_be_chosen(kind):
    model, (source, target) = model_of(kind), batch()
    order = jnp.asarray([2, 0, 0, 1])
    state = jax.tree.map(lambda leaf: leaf[order], model.start(source, LENGTHS))
    chosen, _ = model.step(target[order, 0], state)
    straight, _ = model.step(target[:, 0], model.start(source, LENGTHS))
    np.testing.assert_allclose(chosen, straight[order], rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", mostly_slow(list(KINDS), fast=("additive",)))
def test_padding_changes_neither_a_result_nor_a_gradient(kind):
    model, (source, target) = model_of(kind), batch()
    changed = jnp.where(np.arange(S) < LENGTHS[:, None], source, (source + 1) % SOURCE)
    (first, d_first), (second, d_second) = (numbers(model, x, target, LENGTHS) for x in (source, changed))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first[2:], model(source[2:, :3], target[2:]), rtol=1e-10, atol=1e-13)
    for name, gradient in d_first.items():
        np.testing.assert_array_equal(gradient, d_second[name], err_msg=name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", mostly_slow(ATTENTIVE, fast=("additive",)))
def test_weights_of_attention_sum_to_one_or_where_nothing_can_be_seen_to_nothing(kind):
    model, (source, target) = model_of(kind), batch()
    weights = model.attention_weights(source, target, LENGTHS)
    assert weights.shape == (B, T, S)
    np.testing.assert_allclose(weights.sum(-1), np.where(LENGTHS > 0, 1, 0)[:, None].repeat(T, 1), rtol=1e-12)
    beyond = np.arange(S) >= LENGTHS[:, None]
    assert not np.asarray(weights)[np.broadcast_to(beyond[:, None], weights.shape)].any()
    assert all(np.isfinite(g).all() for g in numbers(model, source, target, LENGTHS)[1].values())


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize(
    ("rows", "source_steps", "target_steps", "vocabulary"), [(1, S, T, 8), (B, 1, 1, 8), (2, S, T, 1)]
)
@pytest.mark.parametrize("kind", ["plain", "additive"])
def test_one_row_one_step_and_one_word_are_nothing_special(
    torch, kind, rows, source_steps, target_steps, vocabulary
):
    import torch_ref.models

    model = model_of(kind, source=vocabulary, target=vocabulary)
    twin = build(torch_ref, kind, source=vocabulary, target=vocabulary).double()
    twin.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(model).items()})
    source, target = tokens(1, vocabulary, rows, source_steps), tokens(2, vocabulary, rows, target_steps)
    ours, gradients = numbers(model, jnp.asarray(source), jnp.asarray(target))
    theirs = twin(torch.tensor(source), torch.tensor(target))
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-11, atol=1e-13)
    (theirs * torch.tensor(draw(9, *ours.shape))).sum().backward()
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("scale", [0.5, 3.0], ids=["undecided", "certain"])
@pytest.mark.parametrize("kind", ["plain bidirectional", "additive"])
def test_decoded_tokens_are_those_of_the_mirror_one_by_one(torch, kind, scale):
    import torch_ref.models

    model, twin = model_of(kind, jnp.float32), build(torch_ref, kind)
    weights = {name: value * 2 * scale for name, value in jaxrnn.state_dict(model).items()}
    jaxrnn.load_state_dict(model, weights)
    twin.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    source, options = tokens(1, SOURCE, B, S), {"bos": 1, "eos": 2, "max_length": 6}
    given = (model, jnp.asarray(source), LENGTHS), (twin, torch.tensor(source), torch.tensor(LENGTHS))
    for search, more in (("greedy", {}), ("beam_search", {"width": 4, "length_penalty": 0.6})):
        ours = getattr(models, search)(*given[0], **options, **more)
        theirs = getattr(torch_ref.models, search)(*given[1], **options, **more)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_array_equal(ours.lengths, theirs.lengths)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4)  # float32, logits up to 30


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["plain", "additive"])
def test_embeddings_are_dropped_by_given_masks_or_by_draws(kind):
    model, (source, target) = model_of(kind, dropout=0.5), batch()
    masks = {"encoder.dropout": draw(1, B, S, E) > 0, "decoder.dropout": draw(2, B, T, E) > 0}
    found = model(source, target, dropout_masks=masks)
    np.testing.assert_array_equal(found, model(source, target, dropout_masks=masks))
    assert np.abs(model(source, target) - model(source, target)).max() > 0.01
    every = model(source, target, dropout_masks={name: np.ones_like(mask) for name, mask in masks.items()})
    for embedding in (model.encoder.embedding, model.decoder.embedding):
        embedding.embedding[...] *= 2
    model.eval()
    np.testing.assert_allclose(model(source, target), every, rtol=1e-12)
    with pytest.raises(ValueError, match="nothing is dropped"):
        model(source, target, dropout_masks=masks)
    model.train()
    with pytest.raises(ValueError, match=r'missing are "decoder.dropout", unknown are none'):
        model(source, target, dropout_masks={"encoder.dropout": masks["encoder.dropout"]})


def test_targets_are_shifted_by_the_token_that_begins():
    shifted = models.shift_right(jnp.asarray([[3, 4, 2], [5, 2, 2]]), 1)
    np.testing.assert_array_equal(shifted, [[1, 3, 4], [1, 5, 2]])


def test_a_decoder_alone_is_a_language_model():
    decoder = fill(models.Decoder(jaxrnn.GRU, TARGET, E, H, rngs=nnx.Rngs(0)), jnp.float32)
    state = decoder.begin(jnp.zeros((B, 1, H)))
    logits, after = decoder(batch()[1], state)
    half, between = decoder(batch()[1][:, :2], state)
    rest, end = decoder(batch()[1][:, 2:], between)
    np.testing.assert_allclose(jnp.concatenate([half, rest], 1), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(end.hx, after.hx, rtol=1e-5, atol=1e-6)
    found = models.greedy_from(decoder.step, after, bos=1, eos=None, max_length=3)
    assert found.tokens.shape == (B, 3)


def test_what_does_not_fit_is_refused():
    plain, additive = (model_of(kind, jnp.float32) for kind in ("plain", "additive"))
    source, target = batch()
    for call, error, message in [
        (
            lambda: plain(source, target, [S + 1, 1, 1]),
            ValueError,
            r"lengths\[0\] is 6, but must be from 0 to 5",
        ),
        (
            lambda: models.greedy(plain, source, [S + 1, 1, 1], bos=1, eos=2, max_length=2),
            ValueError,
            r"lengths\[0\] is 6, but must be from 0 to 5",
        ),
        (lambda: plain(source, target, [1, 1]), RuntimeError, "equal to batch_size"),
        (lambda: plain(source, target[:2]), RuntimeError, "Expected hidden size"),
        (
            lambda: plain.attention_weights(source, target),
            ValueError,
            "a decoder without attention has no weights",
        ),
        (
            lambda: plain.decoder.begin(jnp.zeros((B, 2, H)), jnp.zeros((B, S, H))),
            ValueError,
            "no use for a memory",
        ),
        (
            lambda: additive.decoder.begin(jnp.zeros((B, 1, H))),
            ValueError,
            "AdditiveAttention needs a memory",
        ),
        (
            lambda: models.Decoder(jaxrnn.GRU, 3, E, H, attention=jaxrnn.DotAttention, rngs=nnx.Rngs(0)),
            ValueError,
            "give both or neither",
        ),
        (lambda: build(jaxrnn, "dot", bidirectional=True), ValueError, "got 6 of a query and 12 of a key"),
    ]:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.slow
def test_it_learns_to_reverse_and_a_beam_writes_what_was_learnt():
    bos, eos, digits = 0, 1, 6
    model = models.Seq2Seq(
        jaxrnn.GRU,
        digits,
        digits,
        16,
        32,
        attention=jaxrnn.AdditiveAttention,
        bidirectional=True,
        rngs=nnx.Rngs(0),
    )
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    def drawn(seed, rows):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 6, rows)
        source, target = rng.integers(2, digits, (rows, 5)), np.full((rows, 6), eos)
        for row, length in enumerate(lengths):
            target[row, :length] = source[row, :length][::-1]
        return jnp.asarray(source), jnp.asarray(target), jnp.asarray(lengths)

    @nnx.jit
    def train(model, optimizer, source, target, lengths):
        def loss(model):
            logits = model(source, models.shift_right(target, bos), lengths)
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for step in range(300):
        train(model, optimizer, *drawn(step, 64))
    source, target, lengths = drawn(1000, 50)
    found = models.beam_search(model, source, lengths, bos=bos, eos=eos, max_length=6, width=3)
    assert np.mean((found.tokens[:, 0] == target).all(-1)) > 0.95


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_like_torch_gives_the_bits_that_the_mirror_draws(torch, kind):
    import torch_ref.models

    model = jaxrnn.init.like_torch(build(jaxrnn, kind, source=30), 5)
    torch.manual_seed(5)
    theirs = build(torch_ref, kind, source=30).state_dict()
    ours = jaxrnn.state_dict(model)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.numpy().tobytes(), name
