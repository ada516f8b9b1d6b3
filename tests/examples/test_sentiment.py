"""The reviews, how they are split and read, and the ratings of words."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from examples import sentiment
from examples.sentiment import LONGEST, UNKNOWN, Review, encoded, prefixes, read, split, vocabulary, words


def test_the_file_is_that_whose_counts_are_known():
    reviews = read(None)
    assert (sum(review.fresh for review in reviews), sum(not review.fresh for review in reviews)) == (
        7403,
        5405,
    )


def test_no_film_is_in_two_parts_and_no_review_is_lost():
    reviews = read(40)
    parts = split(reviews, 0)
    films = [{review.film for review in part} for part in parts]
    assert [len(part) for part in films] == [28, 4, 8]
    assert len(set.union(*films)) == 40
    assert sorted(review for part in parts for review in part) == sorted(reviews)


def test_words_that_training_saw_once_or_never_are_unknown():
    known = vocabulary([Review("a", "Good, good fun!", True), Review("b", "fun? It's bad.", False)])
    assert sorted(known) == ["fun", "good"]
    assert min(known.values()) == UNKNOWN + 1
    made = encoded([Review("c", "Bad fun", False), Review("c", "...", True)], known)
    np.testing.assert_array_equal(made.tokens[:, :3], [[UNKNOWN, known["fun"], 0], [UNKNOWN, 0, 0]])
    np.testing.assert_array_equal(made.lengths, [2, 1])
    np.testing.assert_array_equal(made.fresh, [0, 1])


def test_a_long_review_is_cut():
    made = encoded([Review("a", "so " * 100, True)], {"so": 2})
    assert made.tokens.shape == (1, LONGEST)
    assert made.lengths[0] == LONGEST


def test_words_keep_their_apostrophes_and_marks_that_say_something():
    assert words("It's NOT good, is it? 10/10!") == ["it's", "not", "good", "is", "it", "?", "10", "10", "!"]


def test_prefixes_end_one_word_later_each():
    tokens, lengths = prefixes(np.array([4, 5, 6, 0]), 3)
    np.testing.assert_array_equal(tokens, [[4, 5, 6, 0]] * 3)
    np.testing.assert_array_equal(lengths, [1, 2, 3])


def test_ratings_are_added_up_and_the_bound_is_that_of_training(monkeypatch):
    monkeypatch.setattr(sentiment, "valences", lambda: {"good": 2.0, "bad": -2.5})
    known = {}
    training = encoded(
        [Review("a", "good", True), Review("b", "film", False), Review("c", "bad", False)], known
    )
    asked = encoded(
        [Review("d", text, True) for text in ("good bad good", "good bad", "film", "good")], known
    )
    # Of the sums -2.5, 0 and 2 only 2 is fresh, and 1.5 does not reach it.
    np.testing.assert_array_equal(sentiment.added_up(training, asked), [False, False, False, True])


def test_the_ratings_are_those_of_the_file():
    rated = sentiment.valences()
    assert rated["good"] == 1.9
    assert rated["horrible"] < 0
    assert len(rated) > 7000
