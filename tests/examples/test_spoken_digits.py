"""The spoken digits: parts without leaks, and dynamic time warping against its recursion."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from examples import spoken_digits
from examples.spoken_digits import Recordings


@pytest.fixture(scope="module")
def parts():
    return spoken_digits.load(0)


def test_there_are_3000_recordings_of_10_digits_and_13_features(parts):
    assert [len(part.digits) for part in parts] == [2100, 300, 600]
    assert np.bincount(np.concatenate([part.digits for part in parts])).tolist() == [300] * 10
    lengths = np.concatenate([part.lengths for part in parts])
    assert (lengths.min(), lengths.max(), lengths.sum()) == (6, 92, 53999)
    assert {frames.shape[1] for part in parts for frames in part.frames} == {13}


def test_no_recording_is_in_two_parts(parts):
    seen = [{frames.tobytes() for frames in part.frames} for part in parts]
    assert len(set().union(*seen)) == sum(map(len, seen)) == 3000


def test_the_scaler_knows_the_training_part_alone(parts):
    frames = np.concatenate(parts[0].frames).astype(np.float64)
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-6)  # rounded to float32, near 1
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-6)
    assert np.abs(np.concatenate(parts[2].frames).mean(axis=0)).max() > 1e-3


def test_warping_is_its_recursion():
    rng = np.random.default_rng(0)

    def draw(*lengths):
        frames = [rng.standard_normal((length, 3)).astype(np.float32) for length in lengths]
        return Recordings(frames, np.zeros(len(frames), int))

    first, second = draw(2, 5, 4), draw(6, 1, 3, 5)
    expected = [[by_hand(a, b) / (len(a) + len(b)) for b in second.frames] for a in first.frames]
    # Float32: squares of up to 30 by a difference, 1e-7 of them under a root.
    np.testing.assert_allclose(spoken_digits.warping(first, second), expected, rtol=1e-5)


def by_hand(a, b):
    totals = np.full((len(a) + 1, len(b) + 1), np.inf)
    totals[0, 0] = 0
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            before = min(totals[i, j + 1], totals[i + 1, j], totals[i, j])
            totals[i + 1, j + 1] = np.linalg.norm(x - y) + before
    return totals[-1, -1]


def test_warping_finds_a_recording_that_is_played_slower():
    rng = np.random.default_rng(0)
    sounds = [rng.standard_normal((5, 13)).astype(np.float32) for _ in range(4)]
    slow = [np.repeat(sound, 2, axis=0) for sound in sounds]
    data, test = Recordings(sounds, np.arange(4)), Recordings(slow, np.arange(4))
    assert spoken_digits.nearest(data, test).tolist() == [0, 1, 2, 3]


def test_resampling_keeps_the_ends_and_the_number_of_frames():
    sound = np.linspace(0, 1, 7)[:, None] * np.ones(13)
    made = spoken_digits.resampled(Recordings([sound], np.zeros(1)), 12).reshape(13, 12)
    np.testing.assert_allclose(made, np.broadcast_to(np.linspace(0, 1, 12), (13, 12)))
