"""Checkpoints: what is saved comes back bit for bit, on these devices and on others, and what is refused."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx

from jaxrnn.train import Checkpoints, Epochs, fit
from tests.jaxrnn.training import (
    Net,
    assert_same_bits,
    carried_error,
    first_carry,
    linear,
    shuffled,
    squared_error,
    state_of,
    validation_error,
    with_optimizer,
    without_seconds,
)


class Counting:
    """An iterator over batches that can say where it is, as grain's do; `read` are those it has handed out."""

    def __init__(self, batches=(), read=None):
        self.batches, self.read, self.next = list(batches), [] if read is None else read, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next == len(self.batches):
            raise StopIteration
        self.read.append(self.next)
        self.next += 1
        return self.batches[self.next - 1]

    def get_state(self):
        return {"next_index": self.next}

    def set_state(self, state):
        self.next = state["next_index"]


def drawn(seed):
    """A run with parts of all kinds, all of whose numbers depend on the seed."""
    model, optimizer = with_optimizer(Net(seed))
    gradients = jax.tree.map(lambda p: jnp.full_like(p, seed + 1), nnx.state(model, nnx.Param))
    optimizer.update(model, gradients)
    data = Counting(range(9))
    data.next = seed
    carry = {"h": jnp.full(3, seed, jnp.bfloat16), "key": jax.random.key(seed), "host": np.arange(4) * seed}
    return {"model": model, "optimizer": optimizer, "rngs": nnx.Rngs(seed), "carry": carry, "data": data}


def numbers(run):
    carry = {**run["carry"], "key": jax.random.key_data(run["carry"]["key"])}
    return [
        *state_of(run["model"], run["optimizer"], run["rngs"]),
        *map(np.asarray, jax.tree.leaves(carry)),
        np.asarray(run["data"].next),
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved")
    with Checkpoints(path) as checkpoints:
        assert checkpoints.save(7, drawn(3), {"losses": [0.1, 0.2]})
    return path


# What comes back


def test_every_kind_of_part_comes_back_bit_for_bit(saved):
    given = drawn(5)
    before = dict(given)
    step, run, facts = Checkpoints(saved).restore(given)
    assert (step, facts) == (7, {"losses": [0.1, 0.2]})
    assert_same_bits(numbers(run), numbers(drawn(3)))
    assert all(run[name] is before[name] for name in ("model", "optimizer", "rngs", "data"))
    assert isinstance(run["carry"]["host"], np.ndarray)
    assert run["carry"]["key"].dtype == given["carry"]["key"].dtype
    # An array that JAX may place where it likes is not tied to a device by having been on the disk.
    assert not run["carry"]["h"].committed


def test_a_run_without_checkpoints_starts_at_step_zero_as_it_is(tmp_path):
    given = drawn(5)
    step, run, facts = Checkpoints(tmp_path / "new").resume(given)
    assert (step, facts) == (0, {})
    assert_same_bits(numbers(run), numbers(drawn(5)))
    assert not (tmp_path / "new").exists()


def test_a_model_is_read_alone_beside_a_run_that_is_writing(saved):
    unfinished = saved / "8.orbax-checkpoint-tmp"
    unfinished.mkdir(exist_ok=True)
    before = sorted(path.name for path in saved.rglob("*"))
    model = Net(5)
    Checkpoints(saved).restore({"model": model})
    assert_same_bits(state_of(model), state_of(drawn(3)["model"]))
    assert sorted(path.name for path in saved.rglob("*")) == before


def test_every_and_keep_say_which_steps_are_there(tmp_path):
    with Checkpoints(tmp_path, every=3, keep=2) as checkpoints:
        due = [checkpoints.save(step, {"carry": jnp.asarray(step)}) for step in range(1, 12)]
        assert [step for step, each in enumerate(due, 1) if each] == [3, 6, 9]
        assert checkpoints.steps == (6, 9)
        assert checkpoints.save(11, {"carry": jnp.asarray(11)}, force=True)
        assert checkpoints.steps == (9, 11)
        assert int(checkpoints.restore({"carry": jnp.asarray(0)}, step=9).run["carry"]) == 9
        assert int(checkpoints.restore({"carry": jnp.asarray(0)}).run["carry"]) == 11


def test_what_happens_after_save_has_returned_is_not_in_the_checkpoint(tmp_path):
    spoil = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    run = {"carry": jnp.arange(1_000_000.0), "host": np.arange(1_000_000.0), "data": Counting(range(9))}
    facts = {"losses": [1.0]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, run, facts)
        jax.block_until_ready(spoil(run["carry"]))
        run["host"][:] = -1
        next(run["data"])
        facts["losses"].append(2.0)
        like = {"carry": jnp.zeros(1_000_000), "host": np.zeros(1_000_000), "data": Counting(range(9))}
        _, again, facts = checkpoints.restore(like)
    np.testing.assert_array_equal(again["carry"], np.arange(1_000_000.0, dtype=np.float32))
    np.testing.assert_array_equal(again["host"], np.arange(1_000_000.0))
    assert (again["data"].next, facts) == (0, {"losses": [1.0]})


def test_saving_does_not_wait_for_the_disk_and_nothing_half_written_has_the_name_of_a_checkpoint(
    tmp_path, monkeypatch
):
    released = threading.Event()
    write = orbax.checkpoint.handlers.JsonCheckpointHandler._save_fn

    async def slow(self, item, directory):
        assert await asyncio.to_thread(released.wait, 60)
        await write(self, item, directory)

    monkeypatch.setattr(orbax.checkpoint.handlers.JsonCheckpointHandler, "_save_fn", slow)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, drawn(3))
        assert not (tmp_path / "1").exists()
        assert Checkpoints(tmp_path).steps == ()
        released.set()
    assert Checkpoints(tmp_path).steps == (1,)


