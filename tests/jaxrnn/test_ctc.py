"""CTC against torch, and against the sum over every path that spells the target."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxrnn.losses import ctc_loss
from tests.jaxrnn.common import mostly_slow
from tests.jaxrnn.loss_cases import UNIT, cotangent, rms

FRAMES, ROWS, CLASSES = 9, 6, 5
LOGITS = np.random.default_rng(0).standard_normal((FRAMES, ROWS, CLASSES)).astype(np.float32)
LOGITS[2] *= 30  # frames that are nearly certain, and one that is quite certain
LOGITS[4] = 200 * np.sign(LOGITS[4])
INPUT_LENGTHS = np.array([9, 7, 3, 5, 9, 8])
TARGET_LENGTHS = np.array([4, 3, 2, 0, 1, 4])
TARGETS = np.array(  # padded with what is no label
    [[1, 1, 2, 1], [3, 3, 3, -7], [2, 2, 99, 99], [99, 99, 99, 99], [4, -1, -1, -1], [4, 3, 2, 1]]
)  # repeated labels, as many frames as it takes for them (2 2 in three frames), an empty target
SHORT = INPUT_LENGTHS.copy()
SHORT[[1, 2]] = 4, 2  # too few frames for 3 3 3 and for 2 2


def end_to_end(targets, lengths):
    return np.concatenate([row[:length] for row, length in zip(targets, lengths, strict=True)])


def moved(targets, blank):
    """Labels for another blank: what was `blank` becomes 0."""
    return np.where(targets == blank, 0, targets)


# name: (targets, input lengths, options)
CASES = {
    "padded": (TARGETS, INPUT_LENGTHS, {}),
    "end to end": (end_to_end(TARGETS, TARGET_LENGTHS), INPUT_LENGTHS, {}),
    "last class is blank": (moved(TARGETS, 4), INPUT_LENGTHS, {"blank": 4}),
    "some impossible": (TARGETS, SHORT, {}),
    "some impossible, made zero": (TARGETS, SHORT, {"zero_infinity": True}),
    "no frames": (TARGETS, np.array([9, 7, 0, 0, 9, 8]), {"zero_infinity": True}),
}
REDUCTIONS = ("none", "mean", "sum")


# One backward pass for all three, each result with a weight of its own: compiling is what takes time.
WEIGHTS = (cotangent((ROWS,)), np.array(0.7), np.array(-0.4))


def ours(name, dtype):
    """The loss with each reduction, and the gradient of the logits from all of them."""
    targets, input_lengths, options = CASES[name]

    def losses(logits):
        log_probs = jax.nn.log_softmax(logits)
        return tuple(
            ctc_loss(log_probs, targets, input_lengths, TARGET_LENGTHS, **options, reduction=reduction)
            for reduction in REDUCTIONS
        )

    @jax.jit
    def both(logits):
        values, pull = jax.vjp(losses, logits)
        return *values, *pull(tuple(jnp.asarray(weight, dtype) for weight in WEIGHTS))

    with jax.enable_x64(dtype == np.float64):
        return [np.asarray(x, np.float64) for x in both(jnp.asarray(LOGITS, dtype))]


def theirs(torch, name, dtype):
    targets, input_lengths, options = CASES[name]
    logits = torch.tensor(LOGITS, dtype=getattr(torch, np.dtype(dtype).name), requires_grad=True)
    arguments = [torch.as_tensor(x) for x in (targets, input_lengths, TARGET_LENGTHS)]
    values = [
        torch.nn.functional.ctc_loss(logits.log_softmax(-1), *arguments, **options, reduction=reduction)
        for reduction in REDUCTIONS
    ]
    weights = [torch.tensor(weight, dtype=logits.dtype) for weight in WEIGHTS]
    gradients = torch.autograd.grad(values, logits, weights)
    return [x.detach().double().numpy() for x in (*values, *gradients)]


@pytest.mark.torch
@pytest.mark.parametrize("name", mostly_slow(CASES, fast=("padded", "some impossible")))
def test_values_and_gradients_of_the_logits_are_those_of_torch_in_float64(name, torch):
    for mine, other in zip(ours(name, np.float64), theirs(torch, name, np.float64), strict=True):
        assert mine.shape == other.shape
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(other))
        np.testing.assert_array_equal(np.isinf(mine), np.isinf(other))
        mine, other = (np.nan_to_num(x, nan=0, posinf=0) for x in (mine, other))
        # Some ten thousand roundings; another formula is far beyond.
        assert rms(mine - other) <= 1e-12 * rms(other)


@pytest.mark.slow
@pytest.mark.torch
def test_float32_is_as_accurate_as_in_torch(torch):
    oracle = theirs(torch, "padded", np.float64)
    for mine, other, true in zip(
        ours("padded", np.float32), theirs(torch, "padded", np.float32), oracle, strict=True
    ):
        # Four times torch's own error: another order of the same sums. The floor is for its lucky results.
        floor = 4 * UNIT[np.float32] * rms(true)
        assert rms(mine - true) <= 4 * max(rms(other - true), floor)


@pytest.mark.torch
def test_one_sequence_needs_no_batch_axis(torch):
    log_probs = np.array(jax.nn.log_softmax(LOGITS[:, 0]))
    for targets in (TARGETS[0], TARGETS[:1]):
        for frames, labels in ((9, 4), (np.array(9), np.array(4)), ((9,), [4])):
            loss = ctc_loss(log_probs, targets, frames, labels, reduction="none")
            other = torch.nn.functional.ctc_loss(
                *map(torch.as_tensor, (log_probs, targets, 9, 4)), reduction="none"
            )
            assert loss.shape == other.shape == ()
            np.testing.assert_allclose(loss, other, rtol=1e-6)  # ten sums of float32


# Against the definition, without torch


def spelt(path, blank):
    """What a path spells: repetitions merged, blanks dropped."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def brute_force(log_probs, target, blank):
    """The loss of one sequence `[T, C]` and its true derivative with respect to the log-probabilities."""
    frames, classes = log_probs.shape
    total, counts = 0.0, np.zeros_like(log_probs)
    for path in itertools.product(range(classes), repeat=frames):
        if spelt(path, blank) == tuple(target):
            probability = np.exp(log_probs[range(frames), path].sum())
            total += probability
            counts[range(frames), path] += probability
    return -np.log(total), -counts / total


