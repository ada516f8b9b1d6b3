"""Batches by grain: what each process gets, in which order, and that a resumed run gets the very next one."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from jaxrnn import pipeline
from jaxrnn.bucketing import plan_buckets
from jaxrnn.data import next_step, parallel_streams, sliding_windows
from jaxrnn.train import Checkpoints, fit
from tests.jaxrnn.training import (
    X,
    Y,
    assert_same_bits,
    linear,
    squared_error,
    state_of,
    with_optimizer,
    without_seconds,
)

grain = pytest.importorskip("grain")

ROWS = {"x": np.arange(23) * 10, "y": (np.arange(23), np.arange(46).reshape(23, 2))}
LENGTHS = np.random.default_rng(0).integers(1, 30, 41)
PLAN = plan_buckets(LENGTHS, 3, rows=4)
TEXT = np.random.default_rng(1).integers(0, 99, 101)


def shards(count):
    return [grain.sharding.ShardOptions(index, count) for index in range(count)]


def made(shard=None, seed=5):
    """A dataset of each kind, with 4 rows to a batch, as functions of who is asking."""
    return {
        "examples": pipeline.examples(ROWS, 4, shuffle_seed=seed, shard=shard),
        "lanes": pipeline.lanes(next_step(TEXT), 4, 3, shard=shard),
        "buckets": pipeline.buckets(PLAN, shuffle_seed=seed, shard=shard).map(
            lambda batch: (batch.examples, batch.lengths, np.full(len(batch.examples), batch.steps))
        ),
    }


def leaves(batch):
    return [batch["x"], *batch["y"]] if isinstance(batch, dict) else [*batch]


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert_same_bits(leaves(a), leaves(b))


# What is in a batch


def test_examples_are_taken_together_and_each_once_in_an_epoch():
    dataset = made()["examples"]
    assert len(dataset) == 5
    seen = []
    for batch in pipeline.stream(dataset, epoch=2):
        np.testing.assert_array_equal(batch["x"], batch["y"][0] * 10)
        np.testing.assert_array_equal(batch["y"][1], ROWS["y"][1][batch["y"][0]])
        seen += batch["y"][0].tolist()
    assert len(seen) == len(set(seen)) == 20  # 23 rows, of which 3 do not fill a batch
    assert seen != sorted(seen)
    in_order = pipeline.examples(ROWS, 4)
    np.testing.assert_array_equal(in_order[1]["x"], [40, 50, 60, 70])


def test_windows_of_a_file_are_read_when_they_are_due(tmp_path):
    series = np.random.default_rng(2).standard_normal((50, 2))
    file = np.memmap(tmp_path / "series", np.float64, "w+", shape=series.shape)
    file[:] = series
    dataset = pipeline.examples(sliding_windows(file, 6, copy=False), 3, shuffle_seed=0)
    taken = [row for batch in pipeline.stream(dataset, epoch=0) for row in zip(*batch, strict=True)]
    assert len(taken) == 45
    expected = {target.tobytes(): window for window, target in zip(*sliding_windows(series, 6), strict=True)}
    for window, target in taken:
        np.testing.assert_array_equal(window, expected[target.tobytes()])
        assert type(window) is np.ndarray


def test_lanes_are_parallel_streams():
    expected = zip(*(parallel_streams(part, 4, 3) for part in next_step(TEXT)), strict=True)
    assert_same_batches(pipeline.stream(made()["lanes"], epoch=1), expected)


def test_bucketed_batches_have_every_sequence_once_and_the_plans_shapes():
    batches = list(pipeline.stream(made()["buckets"], epoch=1))
    assert len(batches) == len(PLAN)
    examples = np.concatenate([batch[0] for batch in batches])
    assert sorted(examples[examples >= 0]) == list(range(41))
    assert {(len(batch[0]), batch[2][0]) for batch in batches} == set(PLAN.shapes)
    assert [batch[2][0] for batch in batches] != sorted(batch[2][0] for batch in batches)
    lengths = np.concatenate([batch[1] for batch in batches])
    np.testing.assert_array_equal(lengths, np.where(examples < 0, 0, LENGTHS[examples]))


# Orders


@pytest.mark.parametrize("kind", ["examples", "buckets"])
def test_the_order_depends_on_seed_and_epoch_alone(kind):
    def order(seed, epoch):
        batches = pipeline.stream(made(seed=seed)[kind], epoch)
        return tuple(np.concatenate([leaves(batch)[0] for batch in batches]).tolist())

    assert order(5, 1) == order(5, 1)
    assert len({order(seed, epoch) for seed in (5, 9) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("kind", made())
def test_the_endless_stream_is_one_epoch_after_the_other(kind):
    dataset = made()[kind]
    endless = iter(pipeline.stream(dataset))
    epochs = [batch for epoch in range(3) for batch in pipeline.stream(dataset, epoch)]
    assert_same_batches([next(endless) for _ in epochs], epochs)


# Processes


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("kind", made())
def test_the_parts_of_all_processes_are_the_batch_of_one(kind, count):
    """Disjoint and complete, and in the same order however many they are."""
    whole = list(pipeline.stream(made()[kind], epoch=1))
    parts = [list(pipeline.stream(made(shard)[kind], epoch=1)) for shard in shards(count)]
    for k, batch in enumerate(whole):
        shares = [leaves(part[k]) for part in parts]
        assert all(len(share[0]) == 4 // count for share in shares)
        assert_same_bits([np.concatenate(each) for each in zip(*shares, strict=True)], leaves(batch))


def test_rows_that_processes_cannot_share_are_refused():
    (shard,) = shards(3)[:1]
    with pytest.raises(ValueError, match="4 rows cannot be shared by 3 processes"):
        pipeline.examples(ROWS, 4, shard=shard)
    with pytest.raises(ValueError, match="4 rows cannot be shared by 3 processes"):
        pipeline.lanes(TEXT, 4, 3, shard=shard)
    with pytest.raises(ValueError, match="4 rows cannot be shared by 3 processes"):
        pipeline.buckets(PLAN, shard=shard)


# Resuming


@pytest.mark.parametrize("kind", made())
def test_a_resumed_stream_goes_on_with_the_very_next_batch(kind, tmp_path):
    expected = iter(pipeline.stream(made()[kind]))
    batches = [next(expected) for _ in range(12)]
    run = {"weights": np.zeros(2), "data": iter(pipeline.stream(made()[kind], prefetch=3))}
    with Checkpoints(tmp_path) as checkpoints:
        first = [next(run["data"]) for _ in range(5)]
        checkpoints.save(5, run)
        next(run["data"])  # lost with the process
    again = {"weights": np.ones(2), "data": iter(pipeline.stream(made()[kind]))}
    assert Checkpoints(tmp_path).resume(again).step == 5
    assert_same_batches(first + [next(again["data"]) for _ in range(7)], batches)


def test_fit_resumes_within_an_epoch_without_reading_what_it_has_had(tmp_path):
    class Interruption(Exception):
        pass

    read = []

    def batches(epoch, stop_at=None):
        def check(batch):
            read.append(epoch)
            if stop_at is not None and np.array_equal(batch[0], stop_at):
                raise Interruption
            return batch

        return pipeline.stream(pipeline.examples((X, Y), 4, shuffle_seed=3).map(check), epoch, prefetch=1)

    options = {"epochs": 3, "progress": False}
    whole = with_optimizer(linear())
    expected = fit(*whole, squared_error, batches, **options)
    fifth = list(batches(1))[4][0]
    options |= {"checkpoint": tmp_path, "checkpoint_every": 1}
    with pytest.raises(Interruption):
        fit(*with_optimizer(linear()), squared_error, lambda epoch: batches(epoch, fifth), **options)
    read.clear()
    resumed = with_optimizer(linear(9))
    assert without_seconds(fit(*resumed, squared_error, batches, **options)) == without_seconds(expected)
    assert_same_bits(state_of(*resumed), state_of(*whole))
    assert read.count(0) == 0
    assert read.count(1) <= 3  # the last two of six, and one that may have been read ahead


# What is refused


def test_without_grain_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxrnn\[data\]'"):
        pipeline.examples(ROWS, 4)


def test_arrays_that_make_no_batch_are_refused():
    with pytest.raises(ValueError, match=r"one length, got lengths \[3, 4\]"):
        pipeline.examples((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ValueError, match="batch_size=24: expected at least 1 and no more than the 23 rows"):
        pipeline.examples(ROWS, 24)
    with pytest.raises(ValueError, match="11 steps are too few for one batch of 3 x 4"):
        pipeline.lanes(np.zeros(11), 3, 4)
    with pytest.raises(ValueError, match="steps=0"):
        pipeline.lanes(np.zeros(11), 3, 0)
    with pytest.raises(ValueError, match="prefetch=0"):
        pipeline.stream(pipeline.examples(ROWS, 4), prefetch=0)


# Several processes


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_in_one_and_is_saved_before_it_is_preempted(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.jaxrnn.distributed_run", str(tmp_path / "run"), str(port)]
    pair = [
        subprocess.Popen(
            [*command, str(index), "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in said)
    done = subprocess.run([*command, "0", "1"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    one = json.loads(done.stdout.splitlines()[-1])

    # Four batches were trained on in two halves, the other two after them in one process, without reading the four.
    halves = [a + b for a, b in zip(first["rows"][:4], second["rows"][:4], strict=True)]
    assert halves == one["whole"]["rows"][:4]
    assert one["resumed"]["rows"] == one["whole"]["rows"][4:]
    # Sums of 16 rows over four devices in two processes or one: a few roundings of numbers near 1.
    np.testing.assert_allclose(one["resumed"]["losses"], one["whole"]["losses"], rtol=1e-6)
    np.testing.assert_allclose(one["resumed"]["weights"], one["whole"]["weights"], rtol=1e-6, atol=1e-6)

    # One of the two got SIGTERM at step 5; both saved the same step, and it is complete.
    step, saved = first["preempted"]
    assert second["preempted"] == [step, saved] == [step, [step]]
    assert 5 <= step < 99
