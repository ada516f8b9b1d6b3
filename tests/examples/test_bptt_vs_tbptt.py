"""The problems of memory ask what they say, and windows share one loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from examples import bptt_vs_tbptt as lesson
from examples.bptt_vs_tbptt import CUE, IGNORED, LAG, MARKED, PROBLEMS, SHOWN, SIZES, STEPS, SYMBOLS


@pytest.fixture(autouse=True, scope="module")
def fresh_caches():
    yield
    jax.clear_caches()


def rng():
    return np.random.default_rng(0)


def test_what_is_to_be_copied_was_shown_a_lag_before():
    tokens, targets = lesson.draw_copy(rng(), 50)
    rows, steps = np.nonzero(targets != IGNORED)
    assert len(rows) == 50 * SHOWN
    np.testing.assert_array_equal(targets[rows, steps], tokens[rows, steps - LAG])
    assert (tokens[rows, steps] == CUE).all()
    assert (tokens != 0).sum() == 50 * 2 * SHOWN
    assert set(targets[rows, steps]) == set(range(1, 1 + SYMBOLS))


def test_two_numbers_are_marked_and_their_sum_is_asked_for_at_the_end():
    inputs, (sums, last) = lesson.draw_adding(rng(), 50)
    numbers, marks = inputs[..., 0], inputs[..., 1]
    assert (marks[:, : -2 * MARKED] == 0).all()
    assert (marks[:, -2 * MARKED : -MARKED].sum(1) == 1).all()
    assert (marks[:, -MARKED:].sum(1) == 1).all()
    # float32 sums of two numbers below 1.
    np.testing.assert_allclose(
        sums[:, -1], [sum(row[mark == 1]) for row, mark in zip(numbers, marks, strict=True)], atol=1e-6
    )
    np.testing.assert_array_equal(np.nonzero(last[0])[0], [STEPS - 1])


def test_a_guess_scores_what_the_tables_say():
    _, targets = lesson.draw_adding(rng(), 20_000)
    # The squared error of a row has a standard deviation of about 0.2.
    assert lesson.squared_error(jnp.ones((20_000, 1)), targets) == pytest.approx(
        1 / 6, abs=6 * 0.2 / 20_000**0.5
    )
    _, targets = lesson.draw_copy(rng(), 20_000)
    said = jax.nn.one_hot(jnp.full(targets.shape, 3), CUE + 1)
    assert lesson.copied(said, targets) == pytest.approx(100 / SYMBOLS, abs=1)  # 6 standard deviations


def test_losses_are_of_what_is_asked_and_of_nothing_else():
    _, (sums, last) = lesson.draw_adding(rng(), 4)
    found = lesson.adding_loss(jnp.full((4, 1), 0.25), (sums, last))
    expected = np.zeros((4, STEPS))
    expected[:, -1] = (0.25 - sums[:, -1]) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    _, targets = lesson.draw_copy(rng(), 4)
    found = lesson.copy_loss(jnp.zeros((4, STEPS, CUE + 1)), targets)
    np.testing.assert_allclose(found, np.where(targets == IGNORED, 0, np.log(CUE + 1)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_window_over_all_of_time_has_the_gradient_of_all_of_time(name):
    size = SIZES["small"]
    found = lesson.biases(name, lesson.build(PROBLEMS[name], size, 0), size, 0)
    assert size.windows == (12, STEPS)
    assert found[0].relative_error > 1e-4
    assert found[1].relative_error < 1e-6  # roundings of float32


def test_all_of_time_is_scored_beside_the_best_of_the_shorter_windows():
    runs = {
        window: lesson.Trained(None, [10], [score]) for window, score in ((6, 0.2), (24, 0.1), (48, 0.05))
    }
    *each, last = lesson.scores("adding", runs)
    assert [score.value for score in each] == [0.2, 0.1, 0.05]
    assert {score.baseline_value for score in each} == {1 / 6}
    assert (last.baseline, last.baseline_value, last.value) == ("window 24", 0.1, 0.05)
    assert [score.beats for score in (*each, last)] == [False, True, True, True]