# What is refused


def test_a_directory_without_the_checkpoint_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing: expected a checkpoint, found none"):
        Checkpoints(tmp_path / "missing").restore(drawn(0))
    with pytest.raises(FileNotFoundError, match="expected a checkpoint, found none"):
        Checkpoints(tmp_path).restore(drawn(0))
    with pytest.raises(
        FileNotFoundError, match=r"expected a checkpoint of step 6, found only those of \[7\]"
    ):
        Checkpoints(saved).restore(drawn(0), step=6)


def test_a_checkpoint_of_another_architecture_changes_nothing(saved):
    run = drawn(5)
    run["model"] = Net(5, hidden=6)
    before = numbers(run)
    with pytest.raises(
        ValueError, match=r"of another run. model.first.bias: float32\[4\], expected float32\[6\]"
    ):
        Checkpoints(saved).restore(run)
    with pytest.raises(ValueError, match="other: missing, expected int32"):
        Checkpoints(saved).restore({**run, "model": Net(5), "other": jnp.asarray(1)})
    with pytest.raises(ValueError, match=r"holds no position of 'validation', only \['data'\]"):
        Checkpoints(saved).restore({"model": Net(5), "validation": Counting()})
    assert_same_bits(numbers(run), before)


def changed(saved, tmp_path, change):
    """A copy of the checkpoint with other facts."""
    path = shutil.copytree(saved, tmp_path / "copy")
    file = path / "7" / "facts" / "metadata"
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    return path


def test_a_newer_format_is_refused(saved, tmp_path):
    path = changed(saved, tmp_path, lambda facts: facts.update(format=2))
    with pytest.raises(ValueError, match="is in format 2, and this version of jaxrnn reads formats up to 1"):
        Checkpoints(path).restore(drawn(0))


def test_what_another_program_saved_is_refused(saved, tmp_path):
    path = changed(saved, tmp_path, lambda facts: facts.pop("format"))
    with pytest.raises(ValueError, match=r"step 7 is not a checkpoint that jaxrnn\.train\.Checkpoints wrote"):
        Checkpoints(path).restore(drawn(0))


def test_a_new_run_does_not_mix_with_an_old_one(saved):
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(ValueError, match="holds step 7 already, and step 1 was"),
    ):
        checkpoints.save(1, drawn(0))


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(TypeError, match=r"carry\.steps: expected an array, got int"):
            checkpoints.save(1, {"carry": {"steps": 3}})
        with pytest.raises(TypeError, match="JSON"):
            checkpoints.save(1, {"carry": jnp.zeros(2)}, {"loss": jnp.zeros(2)})
        with pytest.raises(ValueError, match="no part of it holds an array"):
            checkpoints.save(1, {"data": Counting()})
        with pytest.raises(ValueError, match=r"'my.model' should be a name without dots"):
            checkpoints.save(1, {"my.model": Net()})
        with pytest.raises(ValueError, match="every=0"):
            Checkpoints(tmp_path, every=0)
    assert not [*tmp_path.glob("run/*")]


def test_saving_needs_the_block_that_waits_for_it(tmp_path):
    with pytest.raises(RuntimeError, match="write `with Checkpoints"):
        Checkpoints(tmp_path).save(1, drawn(0))