@functools.partial(jax.jit, static_argnames="blank")
def one_row(log_probs, targets, length, blank):
    return jax.value_and_grad(lambda x: ctc_loss(x, targets, np.array([5]), length, blank, "sum"))(log_probs)


@pytest.mark.parametrize("blank", mostly_slow([0, 2], fast=(2,)))
@pytest.mark.parametrize("target", [[], [1], [1, 1], [1, 3], [3, 1, 3]])
def test_the_loss_sums_all_paths_and_its_gradient_is_the_true_derivative(target, blank, x64):
    log_probs = np.log(np.random.default_rng(1).dirichlet(np.ones(4), 5))
    loss, gradient = brute_force(log_probs, target, blank)
    padded = np.array([target + [1] * (3 - len(target))])  # one shape, so that it compiles once

    found = one_row(log_probs[:, None], padded, np.array([len(target)]), blank)
    # Sums of at most a thousand positive numbers.
    np.testing.assert_allclose(found[0], loss, rtol=1e-12)
    np.testing.assert_allclose(found[1][:, 0], gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.torch
def test_torch_has_another_gradient_of_log_probabilities_that_log_softmax_maps_to_the_same(torch, x64):
    log_probs = np.log(np.random.default_rng(1).dirichlet(np.ones(4), 5))[:, None]
    arguments = (np.array([[1, 3]]), np.array([5]), np.array([2]))
    leaf = torch.tensor(log_probs, requires_grad=True)
    torch.nn.functional.ctc_loss(leaf, *map(torch.as_tensor, arguments), reduction="sum").backward()
    mine = jax.jit(jax.grad(lambda lp: ctc_loss(lp, *arguments, reduction="sum")))(jnp.asarray(log_probs))
    np.testing.assert_allclose(leaf.grad.sum(-1), 0, atol=1e-12)  # rows of a softmax's gradient
    np.testing.assert_allclose(mine.sum(-1), -1, rtol=1e-12)  # each path emits one symbol per frame
    np.testing.assert_allclose(mine + np.exp(log_probs), leaf.grad, atol=1e-12)


@pytest.mark.slow
def test_derivatives_of_both_orders_and_modes_agree_with_differences(x64):
    logits = np.random.default_rng(1).standard_normal((5, 2, 4))
    arguments = (np.array([[1, 1], [3, 2]]), np.array([5, 4]), np.array([2, 1]))
    # Differences of a step of 1e-5 are good to about its square over the curvature.
    check_grads(
        lambda x: ctc_loss(jax.nn.log_softmax(x), *arguments), (logits,), 2, rtol=1e-4, atol=1e-4, eps=1e-5
    )


# What must not matter

GOOD = {
    "log_probs": np.array(jax.nn.log_softmax(LOGITS)),
    "targets": TARGETS,
    "input_lengths": INPUT_LENGTHS,
    "target_lengths": TARGET_LENGTHS,
}


@functools.partial(jax.jit, static_argnames="zero_infinity")
def both(arguments, zero_infinity=False):
    """The losses of all rows, and the gradient of the log-probabilities."""
    others = {name: value for name, value in arguments.items() if name != "log_probs"}
    loss, pull = jax.vjp(
        lambda x: ctc_loss(x, **others, reduction="none", zero_infinity=zero_infinity), arguments["log_probs"]
    )
    return loss, pull(jnp.ones_like(loss))[0]


def test_frames_and_labels_beyond_the_lengths_matter_for_nothing():
    targets, log_probs = TARGETS.copy(), np.array(GOOD["log_probs"])
    targets[np.arange(4) >= TARGET_LENGTHS[:, None]] = 1
    log_probs[np.arange(FRAMES)[:, None] >= INPUT_LENGTHS] = np.nan
    clean, dirty = both(GOOD | {"targets": targets}), both(GOOD | {"log_probs": log_probs})
    for one, other in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(dirty[1]).all()


def test_an_impossible_target_is_infinite_and_harms_no_other_row():
    possible, short = both(GOOD), GOOD | {"input_lengths": SHORT}
    impossible = np.array([1, 2])
    others = np.setdiff1d(np.arange(ROWS), impossible)
    infinite, zero = both(short), both(short, zero_infinity=True)
    np.testing.assert_array_equal(infinite[0][impossible], np.inf)
    np.testing.assert_array_equal(zero[0][impossible], 0)
    np.testing.assert_array_equal(zero[1][:, impossible], 0)
    for row in impossible:
        np.testing.assert_array_equal(np.isnan(infinite[1][:, row]).all(-1), np.arange(FRAMES) < SHORT[row])
    for found in (infinite, zero):
        np.testing.assert_allclose(found[0][others], possible[0][others], rtol=1e-6)  # two programs, float32
        np.testing.assert_allclose(found[1][:, others], possible[1][:, others], rtol=1e-5, atol=1e-6)


def test_a_class_of_probability_zero_leaves_the_gradient_finite():
    """Torch's is NaN on such a frame: it divides by the probability."""
    log_probs = np.array([[-0.75, -0.75, -np.inf], [-1.5, -1.25, -0.75], [0, -np.inf, -np.inf]], np.float32)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda lp: ctc_loss(lp, np.array([1, 2]), 3, 2, reduction="sum"))
    )(log_probs)
    assert loss == 1.5  # 1, 2, blank is the only path
    np.testing.assert_array_equal(gradient, [[0, -1, 0], [0, 0, -1], [-1, 0, 0]])


