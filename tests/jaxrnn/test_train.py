"""fit and Epochs: the loop itself, early stopping, carry, and losses that are not numbers."""

import io
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

import jaxrnn.train
from jaxrnn.train import Epochs, fit
from tests.jaxrnn.training import (
    Net,
    X,
    Y,
    assert_same_bits,
    linear,
    scripted,
    shuffled,
    squared_error,
    state_of,
    validation_error,
    with_optimizer,
)

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


def test_a_model_may_make_a_variable_in_its_first_step():
    class Lazy(nnx.Module):
        def __init__(self):
            self.net, self.seen = linear(), nnx.data(None)

        def __call__(self, x):
            if self.seen is None:
                self.seen = nnx.BatchStat(jnp.zeros(()))
            self.seen[...] += len(x)
            return self.net(x)

    model = Lazy()
    fit(*with_optimizer(model, optax.sgd(0.1)), squared_error, shuffled, epochs=2, progress=False)
    assert model.seen[...] == 2 * len(X)
    plain = linear()
    fit(*with_optimizer(plain, optax.sgd(0.1)), squared_error, shuffled, epochs=2, progress=False)
    assert_same_bits(state_of(model.net), state_of(plain))


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
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 1: the loss is nan.*holds the state"):
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
