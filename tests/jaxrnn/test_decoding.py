"""Decoding finds what an exhaustive search finds, and what the plain loops of the mirror find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrnn import models
from jaxrnn.models import decoding
from tests.jaxrnn.common import draw

BOS, EOS = 1, 2


class Walk(nnx.Module):
    """A small recurrent model: ``h' = tanh(U h + E[token])``, ``logits = R h'``; `start` takes h."""

    traced = 0

    def __init__(self, vocabulary, features=4, seed=0, scale=1.0):
        shapes = {"u": (features, features), "e": (vocabulary, features), "r": (features, vocabulary)}
        for number, (name, shape) in enumerate(shapes.items()):
            setattr(self, name, nnx.Param(jnp.asarray(scale * draw(10 * seed + number, *shape))))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def start(self, h):
        return {"h": h}

    def step(self, tokens, state):
        type(self).traced += 1
        h = self.dropout(jnp.tanh(state["h"] @ self.u[...] + self.e[...][tokens]))
        return h @ self.r[...], {"h": h}


def torch_walk(torch, walk):
    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = [torch.tensor(np.asarray(getattr(walk, name)[...])) for name in "uer"]
            self.dropout = torch.nn.Dropout(0.5)

        def start(self, h):
            return h

        def step(self, tokens, h):
            u, e, r = self.weights
            h = self.dropout(torch.tanh(h @ u + e[tokens]))
            return h @ r, h

    return Twin()


def constantly(logits):
    """A step that always predicts the same, whatever it is given."""
    return lambda tokens, state: (jnp.broadcast_to(jnp.asarray(logits), (len(tokens), len(logits))), state)


def rows(count):
    return jnp.zeros((count, 1))


def log_probability(walk, h, sequence):
    """The sum of the log-probabilities of a sequence, in NumPy."""
    u, e, r = (np.asarray(getattr(walk, name)[...], np.float64) for name in "uer")
    total, before = 0.0, BOS
    for token in sequence:
        h = np.tanh(h @ u + e[before])
        logits = h @ r
        total += logits[token] - np.log(np.sum(np.exp(logits)))
        before = token
    return total


def every_sequence(vocabulary, length):
    """All that end with EOS within `length` tokens, and all of that length that do not end."""
    for size in range(1, length + 1):
        for found in itertools.product(range(vocabulary), repeat=size):
            if EOS not in found[:-1] and (found[-1] == EOS or size == length):
                yield found


def as_lists(decoded):
    """The tokens that were chosen, without what fills up."""
    pairs = zip(
        decoded.tokens.reshape(-1, decoded.tokens.shape[-1]), decoded.lengths.reshape(-1), strict=True
    )
    return [tuple(np.asarray(tokens[: int(length)]).tolist()) for tokens, length in pairs]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
def test_a_beam_that_holds_everything_finds_what_an_exhaustive_search_finds(length_penalty):
    walk, h = Walk(3), jnp.asarray(draw(5, 2, 4))
    sequences = list(every_sequence(3, 4))
    found = models.beam_search(
        walk, h, bos=BOS, eos=EOS, max_length=4, width=len(sequences) + 3, length_penalty=length_penalty
    )
    for row in range(2):
        known = {s: log_probability(walk, np.asarray(h[row]), s) for s in sequences}
        best = sorted(sequences, key=lambda s: -known[s] / ((5 + len(s)) / 6) ** length_penalty)
        of_row = models.Decoded(*(each[row] for each in found))
        assert as_lists(of_row) == [*best, (), (), ()]
        np.testing.assert_allclose(of_row.log_probs[:-3], [known[s] for s in best], rtol=1e-12)
        assert np.isneginf(of_row.log_probs[-3:]).all()


@pytest.mark.parametrize("eos", [EOS, None])
def test_a_beam_of_one_is_greedy(eos):
    walk, h = Walk(5, seed=1), jnp.asarray(draw(5, 6, 4), jnp.float32)
    options = {"bos": BOS, "eos": eos, "max_length": 7}
    one = models.greedy(walk, h, **options)
    for length_penalty in (0.0, 1.0):
        beam = models.beam_search(walk, h, **options, width=1, length_penalty=length_penalty)
        for a, b in zip(one, beam, strict=True):
            np.testing.assert_array_equal(a, b[:, 0])
    assert len(set(as_lists(one))) > 1


@pytest.mark.torch
@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
@pytest.mark.parametrize("scale", [0.5, 3.0], ids=["undecided", "certain"])
@pytest.mark.parametrize("width", [1, 3, 11])
def test_tokens_are_those_of_the_mirror_one_by_one(torch, width, scale, length_penalty):
    from torch_ref import models as mirror

    lengths = set()
    for seed in range(4):
        walk, h = Walk(6, seed=seed, scale=scale), draw(50 + seed, 4, 4)
        twin, options = torch_walk(torch, walk), {"bos": BOS, "eos": EOS, "max_length": 6}
        walk.r.set_value(walk.r[...].astype(jnp.float32))
        twin.weights = [weight.float() for weight in twin.weights]
        options |= {"width": width, "length_penalty": length_penalty}
        ours = models.beam_search(walk, jnp.asarray(h, jnp.float32), **options)
        theirs = mirror.beam_search(twin, torch.tensor(h, dtype=torch.float32), **options)
        assert as_lists(ours) == as_lists(theirs)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        # Sums over 6 steps of differences of logits up to 21, made of tanh that XLA rounds by up to 3e-7.
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-5, atol=5e-5)
        lengths |= set(np.unique(ours.lengths))
    assert len(lengths) > 1  # some end early


@pytest.mark.torch
def test_equal_probabilities_go_to_the_lower_token_in_both_frameworks(torch):
    from torch_ref import models as mirror

    walk, options = Walk(4, scale=0.0), {"bos": BOS, "eos": EOS, "max_length": 3}
    found = models.beam_search(walk, jnp.zeros((1, 4)), **options, width=6)
    twin = torch_walk(torch, walk)
    theirs = mirror.beam_search(twin, torch.zeros(1, 4, dtype=twin.weights[0].dtype), **options, width=6)
    assert as_lists(found) == as_lists(theirs)
    assert as_lists(found) == [(2,), (0, 2), (0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)]
    assert as_lists(models.greedy(walk, jnp.zeros((1, 4)), **options)) == [(0, 0, 0)]


def test_a_row_that_ends_at_once_has_one_token_and_is_filled_with_eos():
    options = {"bos": BOS, "eos": EOS, "max_length": 4}
    for found in (
        models.greedy_from(constantly([0.0, 1.0, 50.0]), rows(2), **options),
        models.sample_from(constantly([0.0, 1.0, 50.0]), rows(2), key=jax.random.key(0), **options),
    ):
        assert as_lists(found) == [(EOS,), (EOS,)]
        np.testing.assert_array_equal(found.tokens, np.full((2, 4), EOS))
        np.testing.assert_allclose(found.log_probs, 0.0, atol=1e-20)
    beams = models.beam_search_from(constantly([0.0, 1.0, 50.0]), rows(1), **options, width=3)
    assert as_lists(beams) == [(EOS,), (1, EOS), (0, EOS)]
    np.testing.assert_allclose(beams.log_probs, [[0, -49, -50]], rtol=1e-5)


@pytest.mark.parametrize("eos", [EOS, None])
def test_what_never_ends_stops_at_the_greatest_length(eos):
    step = constantly([1.0, 2.0, 3.0] if eos is None else [1.0, 2.0, -np.inf])
    options = {"bos": BOS, "eos": eos, "max_length": 3}
    best = (EOS,) * 3 if eos is None else (1, 1, 1)
    assert as_lists(models.greedy_from(step, rows(1), **options)) == [best]
    beams = models.beam_search_from(step, rows(1), **options, width=9)
    assert as_lists(beams)[0] == best
    exist = 9 if eos is None else 8  # of two tokens, three times
    np.testing.assert_array_equal(beams.lengths[0], [3] * exist + [0] * (9 - exist))


def test_a_vocabulary_of_one_has_one_sequence():
    step = constantly([7.0])
    for eos, expected in ((0, (0,)), (None, (0, 0))):
        options = {"bos": 0, "eos": eos, "max_length": 2}
        assert as_lists(models.greedy_from(step, rows(1), **options)) == [expected]
        beams = models.beam_search_from(step, rows(1), **options, width=3)
        assert as_lists(beams) == [expected, (), ()]
        np.testing.assert_array_equal(beams.log_probs, [[0, -np.inf, -np.inf]])


def test_rows_do_not_know_of_each_other():
    walk, h = Walk(5, seed=3), jnp.asarray(draw(5, 3, 4), jnp.float32)
    options = {"bos": BOS, "eos": EOS, "max_length": 5, "width": 4, "length_penalty": 0.6}
    together = models.beam_search(walk, h, **options)
    for row in range(3):
        alone = models.beam_search(walk, h[row : row + 1], **options)
        assert as_lists(alone) == as_lists(models.Decoded(*(each[row] for each in together)))
    single = models.beam_search(walk, h, **options | {"max_length": 1})
    assert single.tokens.shape == (3, 4, 1)
    assert (np.diff(single.log_probs) < 0).all()


@pytest.mark.usefixtures("x64")
def test_the_log_probability_and_its_gradient_are_those_of_teacher_forcing():
    walk, h = Walk(4, seed=2), jnp.asarray(draw(5, 3, 4))
    walk.eval()
    graph, params, rest = nnx.split(walk, nnx.Param, ...)
    options = {"bos": BOS, "eos": EOS, "max_length": 5}
    found = models.beam_search(walk, h, **options, width=2)

    def searched(params):
        step = nnx.merge(graph, params, rest).step
        return models.beam_search_from(step, {"h": h}, **options, width=2).log_probs.sum()

    def forced(params):
        model, total = nnx.merge(graph, params, rest), 0.0
        for beam in range(2):
            state, before = {"h": h}, jnp.full(3, BOS)
            for t in range(5):
                logits, state = model.step(before, state)
                before = found.tokens[:, beam, t]
                gained = jnp.take_along_axis(jax.nn.log_softmax(logits), before[:, None], 1)[:, 0]
                total += jnp.sum(jnp.where(t < found.lengths[:, beam], gained, 0.0))
        return total

    (a, d_a), (b, d_b) = (jax.value_and_grad(function)(params) for function in (searched, forced))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), d_a, d_b)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_samples_follow_the_probabilities_at_their_temperature(temperature):
    logits, count = np.array([0.0, 1.0, -1.0, 0.5]), 20_000
    options = {"bos": BOS, "eos": None, "max_length": 2, "temperature": temperature}
    found = models.sample_from(constantly(logits), rows(count), key=jax.random.key(1), **options)
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    for t in range(2):
        share = np.bincount(found.tokens[:, t], minlength=4) / count
        assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / count)).all()  # one in a million goes that far
    assert 0.2 < np.mean(np.asarray(found.tokens[:, 0] == found.tokens[:, 1])) < 0.8
    log_p = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(found.log_probs, log_p[np.asarray(found.tokens)].sum(1), rtol=1e-5)


def test_a_sample_follows_from_its_key():
    walk, h = Walk(5), jnp.asarray(draw(5, 6, 4), jnp.float32)
    options = {"bos": BOS, "eos": EOS, "max_length": 6}
    first, again, other = (models.sample(walk, jax.random.key(k), h, **options) for k in (0, 0, 1))
    assert as_lists(first) == as_lists(again) != as_lists(other)
    assert len({*as_lists(first)}) > 1


@pytest.mark.torch
def test_the_mirror_samples_the_same_distribution(torch):
    from torch_ref import models as mirror

    walk = Walk(3)
    twin = torch_walk(torch, walk)
    h = np.repeat(draw(5, 1, 4), 300, 0)
    options = {"bos": BOS, "eos": EOS, "max_length": 2, "temperature": 1.5}
    ours = models.sample(walk, jax.random.key(0), jnp.asarray(h, jnp.float32), **options)
    generator = torch.Generator().manual_seed(0)
    theirs = mirror.sample(twin, generator, torch.tensor(h, dtype=twin.weights[0].dtype), **options)
    for sequence in set(as_lists(ours)) | set(as_lists(theirs)):
        shares = [as_lists(found).count(sequence) / 300 for found in (ours, theirs)]
        assert abs(shares[0] - shares[1]) < 5 * np.sqrt(2 * 0.25 / 300)  # of two shares, at their widest


def test_a_second_call_traces_nothing_whatever_the_weights():
    class Counted(Walk):
        traced = 0

    options = {"bos": BOS, "eos": EOS, "max_length": 3}
    h = jnp.asarray(draw(5, 2, 4), jnp.float32)
    calls = [
        lambda model, h: models.greedy(model, h, **options),
        lambda model, h: models.beam_search(model, h, **options, width=2, length_penalty=float(h[0, 0])),
        lambda model, h: models.sample(
            model, jax.random.key(int(h[0, 0])), h, **options, temperature=float(1 + abs(h[0, 0]))
        ),
    ]
    for call in calls:
        call(Counted(4), h)
        before = Counted.traced
        call(Counted(4, seed=1), 2 * h)
        assert Counted.traced == before > 0


def test_nothing_is_dropped_and_the_model_keeps_its_mode():
    walk, h = Walk(5), jnp.asarray(draw(5, 6, 4), jnp.float32)
    options = {"bos": BOS, "eos": EOS, "max_length": 5}
    dropping = models.greedy(walk, h, **options)
    assert not walk.dropout.deterministic
    walk.eval()
    np.testing.assert_array_equal(dropping.tokens, models.greedy(walk, h, **options).tokens)


def test_a_search_may_be_a_part_of_a_program_of_ones_own():
    walk, h = Walk(5), jnp.asarray(draw(5, 2, 4), jnp.float32)
    walk.eval()
    options = {"bos": BOS, "eos": EOS, "max_length": 5, "width": 3}

    @jax.jit
    def second_best(h, length_penalty):
        found = models.beam_search_from(walk.step, {"h": h}, **options, length_penalty=length_penalty)
        return found.tokens[:, 1]

    expected = models.beam_search(walk, h, **options, length_penalty=0.6).tokens[:, 1]
    np.testing.assert_array_equal(second_best(h, 0.6), expected)


def test_half_precision_is_summed_in_float32():
    step = constantly(jnp.asarray([1.0, 2.0, 0.0], jnp.bfloat16))
    found = models.greedy_from(step, rows(1), bos=BOS, eos=EOS, max_length=50)
    assert found.log_probs.dtype == jnp.float32
    np.testing.assert_allclose(found.log_probs, 50 * (2 - np.log(np.exp([1, 2, 0]).sum())), rtol=1e-6)


WRONG = [
    ({"width": 0}, {}, "width=0: a beam search follows at least one"),
    ({"max_length": 0}, {}, "max_length=0: a sequence has at least one token"),
    ({"eos": 3}, {}, "eos=3 is no token of a vocabulary of 3: 0 to 2"),
    ({"bos": -1}, {}, "bos=-1 is no token"),
    ({}, {}, "Every leaf of a state needs the batch as its first axis"),
    ({}, {"a": jnp.zeros((2, 1)), "b": jnp.zeros((1, 2))}, r"shapes \[\(2, 1\), \(1, 2\)\]"),
    ({}, {"a": jnp.zeros(())}, "needs the batch"),
]


@pytest.mark.parametrize(("options", "state", "message"), WRONG)
def test_what_cannot_be_searched_is_refused(options, state, message):
    options = {"bos": BOS, "eos": EOS, "max_length": 2, "width": 2} | options
    state = state or ({} if "Every leaf" in message else rows(2))
    with pytest.raises(ValueError, match=message):
        decoding.beam_search_from(constantly([0.0, 0.0, 0.0]), state, **options)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be above 0"):
        models.sample(
            Walk(3), jax.random.key(0), jnp.zeros((1, 4)), bos=BOS, eos=EOS, max_length=1, temperature=0.0
        )


@pytest.mark.torch
def test_a_transformer_writes_the_tokens_that_its_mirror_writes(torch):
    """Its state holds keys and values of all positions, of which beams choose rows."""
    import jaxrnn
    from torch_ref import models as mirror

    sizes = {
        "d_model": 8,
        "nhead": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "dim_feedforward": 16,
    }
    model = models.TransformerTranslator(7, 6, **sizes, max_length=5, rngs=nnx.Rngs(0))
    twin = mirror.TransformerTranslator(7, 6, **sizes)
    weights = {name: 2 * value for name, value in jaxrnn.state_dict(model).items()}
    jaxrnn.load_state_dict(model, weights)
    twin.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    source, lengths = np.random.default_rng(0).integers(7, size=(4, 5)), np.array([5, 1, 3, 4])
    options = {"bos": BOS, "eos": EOS, "max_length": 5, "width": 3, "length_penalty": 0.6}
    ours = models.beam_search(model, jnp.asarray(source), lengths, **options)
    theirs = mirror.beam_search(twin, torch.tensor(source), torch.tensor(lengths), **options)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4)
    assert set(np.unique(ours.lengths)) == {1, 2, 3}