def test_lengths_and_targets_may_all_be_known_traced_or_mapped():
    known = jax.jit(lambda lp: ctc_loss(lp, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS, reduction="none"))(
        GOOD["log_probs"]
    )
    np.testing.assert_allclose(both(GOOD)[0], known, rtol=1e-6)  # float32, another program
    flat = both(GOOD | {"targets": end_to_end(TARGETS, TARGET_LENGTHS)})
    np.testing.assert_allclose(flat[0], known, rtol=1e-6)
    np.testing.assert_allclose(flat[1], both(GOOD)[1], rtol=1e-5, atol=1e-6)
    each = jax.vmap(lambda *args: ctc_loss(*args, reduction="none"), in_axes=(1, 0, 0, 0))
    np.testing.assert_allclose(jax.jit(each)(*GOOD.values()), known, rtol=1e-6)


def test_an_all_empty_batch_of_targets_needs_no_labels():
    log_probs = np.asarray(jax.nn.log_softmax(LOGITS))
    expected = -np.cumsum(log_probs[:, :, 0], 0)[INPUT_LENGTHS - 1, np.arange(ROWS)]  # blanks only
    for targets in (np.zeros((ROWS, 0), int), np.zeros(0, int), TARGETS):
        loss = jax.jit(
            lambda lp: ctc_loss(lp, targets, INPUT_LENGTHS, np.zeros(ROWS, int), reduction="none")  # noqa: B023
        )(log_probs)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)  # a sum of nine


