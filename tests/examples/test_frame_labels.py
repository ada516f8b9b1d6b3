"""Labels for frames: videos that show what their labels say, of images of their own; windows; columns counted."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from examples import frame_labels, image_rows
from examples.frame_labels import BLANK, STEPS
from examples.image_rows import Images


@pytest.fixture(scope="module")
def parts():
    return image_rows.load(0)


@pytest.fixture(scope="module")
def videos(parts):
    return frame_labels.film(parts[2], 20, np.random.default_rng(0))


def test_blank_frames_are_blank_and_a_digits_ends_are_not(videos, parts):
    frames, labels = videos
    assert frames.shape == (20, STEPS, 28)
    inked = (frames > parts[2].pixels.min()).any(axis=2)
    assert not inked[labels == BLANK].any()
    seen = frame_labels.columns_seen(labels)
    assert inked[(labels != BLANK) & (seen == 1)].all()
    ends = (labels[:, :-1] != BLANK) & (labels[:, 1:] != labels[:, :-1])
    assert inked[:, :-1][ends].all()


def test_every_digit_of_a_video_is_an_image_of_its_part_and_label(videos, parts):
    frames, labels = videos
    pictures = parts[2].pixels.reshape(-1, 28, 28).swapaxes(1, 2)
    starts = np.flatnonzero(np.diff(labels[0], prepend=BLANK))
    start = next(at for at in starts if labels[0, at] != BLANK)
    stop = next(at for at in starts if at > start)
    width = stop - start
    same = [
        digit
        for picture, digit in zip(pictures, parts[2].digits, strict=True)
        for first in range(29 - width)
        if np.array_equal(picture[first : first + width], frames[0, start:stop])
    ]
    assert set(same) == {labels[0, start]}


def test_a_frame_has_the_label_of_the_image_that_it_shows():
    # One column of ink, as bright as the image's digit less 3.
    images = Images(np.zeros((3, 784), np.float32), np.array([4, 5, 6], np.int32))
    images.pixels.reshape(3, 28, 28)[:, 0, 9] = 1, 2, 3
    frames, labels = frame_labels.film(images, 4, np.random.default_rng(1))
    np.testing.assert_array_equal(frames[..., 0], np.where(labels == BLANK, 0, labels - 3))
    assert set(labels.ravel()) == {4, 5, 6, BLANK}


def test_a_window_holds_the_frames_around_each_and_blank_beyond_the_ends():
    frames = np.arange(2 * 5, dtype=np.float32).reshape(2, 5, 1)
    made = frame_labels.windows(frames, 2, 1)
    assert made[0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]]
    np.testing.assert_array_equal(frame_labels.windows(frames, 0, 0), frames)


def test_columns_are_counted_from_the_start_of_each_digit():
    labels = np.array([[BLANK, 3, 3, 3, 7, BLANK, BLANK]])
    assert frame_labels.columns_seen(labels).tolist() == [[1, 1, 2, 3, 1, 1, 2]]
