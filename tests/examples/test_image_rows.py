"""Images row by row: parts without leaks, steps in the order of reading, gates that start with long memories."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import jaxrnn
from examples import image_rows
from examples.image_rows import Images, Reader


@pytest.fixture(scope="module")
def parts():
    return image_rows.load(0)


def test_there_are_5000_images_and_500_of_each_digit(parts):
    assert [len(part.digits) for part in parts] == [3500, 500, 1000]
    assert np.bincount(np.concatenate([part.digits for part in parts])).tolist() == [500] * 10
    assert all(len(set(part.digits[:100].tolist())) == 10 for part in parts)  # no longer sorted


def test_no_image_is_in_two_parts(parts):
    seen = [{image.tobytes() for image in part.pixels} for part in parts]
    assert len(set().union(*seen)) == sum(len(part) for part in seen)


def test_the_pixels_are_scaled_by_the_training_part_alone(parts):
    pixels = parts[0].pixels.astype(np.float64)
    # Rounded to float32 when scaled and when its mean is taken: 2.7 million numbers near 1.
    assert pixels.mean() == pytest.approx(0, abs=1e-4)
    assert pixels.std() == pytest.approx(1, abs=1e-4)
    assert len(image_rows.load(0, 100)[0].digits) == 100
    np.testing.assert_array_equal(image_rows.load(0, 100)[2].pixels, parts[2].pixels)


def test_rows_and_pixels_are_read_as_one_reads():
    images = Images(np.arange(2 * 784, dtype=np.float32).reshape(2, 784), np.zeros(2, np.int32))
    assert images.cut(28)[1, 3].tolist() == list(range(784 + 3 * 28, 784 + 4 * 28))
    assert images.cut(1)[0, :, 0].tolist() == list(range(784))


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_gates_hold_for_as_long_as_the_image_lasts(cell):
    hidden = 200
    network = Reader(cell, 1, chrono=True).network(hidden, seed=0)
    weights = {name: np.asarray(value, np.float64) for name, value in jaxrnn.state_dict(network).items()}
    bias = (weights["rnn.bias_ih_l0"] + weights["rnn.bias_hh_l0"]).reshape(-1, hidden)
    place = {"LSTM": 1, "GRU": 1}[cell]  # of i, f, g, o the forget gate; of r, z, n the one that keeps
    # σ(b) = n / (n + 1) forgets 1 / (n + 1) per step: n is uniform between 1 and T - 1 steps.
    steps = np.exp(bias[place])
    assert 1 <= steps.min() < 50
    assert 734 < steps.max() <= 783 * (1 + 1e-5)  # rounded to float32
    assert steps.mean() == pytest.approx(392, abs=50)  # four deviations of 226 / sqrt(200)
    if cell == "LSTM":
        np.testing.assert_allclose(bias[0], -bias[1])
    assert not bias[2:].any()


def test_a_gate_that_holds_lets_the_gradient_come_back():
    rng = np.random.default_rng(0)
    images = Images(rng.standard_normal((2, 784), np.float32), np.array([3, 7], np.int32))
    plain, held = (
        image_rows.reach(Reader("LSTM", 1, chrono).network(8, seed=0), images) for chrono in (False, True)
    )
    assert plain.shape == (28,)
    assert plain[0] < 1e-30 < 1e-9 < held[0]
    assert plain[27] > 1e-6  # from the last row it has come to both
    assert held[27] > 1e-9