def test_half_precision_is_computed_in_float32_and_returned_in_half():
    log_probs = jax.nn.log_softmax(LOGITS.astype(jnp.bfloat16))
    loss = ctc_loss(log_probs, TARGETS, INPUT_LENGTHS, TARGET_LENGTHS)
    wide = ctc_loss(log_probs.astype(jnp.float32), TARGETS, INPUT_LENGTHS, TARGET_LENGTHS)
    assert loss.dtype == jnp.bfloat16
    np.testing.assert_array_equal(loss, wide.astype(jnp.bfloat16))


# Errors


def test_log_probabilities_need_two_or_three_axes():
    with pytest.raises(RuntimeError, match=r"Expected 3-dimensional tensor, but got 4-.*time first"):
        ctc_loss(LOGITS[None], TARGETS, INPUT_LENGTHS, TARGET_LENGTHS)


def with_label(label):
    targets = TARGETS.copy()
    targets[4, 0] = label
    return targets


ERRORS = [
    # arguments that differ from a good call, what is said after torch's words
    ({"input_lengths": INPUT_LENGTHS[:2]}, "time first"),
    ({"target_lengths": TARGET_LENGTHS[:2]}, "one length for each of 6"),
    ({"input_lengths": INPUT_LENGTHS + 1}, "9 frames"),
    ({"input_lengths": -INPUT_LENGTHS}, "9 frames"),
    ({"target_lengths": TARGET_LENGTHS + 1}, "without its padding"),
    ({"target_lengths": TARGET_LENGTHS - 1}, "Count labels"),
    ({"targets": TARGETS[0]}, "end to end, without padding"),
    ({"targets": TARGETS[:2]}, r"\[N, S\], the sequences first"),
    ({"targets": TARGETS[None]}, "end to end in a vector"),
    ({"log_probs": LOGITS[:0]}, r"\[0, 6, 5\]"),
    ({"input_lengths": INPUT_LENGTHS * 1.0}, "vector of integers"),
    ({"blank": 5}, "0 to 4, not 5"),
    ({"blank": -1}, "0 to 4, not -1"),
    ({"reduction": "avg"}, "'none', 'mean', 'sum'"),
]


@pytest.mark.torch
@pytest.mark.parametrize(("wrong", "remedy"), ERRORS)
def test_errors_begin_with_the_words_of_torch_and_go_on_with_a_remedy(wrong, remedy, torch):
    arguments = GOOD | wrong
    tensors = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        torch.nn.functional.ctc_loss(**tensors)
    with pytest.raises(theirs.type, match=remedy) as mine:
        ctc_loss(**arguments)
    assert str(mine.value).startswith(str(theirs.value).split(" (while checking")[0])


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        (with_label(0), ValueError, r"cannot be blank \(0\).*count padding"),
        (with_label(5), ValueError, "Target 5 is out of bounds"),
        (with_label(-1), ValueError, "Target -1 is out of bounds"),
        (TARGETS * 1.0, TypeError, "expected integer labels, got float64"),
    ],
)
def test_labels_that_torch_reads_as_something_else_are_refused(targets, error, text):
    with pytest.raises(error, match=text):
        ctc_loss(LOGITS, targets, INPUT_LENGTHS, TARGET_LENGTHS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("targets", with_label(0)),
        ("targets", with_label(5)),
        ("targets", with_label(-1)),
        ("input_lengths", INPUT_LENGTHS + 10 * (np.arange(ROWS) == 4)),
        ("input_lengths", INPUT_LENGTHS - 10 * (np.arange(ROWS) == 4)),
        ("target_lengths", TARGET_LENGTHS + 10 * (np.arange(ROWS) == 4)),
        ("target_lengths", TARGET_LENGTHS - 10 * (np.arange(ROWS) == 4)),
    ],
)
def test_what_raises_when_known_is_nan_in_value_and_gradient_when_traced(name, value):
    loss, gradient = both(GOOD | {name: value})
    wrong = np.arange(ROWS) == 4
    np.testing.assert_array_equal(np.isnan(loss), wrong)
    np.testing.assert_array_equal(np.isnan(gradient).any((0, 2)), wrong)
