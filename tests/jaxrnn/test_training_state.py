"""Checkpoints of a training run: an interrupted run goes on bit for bit, and what is refused."""

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

from jaxrnn.train import Epochs, fit
from tests.jaxrnn.training import (
    Net,
    assert_same_bits,
    carried_error,
    first_carry,
    linear,
    scripted,
    shuffled,
    squared_error,
    state_of,
    validation_error,
    with_optimizer,
    without_seconds,
)


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
    unfinished = after_one_epoch / "8.orbax-checkpoint-tmp"
    shutil.copytree(after_one_epoch / "4" / "arrays", unfinished / "arrays.orbax-checkpoint-tmp")
    (unfinished / "arrays.orbax-checkpoint-tmp" / "manifest.ocdbt").write_bytes(b"half")

    resumed = with_optimizer(Net(seed=9))
    run = Epochs(*resumed, squared_error, shuffled, epochs=3, checkpoint=after_one_epoch)
    assert len(run.history.train_loss) == 1
    list(run)
    assert without_seconds(run.history) == without_seconds(history)
    assert_same_bits(state_of(*resumed), state_of(*whole))
    assert [path.name for path in after_one_epoch.iterdir()] == ["12"]


KILLED = """
    import sys
    from jaxrnn.train import Epochs
    from tests.jaxrnn import training
    side = training.with_optimizer(training.Net(int(sys.argv[2])))
    options = dict(epochs=60, carry=training.first_carry(), validate=training.validation_error)
    run = Epochs(*side, training.carried_error, training.shuffled, checkpoint=sys.argv[1], **options)
    for epoch in run:
        print(epoch.epoch, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    """SIGKILL at arbitrary moments, again and again, until the run is through."""
    options = {"carry": first_carry(), "validate": validation_error, "epochs": 60}
    whole = with_optimizer(Net())
    history = fit(*whole, carried_error, shuffled, progress=False, **options)

    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run")]
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
