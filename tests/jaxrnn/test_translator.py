"""The translator is its mirror's equal, and step by step it says what it says at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.models import TransformerTranslator, sinusoidal_positions
from tests.jaxrnn.common import draw

B, S, T = 3, 5, 4
SOURCES, TARGETS = 7, 9
SIZES = {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 10}
LENGTHS = [S, 0, 3]
# float64: the same maths in another order, each operation off by 1.1e-16.
SAME = {"rtol": 1e-10, "atol": 1e-12}


def made(*tokens, dropout=0.0, max_length=T, dtype=jnp.float64, **options):
    options = SIZES | {"dropout": dropout, "max_length": max_length, "param_dtype": dtype} | options
    model = TransformerTranslator(*(tokens or (SOURCES, TARGETS)), **options, rngs=nnx.Rngs(0))
    values = jaxrnn.state_dict(model)
    filled = {name: draw(30 + n, *value.shape) * 0.5 for n, (name, value) in enumerate(values.items())}
    jaxrnn.load_state_dict(model, filled)
    return model


def tokens(rows=B, source=S, target=T):
    rng = np.random.default_rng(0)
    return rng.integers(0, SOURCES, (rows, source)), rng.integers(0, TARGETS, (rows, target))


def stepwise(model, source, target, lengths=None):
    """Return the logits [B, T, V] of a scan of steps."""

    def one(state, token):
        logits, state = model.step(token, state)
        return state, logits

    state = model.start(jnp.asarray(source), lengths)
    return jnp.swapaxes(jax.lax.scan(one, state, jnp.asarray(target).T)[1], 0, 1)


@pytest.mark.parametrize(("length", "features"), [(1, 8), (30, 7), (30, 1), (0, 4)])
def test_positions_are_sines_and_cosines_of_ever_longer_waves(length, features):
    found = np.asarray(sinusoidal_positions(length, features))
    assert found.shape == (length, features)
    for t in range(length):
        for f in range(features):
            wave = np.cos if f % 2 else np.sin
            assert (
                abs(found[t, f] - wave(t / 10000 ** (2 * (f // 2) / features))) < 1e-7
            )  # half a unit near 1


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
@pytest.mark.parametrize("norm_first", [False, True])
def test_logits_and_gradients_are_those_of_the_mirror(torch, norm_first):
    from torch_ref.models import TransformerTranslator as Mirror

    ours, (source, target) = made(norm_first=norm_first), tokens()
    theirs = Mirror(SOURCES, TARGETS, **SIZES, dropout=0.0, norm_first=norm_first).double()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(ours).items()})
    expected = theirs(torch.tensor(source), torch.tensor(target), torch.tensor(LENGTHS))
    (expected * torch.tensor(draw(90, *expected.shape))).sum().backward()

    def loss(model):
        logits = model(jnp.asarray(source), jnp.asarray(target), LENGTHS)
        return (logits * draw(90, *logits.shape)).sum(), logits

    gradients, logits = nnx.grad(loss, has_aux=True)(ours)
    np.testing.assert_allclose(logits, expected.detach().numpy(), **SAME)
    nnx.update(ours, gradients)  # to read them by torch's names
    found = jaxrnn.state_dict(ours)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), **SAME, err_msg=name)


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("norm_first", [False, True])
def test_steps_in_a_scan_say_what_the_whole_target_says(norm_first):
    model, (source, target) = made(norm_first=norm_first), tokens()
    for lengths in (None, LENGTHS):
        whole = model(jnp.asarray(source), jnp.asarray(target), lengths)
        np.testing.assert_allclose(stepwise(model, source, target, lengths), whole, **SAME)


@pytest.mark.usefixtures("x64")
@pytest.mark.torch
def test_steps_are_those_of_the_mirror_that_computes_all_anew(torch):
    from torch_ref.models import TransformerTranslator as Mirror

    model, (source, target) = made(), tokens()
    mirror = Mirror(SOURCES, TARGETS, **SIZES, dropout=0.0).double()
    mirror.load_state_dict({name: torch.tensor(value) for name, value in jaxrnn.state_dict(model).items()})
    state = mirror.start(torch.tensor(source), torch.tensor(LENGTHS))
    for t, logits in enumerate(np.swapaxes(stepwise(model, source, target, LENGTHS), 0, 1)):
        expected, state = mirror.step(torch.tensor(target[:, t]), state)
        np.testing.assert_allclose(logits, expected.detach().numpy(), **SAME)


@pytest.mark.usefixtures("x64")
def test_rows_of_the_state_can_be_gathered_between_steps():
    model, (source, target) = made(), tokens()
    state = model.start(jnp.asarray(source), LENGTHS)
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(state))
    _, state = model.step(jnp.asarray(target[:, 0]), state)
    rows = jnp.array([2, 2, 0, 1])
    gathered = jax.tree.map(lambda leaf: leaf[rows], state)
    logits, _ = model.step(jnp.asarray(target[rows, 1]), gathered)
    whole = model(jnp.asarray(source)[rows], jnp.asarray(target)[rows, :2], jnp.array(LENGTHS)[rows])
    np.testing.assert_allclose(logits, whole[:, 1], **SAME)


@pytest.mark.usefixtures("x64")
def test_what_is_behind_the_end_of_a_source_changes_nothing():
    model, (source, target) = made(), tokens()
    behind = np.arange(S) >= np.array(LENGTHS)[:, None]
    first, second = (
        model(jnp.asarray(np.where(behind, garbage, source)), jnp.asarray(target), LENGTHS)
        for garbage in (0, -100 * SOURCES)
    )
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()  # the empty source too
    short = model(jnp.asarray(source[2:, :3]), jnp.asarray(target[2:]))
    np.testing.assert_allclose(first[2:], short, **SAME)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rows", "source", "target"), [(1, S, T), (B, 1, T), (B, S, 1)])
def test_one_row_one_step_and_one_token_are_nothing_special(rows, source, target):
    model, (source, target) = made(1, 1), tokens(rows, source, target)
    source, target = 0 * source, 0 * target
    whole = model(jnp.asarray(source), jnp.asarray(target))
    assert whole.shape == (*target.shape, 1)
    np.testing.assert_allclose(stepwise(model, source, target), whole, **SAME)


def test_a_step_costs_what_the_positions_it_looks_at_cost():
    """Twice the room in the cache, twice the attention: no step computes the past again."""
    source, _ = tokens()
    flops = []
    for length in (64, 128, 192):
        model = made(max_length=length, dtype=jnp.float32)
        graph, parameters = nnx.split(model)
        state = model.start(jnp.asarray(source))

        def step(parameters, token, state, graph=graph):
            return nnx.merge(graph, parameters).step(token, state)

        compiled = jax.jit(step).lower(parameters, jnp.zeros(B, int), state).compile()
        flops.append(compiled.cost_analysis()["flops"])
    assert flops[1] - flops[0] == pytest.approx(flops[2] - flops[1], rel=0.01)


def test_beyond_its_longest_target_it_says_nothing():
    model, (source, target) = made(max_length=2, dtype=jnp.float32), tokens()
    logits = stepwise(model, source, target)
    assert np.isfinite(logits[:, :2]).all()
    assert np.isnan(logits[:, 2:]).all()
    assert np.isfinite(model(jnp.asarray(source), jnp.asarray(target))).all()


def test_dropout_is_for_training():
    model, (source, target) = made(dropout=0.5, dtype=jnp.float32), map(jnp.asarray, tokens())
    assert np.abs(model(source, target) - model(source, target)).max() > 0.1
    with pytest.raises(ValueError, match=r"Call eval\(\) first"):
        model.start(source)
    model.eval()
    state = model.start(source)
    np.testing.assert_array_equal(model(source, target), model(source, target))
    model.train()
    with pytest.raises(ValueError, match=r"Call eval\(\) first"):
        model.step(target[:, 0], state)
    with pytest.raises(ValueError, match='missing are "source_dropout", "target_dropout"'):
        model(source, target, dropout_masks={})


def test_it_computes_in_the_dtype_that_its_weights_are_cast_to():
    """Flax's Embed goes on in the dtype that it was built with."""
    model, (source, target) = made(dtype=jnp.float32), map(jnp.asarray, tokens())
    nnx.update(model, jax.tree.map(lambda a: a.astype(jnp.bfloat16), nnx.state(model, nnx.Param)))
    assert model(source, target).dtype == stepwise(model, source, target).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m, s, t: m(s + SOURCES, t),
            IndexError,
            "index out of range in self: source has numbers from 7",
        ),
        (lambda m, s, t: m(s, t - 1), IndexError, "target has numbers from -1 to"),
        (lambda m, s, t: m.step(t[:, 0] + TARGETS, m.start(s)), IndexError, "tokens has numbers from"),
        (lambda m, s, t: m(s.astype(jnp.float32), t), TypeError, "source must be integers"),
        (lambda m, s, t: m(s.tolist(), t), TypeError, "source should be a JAX or NumPy array"),
        (lambda m, s, t: m(s[0], t), ValueError, r"source should be of shape \[B, S\], got \(5,\)"),
        (lambda m, s, t: m.step(t, m.start(s)), ValueError, r"tokens should be of shape \[B\], got"),
        (lambda m, s, t: m(s, t[:2]), ValueError, "one batch size"),
        (lambda m, s, t: m(s, t, [1, 2]), RuntimeError, "equal to batch_size"),
        (lambda m, s, t: m(s, t, [1, 2, S + 1]), ValueError, r"lengths\[2\] is 6"),
        (lambda m, s, t: made(max_length=0), ValueError, "max_length must be greater than zero"),
    ],
)
def test_what_means_nothing_is_refused(call, error, message):
    model, (source, target) = made(dtype=jnp.float32), map(jnp.asarray, tokens())
    with pytest.raises(error, match=message):
        call(model, source, target)