def test_a_save_that_fails_is_heard_of_and_leaves_the_one_before(tmp_path, monkeypatch):
    async def full(self, item, directory):
        raise OSError("no space left")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, drawn(3))
        checkpoints.wait()
        monkeypatch.setattr(orbax.checkpoint.handlers.JsonCheckpointHandler, "_save_fn", full)
        checkpoints.save(2, drawn(4))
        with pytest.raises(OSError, match="no space left"):
            checkpoints.wait()
    monkeypatch.undo()
    _, run, _ = Checkpoints(tmp_path).resume(drawn(5))
    assert_same_bits(numbers(run), numbers(drawn(3)))


# Positions of several processes


@pytest.mark.parametrize("other", [{"data": {"next_index": 3}}, {"data": {"next_index": 4}}])
def test_another_number_of_processes_needs_one_position(other, saved, tmp_path):
    path = changed(saved, tmp_path, lambda facts: None)
    (path / "7" / "positions" / "process_1.json").write_text(json.dumps(other))
    if other["data"]["next_index"] == 3:
        assert Checkpoints(path).restore({"data": Counting()}).run["data"].next == 3
    else:
        with pytest.raises(ValueError, match="its 2 processes were at different positions in the data"):
            Checkpoints(path).restore({"data": Counting()})


# fit


class Interruption(Exception):
    pass


@pytest.mark.parametrize(("counted", "at"), [(True, (0, 2)), (True, (1, 1)), (True, (2, 2)), (False, (2, 2))])
def test_a_run_interrupted_within_an_epoch_goes_on_with_the_very_next_batch(counted, at, tmp_path):
    options = {"carry": first_carry(), "validate": validation_error}
    whole = with_optimizer(Net())
    expected = fit(*whole, carried_error, shuffled, epochs=4, progress=False, **options)

    def interrupted(epoch):
        for step, batch in enumerate(shuffled(epoch)):
            if (epoch, step) == at:
                raise Interruption
            yield batch

    class Interrupted(Counting):
        def __next__(self):
            batch = super().__next__()
            if (self.epoch, self.next - 1) == at:
                raise Interruption
            return batch

    def first(epoch):
        if not counted:
            return interrupted(epoch)
        batches = Interrupted(shuffled(epoch))
        batches.epoch = epoch
        return batches

    saving = {"epochs": 4, "checkpoint": tmp_path, "checkpoint_every": 2, "progress": False, **options}
    with pytest.raises(Interruption):
        fit(*with_optimizer(Net()), carried_error, first, **saving)
    read = {epoch: [] for epoch in range(4)}

    def second(epoch):
        return Counting(shuffled(epoch), read[epoch]) if counted else shuffled(epoch)

    resumed = with_optimizer(Net(9))
    history = fit(*resumed, carried_error, second, **saving)
    assert without_seconds(history) == without_seconds(expected)
    assert_same_bits(state_of(*resumed), state_of(*whole))
    # Every second step is saved, and every epoch's end.
    steps = 3 * at[0] + at[1]
    kept = max(n for n in range(steps + 1) if n % 2 == 0 or n % 3 == 0)
    if counted:
        assert [batch for epoch in range(4) for batch in read[epoch]] == [n % 3 for n in range(kept, 12)]


def test_checkpoints_within_epochs_need_a_directory_and_a_number():
    side = with_optimizer(linear())
    with pytest.raises(ValueError, match="checkpoint_every=2: expected at least 1 step, and a directory"):
        Epochs(*side, squared_error, shuffled, epochs=1, checkpoint_every=2)


# Killed, and resumed on other devices


def ran(*arguments):
    command = [sys.executable, "-m", "tests.jaxrnn.checkpointed_run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_resumes_on_the_same_devices_and_on_fewer(tmp_path):
    killed = ran("killed", tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    resumed = ran("resumed", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    found = json.loads(resumed.stdout.splitlines()[-1])
    whole = found["whole"]
    assert found["last step before the kill"] in (3, 4)  # of 6; 4 was being written
    assert found["resumed on 4"] == whole
    for devices in (2, 1):
        fewer = found[f"resumed on {devices}"]
        # Sums over 8 lanes in another order: some roundings of 6e-8, of numbers near 1, and what two steps of Adam
        # at a rate of 0.01 make of them where a gradient is near 0.
        np.testing.assert_allclose(fewer["losses"], whole["losses"], rtol=1e-6)
        for a, b in zip(fewer["weights"], whole["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
