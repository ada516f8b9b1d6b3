"""fit and Epochs: the loop itself, early stopping, carry, checkpoints and exact resume."""

import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

import jaxrnn.train
from jaxrnn.data import batches
from jaxrnn.train import Epochs, fit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3)).astype(np.float32)
Y = (X @ RNG.standard_normal((3, 2)) + 0.1 * RNG.standard_normal((24, 2))).astype(np.float32)


class Net(nnx.Module):
    """All kinds of state: parameters, batch statistics, random streams."""

    def __init__(self, seed=0, hidden=4):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(3, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(hidden, 2, rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](self.dropout(nnx.tanh(self.norm(self.first(x)))))


def linear(seed=0):
    return nnx.Linear(3, 2, rngs=nnx.Rngs(seed))


def squared_error(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def carried_error(model, batch, carry):
    """A loss with memory: the carry depends on the parameters and enters the next loss."""
    x, y = batch
    prediction = model(x)
    return jnp.mean((prediction + carry["mean"] - y) ** 2), {
        "mean": 0.5 * (carry["mean"] + prediction.mean(axis=0)),
        "key": jax.random.split(carry["key"])[0],
    }


def first_carry():
    return {"mean": jnp.zeros(2), "key": jax.random.key(7)}


def shuffled(epoch):
    return batches((X, Y), 8, shuffle_seed=3, epoch=epoch)


def validation_error(model):
    return squared_error(model, (X, Y))


def with_optimizer(model, transformation=None):
    return model, nnx.Optimizer(model, transformation or optax.adam(1e-2), wrt=nnx.Param)


def state_of(*nodes):
    """Every array of the modules and optimizers, keys as integers."""
    leaves = jax.tree.leaves([nnx.to_pure_dict(nnx.state(node)) for node in nodes])
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(x) if key else x) for x, key in zip(leaves, keys, strict=True)]


def assert_same_bits(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def without_seconds(history):
    return history._replace(seconds=())


# The loop


def test_fit_does_what_the_loop_written_out_does():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = {"kernel": np.asarray(model.kernel[...]), "bias": np.asarray(model.bias[...])}
    history = fit(*with_optimizer(model, optax.sgd(0.1)), squared_error, shuffled, epochs=3, progress=False)
    losses = []
    for epoch in range(3):
        losses.append([])
        for x, y in shuffled(epoch):
            error = x @ params["kernel"] + params["bias"] - y
            losses[-1].append(np.mean(error**2))
            params["kernel"] = params["kernel"] - 0.1 * x.T @ error / len(x)  # 2 error / (8 rows x 2 outputs)
            params["bias"] = params["bias"] - 0.1 * error.mean(axis=0)
    # 9 float32 steps of sums over 8 rows in another order: some 100 roundings of 6e-8.
    np.testing.assert_allclose(history.train_loss, np.mean(losses, axis=1), rtol=6e-6)
    np.testing.assert_allclose(model.kernel[...], params["kernel"], rtol=6e-6, atol=6e-6)
    np.testing.assert_allclose(model.bias[...], params["bias"], rtol=6e-6, atol=6e-6)
    assert history.validation_loss == ()
    assert history.best_epoch is None
    assert not history.stopped_early
    assert len(history.seconds) == 3


def test_the_step_is_compiled_once():
    traced = []

    def loss(model, batch, carry):
        traced.append(batch[0].shape)
        return squared_error(model, batch) + carry["weight"], {"steps": carry["steps"] + 1, "weight": 0.0}

    carry = {"steps": 0, "weight": 0.5}
    run = Epochs(*with_optimizer(Net()), loss, shuffled, epochs=3, carry=carry, validate=validation_error)
    assert len(list(run)) == 3
    assert traced == [(8, 3)]
    assert int(run.carry["steps"]) == 9


def test_only_what_the_optimizer_holds_is_trained():
    model = Net()
    before = state_of(model.layers[0])
    kernel = nnx.PathContains("first")
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.All(nnx.Param, kernel))
    first = np.asarray(model.first.kernel[...])
    fit(model, optimizer, squared_error, shuffled, epochs=1, progress=False)
    assert_same_bits(state_of(model.layers[0]), before)
    assert np.all(np.asarray(model.first.kernel[...]) != first)


