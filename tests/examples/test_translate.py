"""Letters to sounds: distances, alignments and splits are what they say, and g2p_en's network is itself."""

import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from examples import translate
from examples.common import packages
from examples.translate import EOS, SIZES, Words, align, distance, load, pronounce, published, usual_sounds


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


def test_the_published_network_says_what_its_own_equations_say():
    """Its package computes in NumPy; so does this, from the equations of a GRU as cuDNN has it."""
    network, phones = published()
    with np.load(io.BytesIO(packages.G2P_EN.read("g2p_en/checkpoint20.npz")), allow_pickle=False) as file:
        w = {name: file[name].astype(np.float64) for name in file}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def step(x, h, part):
        i = w[f"{part}_w_ih"] @ x + w[f"{part}_b_ih"]
        a = w[f"{part}_w_hh"] @ h + w[f"{part}_b_hh"]
        (ir, iz, n), (hr, hz, hn) = np.split(i, 3), np.split(a, 3)
        z = sigmoid(iz + hz)
        return (1 - z) * np.tanh(n + sigmoid(ir + hr) * hn) + z * h

    word, said = "recurrent", ["R", "IH0", "K", "ER1", "AH0", "N", "T"]
    tokens = [*(3 + ord(letter) - ord("a") for letter in word), 2]
    h = np.zeros(256)
    for token in tokens:
        h = step(w["enc_emb"][token], h, "enc")
    token, logits, found = 2, [], []
    while token != 3:
        h = step(w["dec_emb"][token], h, "dec")
        logits.append(w["fc_w"] @ h + w["fc_b"])
        token = int(logits[-1].argmax())
        found.append(token)
    assert [phones[token - 4] for token in found[:-1]] == said
    source, target = np.array([tokens]), np.array([[2, *found[:-1]]])
    ours = network(source, target)[0]
    np.testing.assert_allclose(ours, np.array(logits), rtol=1e-4, atol=1e-4)  # float32, eighteen steps
