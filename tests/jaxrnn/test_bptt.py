"""Long sequences: the loss in segments is the loss, its gradient the gradient, and truncation what it says."""

import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import losses
from tests.jaxrnn.common import draw, fill, mostly_slow, rms_error

T, B, I, H, VOCABULARY = 12, 3, 4, 5, 7
LENGTHS = jnp.array([T, 2, 9])
MARKS = jnp.zeros((T, B), bool).at[3, 0].set(True).at[8, 2].set(True)
SAME = 1e-12  # the same operations in another order, in float64


class ByteModel(nnx.Module):
    """Tokens in, logits out, with dropout between."""

    def __init__(self, make, *, batch_first=False, dropout=0.0):
        rngs = nnx.Rngs(0, dropout=1)
        self.embed = nnx.Embed(VOCABULARY, I, param_dtype=jnp.float64, rngs=rngs)
        options = {"batch_first": batch_first, "param_dtype": jnp.float64, "rngs": rngs}
        self.layer = make(I, H, 2, dropout=dropout, **options)
        self.head = nnx.Linear(H, VOCABULARY, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, tokens, state=None, **options):
        h, state = self.layer(self.embed(tokens), state, **options)
        return self.head(h), state


def cross_entropy(logits, targets):
    flat = losses.cross_entropy(logits.reshape(-1, VOCABULARY), targets.ravel(), reduction="none")
    return flat.reshape(targets.shape)


def tokens(seed=0, steps=T):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCABULARY, (steps, B)))


def start(model):
    shape = (2, B, H)
    states = tuple(jnp.asarray(draw(n, *shape)) for n in range(2))
    return states if isinstance(model.layer, jaxrnn.LSTM | jaxrnn.PeepholeLSTM) else states[0]


def gradients(model, value):
    """Return what `value(model)` returns, and its gradients."""
    (loss, state), found = nnx.value_and_grad(value, has_aux=True)(model)
    return {"loss": loss, "state": state, "gradients": nnx.to_pure_dict(found)}


def plain_loss(model, x, y, state, *, lengths=None, resets=None):
    options = {"lengths": lengths, "resets": resets}
    logits, state = model(x, state, **{n: o for n, o in options.items() if o is not None})
    each = cross_entropy(logits, y)
    if lengths is None:
        return each.mean(), state
    valid = jnp.arange(T)[:, None] < lengths
    return jnp.where(valid, each, 0).sum() / valid.sum(), state


def assert_close(ours, theirs, tolerance=SAME):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


LAYERS = [jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "options", [{}, {"lengths": LENGTHS, "resets": MARKS}], ids=["full", "ragged, resets"]
)
@pytest.mark.parametrize(
    ("make", "segments"),
    [(jaxrnn.LSTM, 5), (jaxrnn.LSTM, (8, 3))]
    + [pytest.param(jaxrnn.LSTM, segments, marks=pytest.mark.slow) for segments in (1, 4, 12, 50, None)]
    + [pytest.param(make, (6, 2), marks=pytest.mark.slow) for make in LAYERS],
)
def test_the_loss_in_segments_is_the_loss(make, options, segments):
    model = fill(ByteModel(make))
    x, y, state = tokens(0), tokens(1), start(model)

    def in_segments(model):
        return jaxrnn.scan_loss(model, cross_entropy, x, y, state, segments=segments, **options)

    ours = nnx.jit(partial(gradients, value=in_segments))(model)
    assert_close(ours, gradients(model, lambda model: plain_loss(model, x, y, state, **options)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("segments", mostly_slow([3, 5, 12, (6, 2)], fast=(5,)))
def test_without_a_state_the_model_begins_as_it_would(segments):
    model = fill(ByteModel(jaxrnn.LSTM))
    x, y = tokens(0), tokens(1)

    def in_segments(model):
        return jaxrnn.scan_loss(model, cross_entropy, x, y, segments=segments)

    assert_close(gradients(model, in_segments), gradients(model, lambda model: plain_loss(model, x, y, None)))


@pytest.mark.usefixtures("x64")
def test_time_may_be_the_second_axis():
    model = fill(ByteModel(jaxrnn.GRU, batch_first=True))
    x, y, state = tokens(0).T, tokens(1).T, start(model)
    options = {"lengths": LENGTHS, "resets": MARKS.T}
    ours, _ = jaxrnn.scan_loss(model, cross_entropy, x, y, state, segments=5, time_axis=1, **options)
    each = cross_entropy(model(x, state, **options)[0], y)
    valid = jnp.arange(T) < LENGTHS[:, None]
    assert_close(ours, jnp.where(valid, each, 0).sum() / valid.sum())


@pytest.mark.usefixtures("x64")
def test_sums_of_a_function_of_floats_have_gradients_of_inputs_and_states():
    layer = fill(jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0), param_dtype=jnp.float64))
    x, y = jnp.asarray(draw(0, T, B, I)), jnp.asarray(draw(1, T, B, H))
    state = tuple(jnp.asarray(draw(n, 1, B, H)) for n in (2, 3))

    def square(output, target):
        return jnp.square(output - target).sum()

    def ours(x, state):
        return jaxrnn.scan_loss(layer, square, x, y, state, segments=(6, 2), reduction="sum")[0]

    def theirs(x, state):
        return square(layer(x, state)[0], y)

    assert_close(*(jax.value_and_grad(f, argnums=(0, 1))(x, state) for f in (ours, theirs)))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_dropout_goes_on_from_segment_to_segment():
    """Each segment draws masks, the same ones again in the backward pass, and the module's stream moves on."""
    model = fill(ByteModel(jaxrnn.LSTM, dropout=0.5))
    x, y, state = tokens(0), tokens(1), start(model)

    def by_hand(model):
        total, here = 0.0, state
        for first in range(0, T, 4):
            loss, here = plain_loss(model, x[first : first + 4], y[first : first + 4], here)
            total += loss / 3
        return total, here

    twin = nnx.clone(model)
    ours = gradients(model, lambda m: jaxrnn.scan_loss(m, cross_entropy, x, y, state, segments=4))
    assert_close(ours, gradients(twin, by_hand))
    assert_close(nnx.state(model, nnx.RngCount), nnx.state(twin, nnx.RngCount))