def test_two_runs_go_in_lock_step():
    sides = [with_optimizer(Net(seed)) for seed in (0, 0)]
    runs = [Epochs(*side, squared_error, shuffled, epochs=3) for side in sides]
    seen = 0
    for left, right in zip(*runs, strict=True):
        assert (left.epoch, left.loss) == (right.epoch, right.loss) == (seen, left.loss)
        assert_same_bits(state_of(*sides[0]), state_of(*sides[1]))
        seen += 1
    assert seen == 3


# Carry


def test_the_carry_goes_from_batch_to_batch_and_epoch_to_epoch_without_gradient():
    w, carry, losses = np.float32(0.5), np.float32(1.0), []
    for x in [1.0, 2.0, 1.0, 2.0]:  # loss = w x + w carry; carry' = 3 w
        losses.append(w * x + w * carry)
        w, carry = w - np.float32(0.1) * (np.float32(x) + carry), 3 * w

    class Scale(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.asarray(0.5))

    def loss(model, x, carry):
        return model.w[...] * x + model.w[...] * carry, 3 * model.w[...]

    model, optimizer = with_optimizer(Scale(), optax.sgd(0.1))
    run = Epochs(model, optimizer, loss, lambda epoch: [1.0, 2.0], epochs=2, carry=1.0)
    epochs = list(run)
    # Ten float32 operations.
    np.testing.assert_allclose([e.loss for e in epochs], np.reshape(losses, (2, 2)).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(model.w[...], w, rtol=1e-6)
    np.testing.assert_allclose(run.carry, carry, rtol=1e-6)


def test_a_carry_that_changes_is_refused():
    side = with_optimizer(linear())
    with pytest.raises(ValueError, match=r"state: float32\[4\], expected float32\[3\]"):
        fit(
            *side,
            lambda m, b, c: (squared_error(m, b), {"state": jnp.zeros(4)}),
            shuffled,
            epochs=1,
            carry={"state": jnp.zeros(3)},
            progress=False,
        )
    with pytest.raises(TypeError, match="with a carry, expected"):
        fit(*side, lambda m, b, c: squared_error(m, b), shuffled, epochs=1, carry=0.0, progress=False)


# Validation


def test_validation_is_in_eval_mode_and_training_is_not():
    modes = []

    def validate(model):
        modes.append((model.dropout.deterministic, model.norm.use_running_average))
        return validation_error(model)

    model, optimizer = with_optimizer(Net())
    model.norm.eval()  # frozen statistics: the caller's choice stays
    fit(model, optimizer, squared_error, shuffled, epochs=2, validate=validate, progress=False)
    assert modes == [(True, True), (True, True)]
    assert (model.dropout.deterministic, model.norm.use_running_average) == (False, True)


def scripted(values):
    """Validation that gives these values, whatever the model."""
    values = iter(values)
    return lambda model: next(values)


def test_the_best_parameters_are_put_back():
    states = []
    script = scripted([5.0, 3.0, 4.0, 3.5])

    def validate(model):
        states.append(state_of(model.first, model.norm, model.layers[0]))
        return script(model)

    model, optimizer = with_optimizer(Net())
    history = fit(model, optimizer, squared_error, shuffled, epochs=4, validate=validate, progress=False)
    assert history.validation_loss == (5.0, 3.0, 4.0, 3.5)
    assert history.best_epoch == 1
    assert not history.stopped_early
    assert_same_bits(state_of(model.first, model.norm, model.layers[0]), states[1])
    assert not np.array_equal(states[1][1], states[3][1])
    # Random streams are not wound back: 4 epochs of 3 batches drew 12 masks.
    assert int(model.dropout.rngs.count[...]) == 12


@pytest.mark.parametrize(
    ("options", "epochs", "best"),
    [
        ({"patience": 1}, 3, 1),
        ({"patience": 2}, 4, 1),
        ({"patience": 3}, 6, 4),
        ({"patience": 2, "min_delta": 2.5}, 3, 0),
        ({"patience": 4, "min_delta": 2.5}, 6, 4),
    ],
)
def test_patience_ends_the_run(options, epochs, best):
    validate = scripted([5.0, 3.0, 4.0, 3.0, 2.0, 2.0])
    side = with_optimizer(linear())
    history = fit(*side, squared_error, shuffled, epochs=6, validate=validate, progress=False, **options)
    assert (len(history.train_loss), history.best_epoch) == (epochs, best)
    assert history.stopped_early == (epochs < 6)


# Losses that are not numbers


def test_a_nan_loss_stops_and_leaves_the_checkpoint_as_it_was(tmp_path):
    def spoiled(epoch):
        for step, (x, y) in enumerate(shuffled(epoch)):
            yield x, np.where((epoch, step) == (2, 1), np.nan, y).astype(np.float32)

    model, optimizer = with_optimizer(linear())
    run = Epochs(model, optimizer, squared_error, spoiled, epochs=5, checkpoint=tmp_path)
    states = []
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 1: the loss is nan.*state after epoch 1"):
        states.extend(state_of(model, optimizer) for _ in run)
    resumed = with_optimizer(linear(9))
    assert (
        len(Epochs(*resumed, squared_error, shuffled, epochs=5, checkpoint=tmp_path).history.train_loss) == 2
    )
    assert_same_bits(state_of(*resumed), states[1])


def test_an_infinite_last_loss_and_a_nan_validation_stop():
    side = with_optimizer(linear())
    endless = [(X, Y), (X, np.full_like(Y, np.inf))]
    with pytest.raises(FloatingPointError, match="epoch 0, step 1: the loss is inf"):
        fit(*side, squared_error, lambda epoch: endless, epochs=1, progress=False)
    side = with_optimizer(linear())
    with pytest.raises(FloatingPointError, match=r"epoch 0: validate\(model\) is nan"):
        fit(*side, squared_error, shuffled, epochs=1, validate=lambda m: np.nan, progress=False)


# Checkpoints


class Interruption(Exception):
    pass


def interrupted(epoch, at):
    for step, batch in enumerate(shuffled(epoch)):
        if (epoch, step) == at:
            raise Interruption
        yield batch


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    path = tmp_path_factory.mktemp("one_epoch")
    fit(*with_optimizer(Net()), squared_error, shuffled, epochs=1, checkpoint=path, progress=False)
    return path


@pytest.fixture
def after_one_epoch(one_epoch, tmp_path):
    """Checkpoint of one epoch, the test's own copy."""
    return shutil.copytree(one_epoch, tmp_path / "run")


OPTIONS = {
    "plain": (squared_error, {}),
    "carried and validated": (carried_error, {"carry": first_carry(), "validate": validation_error}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_run_goes_on_bit_for_bit(name, tmp_path):
    loss, options = OPTIONS[name]
    whole = with_optimizer(Net())
    uninterrupted = Epochs(*whole, loss, shuffled, epochs=5, **options)
    list(uninterrupted)

    fit_ = partial(fit, epochs=5, checkpoint=tmp_path / "run", progress=False, **options)
    with pytest.raises(Interruption):
        fit_(*with_optimizer(Net()), loss, partial(interrupted, at=(2, 1)))
    # A new process would build everything anew; other seeds show that all of it is restored.
    resumed = with_optimizer(Net(seed=9))
    seen = []
    if "carry" in options:
        fit_ = partial(fit_, carry={"mean": jnp.ones(2), "key": jax.random.key(99)})
    history = fit_(*resumed, loss, lambda epoch: [seen.append(epoch), *shuffled(epoch)][1:])
    assert seen == [2, 3, 4]
    assert without_seconds(history) == without_seconds(uninterrupted.history)
    assert_same_bits(state_of(*resumed), state_of(*whole))


def test_lost_random_streams_would_show_in_the_resumed_run(after_one_epoch):
    """The test above can fail: the masks decide the losses."""
    expected = fit(*with_optimizer(Net()), squared_error, shuffled, epochs=2, progress=False).train_loss
    model, optimizer = with_optimizer(Net())
    resumed = Epochs(model, optimizer, squared_error, shuffled, epochs=2, checkpoint=after_one_epoch)
    assert resumed.history.train_loss == expected[:1]
    nnx.update(model, nnx.state(Net(), nnx.RngState))
    assert next(iter(resumed)).loss != expected[1]


def test_the_carry_is_restored(tmp_path):
    run = partial(Epochs, loss=carried_error, batches=shuffled, epochs=2, checkpoint=tmp_path)
    first = run(*with_optimizer(linear()), carry=first_carry())
    list(first)
    again = run(*with_optimizer(linear(1)), carry={"mean": jnp.ones(2), "key": jax.random.key(99)})
    np.testing.assert_array_equal(again.carry["mean"], first.carry["mean"])
    assert again.carry["key"].dtype == first.carry["key"].dtype
    assert jnp.all(again.carry["key"] == first.carry["key"])


def test_a_finished_run_is_not_run_again_and_can_be_prolonged(tmp_path):
    options = {"validate": validation_error, "progress": False}
    first = with_optimizer(linear())
    history = fit(*first, squared_error, shuffled, epochs=3, checkpoint=tmp_path, **options)
    again = with_optimizer(linear(9))
    assert (
        fit(*again, squared_error, lambda epoch: 1 / 0, epochs=3, checkpoint=tmp_path, **options) == history
    )
    assert_same_bits(state_of(again[0]), state_of(first[0]))

    longer = fit(
        *with_optimizer(linear(8)), squared_error, shuffled, epochs=5, checkpoint=tmp_path, **options
    )
    whole = fit(*with_optimizer(linear()), squared_error, shuffled, epochs=5, **options)
    assert without_seconds(longer) == without_seconds(whole)


def test_a_run_out_of_patience_stays_finished_and_keeps_the_best(tmp_path):
    def run(seed, values):
        side = with_optimizer(linear(seed))
        validate = scripted(values)
        history = fit(
            *side,
            squared_error,
            shuffled,
            epochs=9,
            validate=validate,
            patience=2,
            checkpoint=tmp_path,
            progress=False,
        )
        return side, history

    side, history = run(0, [3.0, 2.0, 4.0, 5.0])
    assert history.stopped_early
    again, same = run(9, [])
    assert same == history
    assert_same_bits(state_of(again[0]), state_of(side[0]))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (
            lambda: with_optimizer(Net(hidden=5)),
            {},
            r"model.first.bias: float32\[4\], expected float32\[5\]",
        ),
        (
            lambda: with_optimizer(Net(), optax.sgd(0.1)),
            {},
            r"optimizer.opt_state.0.count: int32\[\], expected nothing",
        ),
        (
            lambda: with_optimizer(Net(), optax.chain(optax.adam(0.1), optax.trace(0.9))),
            {},
            "optimizer.opt_state.*: missing, expected float32",
        ),
        (lambda: with_optimizer(Net()), {"carry": jnp.zeros(2)}, r"carry: missing, expected float32\[2\]"),
        (
            lambda: with_optimizer(Net()),
            {"validate": validation_error},
            "best.first.bias: missing, expected float32",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(build, options, message, after_one_epoch):
    loss = carried_error if "carry" in options else squared_error
    with pytest.raises(ValueError, match=f"checkpoint .* is of another run.*{message}"):
        Epochs(*build(), loss, shuffled, epochs=2, checkpoint=after_one_epoch, **options)


def test_what_a_killed_save_leaves_behind_is_ignored_and_removed(after_one_epoch):
    whole = with_optimizer(Net())
    history = fit(*whole, squared_error, shuffled, epochs=3, progress=False)
    # orbax writes beside the last checkpoint and renames at the end: this is a save that came half way.
    unfinished = after_one_epoch / "2.orbax-checkpoint-tmp"
    shutil.copytree(after_one_epoch / "1" / "arrays", unfinished / "arrays.orbax-checkpoint-tmp")
    (unfinished / "arrays.orbax-checkpoint-tmp" / "manifest.ocdbt").write_bytes(b"half")

    resumed = with_optimizer(Net(seed=9))
    run = Epochs(*resumed, squared_error, shuffled, epochs=3, checkpoint=after_one_epoch)
    assert len(run.history.train_loss) == 1
    list(run)
    assert without_seconds(run.history) == without_seconds(history)
    assert_same_bits(state_of(*resumed), state_of(*whole))
    assert [path.name for path in after_one_epoch.iterdir()] == ["3"]


KILLED = """
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("tests_of_train", sys.argv[1])
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    side = tests.with_optimizer(tests.Net(int(sys.argv[3])))
    options = dict(epochs=60, carry=tests.first_carry(), validate=tests.validation_error)
    run = tests.Epochs(*side, tests.carried_error, tests.shuffled, checkpoint=sys.argv[2], **options)
    for epoch in run:
        print(epoch.epoch, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    """SIGKILL at arbitrary moments, again and again, until the run is through."""
    options = {"carry": first_carry(), "validate": validation_error, "epochs": 60}
    whole = with_optimizer(Net())
    history = fit(*whole, carried_error, shuffled, progress=False, **options)

    command = [sys.executable, "-c", textwrap.dedent(KILLED), __file__, str(tmp_path / "run")]
    kills = [(1, 0.0), (2, 0.01), (1, 0.02), (2, 0.03), (3, 0.04)]  # after so many epochs and seconds
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for seed, (epochs, seconds) in enumerate(kills):
        with subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, env=environment) as process:
            for _ in range(epochs):
                process.stdout.readline()
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    resumed = with_optimizer(Net(seed=99))
    before = Epochs(*resumed, carried_error, shuffled, checkpoint=tmp_path / "run", **options)
    assert 0 < len(before.history.train_loss) < 60, "the kills came too early or too late to show anything"
    list(before)
    assert without_seconds(before.history) == without_seconds(history)
    assert_same_bits(state_of(*resumed), state_of(*whole))


# The rest


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    def shown(terminal, progress):
        screen = io.StringIO()
        console = partial(Console, file=screen, force_terminal=terminal, width=120)
        monkeypatch.setattr(jaxrnn.train, "Console", lambda stderr: console())
        side = with_optimizer(linear())
        options = {"validate": validation_error, "progress": progress}
        fit(*side, squared_error, shuffled, epochs=2, **options)
        return screen.getvalue()

    screen = shown(terminal=True, progress=True)
    assert "2/2" in screen
    assert "loss" in screen
    assert "validation" in screen
    assert shown(terminal=True, progress=False) == ""
    assert shown(terminal=False, progress=True) == ""
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"optimizer": optax.adam(1e-2)}, TypeError, "expected an nnx.Optimizer"),
        ({"batches": [(X, Y)]}, TypeError, "expected a function of the epoch, got list"),
        ({"batches": lambda epoch: []}, ValueError, r"epoch 0: batches\(0\) gave no batch"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"patience": 0, "validate": validation_error}, ValueError, "patience=0"),
        ({"min_delta": -1.0, "validate": validation_error}, ValueError, "min_delta=-1.0"),
        ({"patience": 3}, ValueError, "pass validate as well"),
        ({"min_delta": 0.1}, ValueError, "pass validate as well"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changed, error, message):
    model, optimizer = with_optimizer(linear())
    arguments = {
        "model": model,
        "optimizer": optimizer,
        "loss": squared_error,
        "batches": shuffled,
        "epochs": 1,
    }
    with pytest.raises(error, match=message):
        fit(**{**arguments, **changed}, progress=False)
