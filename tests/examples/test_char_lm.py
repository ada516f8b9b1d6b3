"""The character model's text, its windows, and the counts that it is measured by."""

import itertools
import math

import click
import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("matplotlib")

import jaxrnn
from examples import char_lm
from examples.char_lm import SIZES, bits, bits_by_grams, kneser_ney, load, windows, write
from jaxrnn.models import LanguageModel

SMALL = SIZES["small"]


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


def tokens(text):
    return np.array([ord(letter) - ord("a") for letter in text], np.int32)


def test_probabilities_of_counts_sum_to_one_behind_any_context():
    levels = kneser_ney(tokens("abcadaeabcacadab"), 3)

    def total_bits(text):
        return (len(text) - 1) * bits_by_grams(levels, tokens(text), 5, 0.75)

    for context in ("abc", "ada", "cad", "eee", "da"):
        probabilities = [2.0 ** (total_bits(context) - total_bits(context + letter)) for letter in "abcde"]
        assert sum(probabilities) == pytest.approx(1, abs=1e-12)


def test_counts_are_those_of_a_computation_by_hand():
    # "abab": behind "a" stands "b" twice; one kind of character stands before "a" and one before "b".
    levels = kneser_ney(tokens("abab"), 1)
    single = (1 - 0.5 + 0.5 * 2 * (1 / 3)) / 2  # of "b" behind nothing
    assert bits_by_grams(levels, tokens("ab"), 3, 0.5) == pytest.approx(
        -math.log2((2 - 0.5 + 0.5 * single) / 2)
    )
    # "c" was never seen: not by itself, nor behind "a".
    unseen = 0.5 * (0.5 * 2 * (1 / 3) / 2) / 2
    assert bits_by_grams(levels, tokens("ac"), 3, 0.5) == pytest.approx(-math.log2(unseen))


def test_the_held_out_parts_do_not_make_the_alphabet(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 4000 + "xyz" * 400, "utf-8")
    text = load(path, SMALL)
    assert text.alphabet == "ab"
    assert len(text.train) + len(text.validation) + len(text.test) == 9200
    assert set(text.test) == {0}
    assert text.spelled(np.array([1, 2, 0])) == "ab\N{REPLACEMENT CHARACTER}"


def test_a_window_goes_on_where_the_one_before_ended():
    text = np.arange(6000)
    cut = list(windows(text, SMALL, 0, 0))
    assert [bool(first) for _, _, first in cut] == [True] + [False] * (len(cut) - 1)
    for inputs, targets, _ in cut:
        np.testing.assert_array_equal(inputs + 1, targets)
    for before, after in itertools.pairwise(cut):
        np.testing.assert_array_equal(before[1][:, -1], after[0][:, 0])
    assert len({int(next(windows(text, SMALL, 0, epoch))[0][0, 0]) for epoch in range(8)}) > 1


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe\xfa", "no text in UTF-8"), (b"short", "give a longer text")]
)
def test_a_text_that_cannot_serve_is_refused(tmp_path, content, says):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(click.ClickException, match=says):
        load(path, SMALL)


def test_the_compiled_loop_writes_what_step_by_step_is_drawn():
    network = LanguageModel(jaxrnn.LSTM, 7, 4, 5, rngs=nnx.Rngs(0))
    network.eval()
    prompt = np.array([1, 2, 3], np.int32)
    noise = np.random.default_rng(0).gumbel(size=(6, 7)).astype(np.float32)
    text = prompt.tolist()
    for row in noise:
        logits = np.asarray(network(np.array(text, np.int32)[None])[0][0, -1])
        text.append(int(np.argmax(logits / 0.7 + row)))
    np.testing.assert_array_equal(write(network, prompt, noise, 0.7), text[3:])


def test_bits_are_of_every_character_but_the_first():
    network = LanguageModel(jaxrnn.LSTM, 7, 4, 5, rngs=nnx.Rngs(0))
    network.eval()
    text = np.array([[1, 2, 3, 4]], np.int32)
    log_probs = jax.nn.log_softmax(network(text[:, :-1])[0])[0]
    expected = [-float(log_probs[step, text[0, step + 1]]) / math.log(2) for step in range(3)]
    # One rounding of a logarithm: float32.
    np.testing.assert_allclose(bits(network, text)[0], expected, rtol=1e-6)


def test_the_file_of_hamlet_is_that_whose_size_is_known():
    assert len(char_lm.read(None)) == 175_176