def test_neither_outputs_nor_cotangents_are_kept():
    layer = jaxrnn.LSTM(8, 64, rngs=nnx.Rngs(0))
    structure, weights = nnx.split(layer)
    state = tuple(jnp.zeros((1, 4, 64)) for _ in range(2))

    def temporary(steps, segments):
        def loss(weights, x, y):
            square = lambda output, target: jnp.square(output - target[..., None])  # noqa: E731
            return jaxrnn.scan_loss(nnx.merge(structure, weights), square, x, y, state, segments=segments)[0]

        x, y = (jax.ShapeDtypeStruct((steps, 4, *rest), jnp.float32) for rest in ((8,), ()))
        return jax.jit(jax.grad(loss)).lower(weights, x, y).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary(2**12, 64), temporary(2**16, (4096, 64))
    assert long < 2 * short
    assert long < 4 * 2**16 * 4 * 64 / 20  # a twentieth of the outputs


@pytest.mark.slow
def test_a_million_steps_are_trained_within_two_gibibytes():
    command = [sys.executable, "-m", "benchmarks.long_run", "-", "jaxrnn", "1000000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak_bytes"] < 2 * 2**30
    assert found["losses"][0] > found["losses"][1] > found["losses"][2]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reduction": "none"}, "is not one of 'mean', 'sum'"),
        ({"segments": 0}, "positive number of steps"),
        ({"targets": jnp.zeros((T - 1, B), int)}, "the same number of steps"),
        ({"inputs": jnp.zeros((0, B), int), "targets": jnp.zeros((0, B), int)}, "at least one"),
        (
            {"loss": lambda a, b: cross_entropy(a, b).mean()},
            "loss returned one number for a segment, and reduction",
        ),
        ({"loss": lambda a, b: cross_entropy(a, b)[0], "lengths": LENGTHS}, "should begin with"),
        ({"time_axis": 2}, "all arrays should have a time axis, number 2"),
    ],
)
def test_what_has_no_meaning_is_refused(change, says):
    model = ByteModel(jaxrnn.GRU)
    given = {"loss": cross_entropy, "inputs": tokens(0), "targets": tokens(1)} | change
    loss, inputs, targets = (given.pop(name) for name in ("loss", "inputs", "targets"))
    with pytest.raises(ValueError, match=says):
        jaxrnn.scan_loss(model, loss, inputs, targets, **given)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("lengths", "error", "says"),
    [
        ([T + 1, 2, 3], ValueError, "13"),
        ([1.0, 2.0, 3.0], TypeError, "integers"),
        ([1, 2], RuntimeError, "batch_size"),
    ],
)
def test_lengths_are_checked_as_a_layer_checks_them(lengths, error, says):
    with pytest.raises(error, match=says):
        jaxrnn.scan_loss(
            ByteModel(jaxrnn.GRU), cross_entropy, tokens(0), tokens(1), segments=4, lengths=lengths
        )


# Truncated -------------------------------------------------------------------------------------------------