@pytest.mark.slow
def test_it_learns_to_turn_words_round():
    """In evaluation, by steps, on words that training did not draw: the whole chain works, not each part alone."""
    letters, steps, end = 8, 6, 8  # the target starts with the end mark
    model = TransformerTranslator(
        letters, letters + 1, d_model=32, nhead=4, num_encoder_layers=1, num_decoder_layers=1,
        dim_feedforward=64, dropout=0.0, max_length=steps, rngs=nnx.Rngs(0),
    )  # fmt: skip
    optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer, words):
        def loss(model):
            shifted = jnp.pad(words[:, ::-1], ((0, 0), (1, 0)), constant_values=end)[:, :-1]
            logits = model(words, shifted)
            return optax.softmax_cross_entropy_with_integer_labels(logits, words[:, ::-1]).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    rng = np.random.default_rng(0)
    for _ in range(400):
        train(model, optimizer, jnp.asarray(rng.integers(0, letters, (64, steps))))
    model.eval()
    words = jnp.asarray(rng.integers(0, letters, (200, steps)))

    def one(carry, _):
        token, state = carry
        logits, state = model.step(token, state)
        token = logits.argmax(-1)
        return (token, state), token

    start = (jnp.full(200, end), model.start(words))
    spoken = jax.jit(lambda carry: jax.lax.scan(one, carry, length=steps)[1])(start).T
    assert np.mean(spoken == words[:, ::-1]) > 0.95
