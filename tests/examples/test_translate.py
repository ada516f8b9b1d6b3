"""Letters to sounds: distances, alignments and splits are what they say; test_moved.py has g2p_en's network."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from examples import translate
from examples.translate import EOS, SIZES, Words, align, distance, load, pronounce, usual_sounds


def test_a_distance_is_the_fewest_edits_from_one_to_the_other():
    assert distance("kitten", "sitting") == 3
    assert distance("", "abc") == distance("abc", "") == 3
    assert distance(("K", "AE", "T"), ("K", "AE", "T")) == 0
    assert distance("flaw", "lawn") == 2  # one goes at the front, one comes at the end


def words(*pairs):
    spelled, spoken = zip(*pairs, strict=True)
    nothing = np.zeros((len(pairs), 1), np.int32)
    return Words(
        list(spelled), [tuple(s.split()) for s in spoken], nothing, nothing[:, 0], nothing, nothing[:, 0]
    )


LEARNED = words(
    ("cab", "K AE B"), ("cabs", "K AE B Z"), ("back", "B AE K"), ("sack", "S AE K"), ("box", "B AA K S")
)


def test_an_alignment_gives_every_phone_to_one_letter():
    for word, spoken in zip(LEARNED.spelled, LEARNED.spoken, strict=True):
        sounds = align(word, spoken, translate.Counter())
        assert len(sounds) == len(word)
        assert tuple(phone for sound in sounds for phone in sound) == spoken
    assert align("a", ("EY", "B", "IY"), translate.Counter()) == [("EY", "B", "IY")]


def test_usual_sounds_know_a_letters_neighbours():
    sounds = usual_sounds(LEARNED)
    assert pronounce("cab", sounds) == ("K", "AE", "B")
    assert pronounce("sacks", sounds)[:3] == ("S", "AE", "K")
    assert pronounce("zzz", sounds) == ()  # letters never seen


def test_no_word_is_on_two_sides_and_every_target_ends():
    (train, check, test), phones = load(SIZES["small"], 0)
    assert not set(train.spelled) & set(test.spelled)
    assert not set(train.spelled) & set(check.spelled)
    assert not set(check.spelled) & set(test.spelled)
    assert len(phones) == 39
    ends = train.target[np.arange(len(train.spelled)), train.target_lengths - 1]
    assert (ends == EOS).all()
    assert (train.target == EOS).sum() == len(train.spelled)