def trained(model, x, y, state, learning_rate=0.5, **windows):
    optimizer = nnx.Optimizer(model, optax.sgd(learning_rate), wrt=nnx.Param)
    state = jax.tree.map(jnp.copy, state)  # given up
    return jaxrnn.truncated_bptt(model, optimizer, cross_entropy, x, y, state, **windows)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("k1", "k2"),
    [(4, 8), (4, 2)]
    + [
        pytest.param(*one, marks=pytest.mark.slow)
        for one in ((4, 4), (3, 9), (2, 12), (6, 3), (12, 12), (4, 100))
    ],
)
def test_windows_are_what_a_loop_over_them_would_do(k1, k2):
    """Compared with a loop in Python: run, cut the gradient k2 steps back, update, go on."""
    resets = MARKS if k2 in (8, 2) else None
    model = fill(ByteModel(jaxrnn.LSTM))
    x, y, state = tokens(0), tokens(1), start(model)
    by_hand, parts = nnx.clone(model), min(-(-k2 // k1), T // k1)

    def options(first, last):
        return {} if resets is None else {"resets": resets[first:last]}

    def window_loss(model, first, last, entering):
        """Return the mean loss of the last k1 steps, and the states after the first part and after all."""
        early, here, each = None, entering, []
        part = min(k1, k2)
        for at in range(first, last, part):
            if k2 < k1:
                here = jax.lax.stop_gradient(here)
            logits, here = model(x[at : at + part], here, **options(at, at + part))
            each.append(cross_entropy(logits, y[at : at + part]))
            early = here if at == first else early
        each = jnp.concatenate(each if k2 < k1 else each[-1:])
        return each.mean(), (early if parts > 1 else here, here)

    entering, expected, optimizer = state, [], nnx.Optimizer(by_hand, optax.sgd(0.5), wrt=nnx.Param)
    for last in range(k1, T + 1, k1):
        first = max(last - parts * k1, 0)
        value_and_grad = nnx.value_and_grad(window_loss, has_aux=True)
        (loss, (early, final)), grads = value_and_grad(by_hand, first, last, entering)
        optimizer.update(by_hand, grads)
        expected.append(loss)
        entering = early if last - first == parts * k1 else entering
    found, after = trained(model, x, y, state, k1=k1, k2=k2, resets=resets)
    assert_close(found, jnp.stack(expected))
    assert_close(after, final)
    assert_close(nnx.state(model, nnx.Param), nnx.state(by_hand, nnx.Param))


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
def test_one_window_is_full_backpropagation():
    model = fill(ByteModel(jaxrnn.GRU))
    x, y, state = tokens(0), tokens(1), start(model)
    full = gradients(model, lambda model: plain_loss(model, x, y, state))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    found, after = trained(model, x, y, state, learning_rate=1.0, k1=T)
    assert_close((found[0], after), (full["loss"], full["state"]))
    moved = jax.tree.map(jnp.subtract, before, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert_close(moved, full["gradients"], 1e-10)  # a difference of weights


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_bias_is_nothing_where_nothing_is_cut_and_shrinks_with_k2():
    model = fill(ByteModel(jaxrnn.LSTM))
    x, y, state = tokens(0), tokens(1), start(model)

    def bias(k1, k2=None, **options):
        return jaxrnn.truncation_bias(model, cross_entropy, x, y, state, k1=k1, k2=k2, **options)

    for k1, k2 in ((T, T), (4, T), (3, 50)):
        assert bias(k1, k2).relative_error < 1e-10
        assert abs(bias(k1, k2).cosine - 1) < 1e-10
    errors = [bias(1, k2).relative_error for k2 in (1, 4, 12)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] > 0.01
    documents = jnp.zeros((T, B), bool).at[::4].set(True)
    assert bias(4, resets=documents).relative_error < 1e-10  # nothing crosses the bounds of documents anyway


@pytest.mark.usefixtures("x64")
def test_a_window_is_compiled_once_and_for_all():
    model = ByteModel(jaxrnn.GRU)
    optimizer = nnx.Optimizer(model, jaxrnn.optim.adam(1e-2), wrt=nnx.Param)
    state = jnp.zeros((2, B, H))
    calls = []

    def counted(logits, targets):
        calls.append(1)
        return cross_entropy(logits, targets)

    first = None
    for _ in range(20):
        found, state = jaxrnn.truncated_bptt(model, optimizer, counted, tokens(0), tokens(1), state, k1=4)
        first = found if first is None else first
    assert len(calls) <= 3
    assert found.shape == (3,)
    assert found.mean() < 0.9 * first.mean()  # and it learns


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("windows", "says"),
    [
        ({"k1": 5}, "k1=5 does not divide the 12 steps of the sequence. Train on the first 10"),
        ({"k1": 4, "k2": 6}, "should be a multiple of the other"),
        ({"k1": 0}, "k1 should be a positive number"),
        ({"k1": 4, "k2": True}, "k2 should be a positive number"),
    ],
)
def test_windows_that_do_not_fit_are_refused(windows, says):
    model = ByteModel(jaxrnn.GRU)
    with pytest.raises(ValueError, match=says):
        trained(model, tokens(0), tokens(1), start(model), **windows)
    with pytest.raises(ValueError, match=says):
        jaxrnn.truncation_bias(model, cross_entropy, tokens(0), tokens(1), start(model), **windows)
