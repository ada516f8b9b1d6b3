"""One job: what must be right before it is timed, and what its record says."""

import dataclasses
import io
import json

import numpy as np
import pytest

from benchmarks import child, contenders, timing
from benchmarks.checking import WrongResultError, check, flaw
from benchmarks.contenders import PEERS, Peer, ours
from benchmarks.contenders.contender import UnsupportedError
from benchmarks.jobs import Job
from benchmarks.sizes import Size
from tests.benchmarks.common import TINY

RIGHT = {"output": np.ones((3, 2, 4)), "gradient of input": np.ones((3, 2, 2))}


@pytest.fixture
def quick(monkeypatch):
    """Short rounds, for tests that do not look at times."""
    monkeypatch.setattr(timing, "SHORTEST_ROUND", 0.0)
    monkeypatch.setattr(timing, "PAUSE", 0.0)


def without_torch(monkeypatch):
    monkeypatch.setattr(
        child, "_torch", lambda job, x: (None, None, "the plain scan, since the test says so")
    )


# What is right


@pytest.mark.parametrize("what", RIGHT)
@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_wrong_number_is_an_error_that_says_where_and_how_much(what, error):
    wrong = RIGHT | {what: RIGHT[what] + error}
    with pytest.raises(
        WrongResultError, match=rf"jaxrnn: the {what} is off by (0.01|nan).*Nothing was timed"
    ):
        check("jaxrnn", wrong, RIGHT, "lstm")


def test_a_missing_result_or_another_shape_is_an_error_too():
    with pytest.raises(WrongResultError, match="expected"):
        check("jaxrnn", {"output": RIGHT["output"]}, RIGHT, "lstm")
    with pytest.raises(WrongResultError, match="shape"):
        check("jaxrnn", RIGHT | {"output": np.ones((3, 2, 5))}, RIGHT, "lstm")


def test_rounding_is_no_error():
    check("jaxrnn", {name: value * (1 + 1e-6) for name, value in RIGHT.items()}, RIGHT, "lstm")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"output": np.ones((3, 2, 5))}, "shape"),
        ({"output": np.full((3, 2, 4), np.inf)}, "finite"),
        ({"w": np.zeros(3)}, "zero"),
    ],
)
def test_a_peer_is_judged_by_what_needs_no_weights(change, word):
    assert flaw(RIGHT, Job(TINY, "lstm")) is None
    assert word in flaw(RIGHT | change, Job(TINY, "lstm"))


@pytest.mark.parametrize("torchless", [False, True])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_a_wrong_layer_is_never_timed(mode, torchless, monkeypatch, tmp_path, request):
    if torchless:
        without_torch(monkeypatch)
    else:
        request.getfixturevalue("torch")
    build = ours.build

    def wrong(job, weights, **options):
        layer = build(job, weights, **options)
        if not options:  # the plain scan stays right
            layer.weight_hh_l0[...] = layer.weight_hh_l0[...] * 1.01
        return layer

    monkeypatch.setattr(ours, "build", wrong)
    monkeypatch.setattr(child, "measure", lambda *args, **kwargs: pytest.fail("timed"))
    job = Job(TINY, "gru", mode)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(job.to_json())))
    with pytest.raises(SystemExit, match="jaxrnn: the output is off by"):
        child.main([str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()


# The record


@pytest.mark.torch
@pytest.mark.parametrize(
    ("size", "kind", "mode"),
    [
        (TINY, "relu", "train"),
        (Size("", 1, 1, 2, 4, calls=5), "gru", "forward"),
        (Size("", 2, 3, 2, 4, 2, 2), "rnn", "forward"),
    ],
)
def test_jaxrnn_and_torch_are_measured_beside_each_other(size, kind, mode, quick, torch):
    record = child.run(Job(size, kind, mode, peers=("torch",), budget=0))
    names = {each["name"] for each in record["contenders"]}
    assert {"jaxrnn", "jaxrnn, nnx.jit", "plain scan", "torch"} <= names
    assert ("jaxrnn.ops" in names) == (size.layers == 1)
    assert ("torch, cell" in names) == (size.calls > 1)
    assert "jaxrnn: torch" in record["checked"]
    for each in record["contenders"]:
        assert len(each["seconds"]) == record["rounds"] >= 5
        assert each["min_ms"] <= each["median_ms"]
        low, high = each["ratio"][1:]
        assert low <= each["ratio"][0] <= high
    ours_again = next(each for each in record["contenders"] if each["name"] == "jaxrnn")
    assert ours_again["ratio"] == [1.0, 1.0, 1.0]
    assert ours_again["compile_seconds"] > 0
    assert json.loads(json.dumps(record)) == record


def test_what_torch_lacks_is_checked_against_the_plain_scan(quick):
    record = child.run(Job(TINY, "peephole", "forward", peers=("torch", "flax.linen"), budget=0))
    assert "jaxrnn: plain scan" in record["checked"]
    assert "no peephole" in record["skipped"]["flax.linen"]
    assert "torch" in record["skipped"]


def test_features_are_compared_with_the_plain_layer(quick):
    record = child.run(Job(TINY, "lstm", "forward", features=True, budget=0))
    names = [each["name"] for each in record["contenders"]]
    assert names == ["jaxrnn", "+ lengths", "+ resets", "+ lengths, resets", "+ projection"]
    assert record["ratio_is"] == "contender / jaxrnn"
    projected = record["contenders"][-1]["flops"]
    assert projected == Job(TINY, "lstm", "forward").flops(projected_features=2)


# Peers


def test_a_missing_peer_is_said_with_the_remedy_and_not_counted(monkeypatch, quick):
    without_torch(monkeypatch)
    monkeypatch.setitem(PEERS, "keras", dataclasses.replace(PEERS["keras"], needs="no_such_package"))
    record = child.run(Job(TINY, "rnn", "forward", peers=("keras",), budget=0))
    assert record["skipped"] == {"keras": "not installed: pip install 'jaxrnn[peers-keras]'"}
    assert all(each["name"].startswith(("jaxrnn", "plain")) for each in record["contenders"])


def test_a_peer_that_breaks_down_keeps_nobody_else_from_running(monkeypatch):
    monkeypatch.setitem(PEERS, "broken", Peer("no_such_module", "numpy", ""))
    ((name, reason),) = contenders.peers_of(Job(TINY, "gru", peers=("broken",)), np.zeros((3, 2, 2)))
    assert name == "broken"
    assert isinstance(reason, UnsupportedError)
    assert "failed: ModuleNotFoundError" in str(reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "kind", "mode"),
    [
        (TINY, "lstm", "train"),
        (Size("", 2, 3, 2, 4, 2, 2), "gru", "train"),
        (Size("", 2, 3, 2, 4, 2), "relu", "forward"),
        (Size("", 1, 1, 2, 4, calls=5), "lstm", "forward"),
    ],
)
def test_no_peer_that_is_installed_fails(size, kind, mode):
    from benchmarks import runs

    job = Job(size, kind, mode, peers=tuple(PEERS), budget=0)
    record = runs.spawn("benchmarks.child", json.dumps(job.to_json()), "default")
    assert [reason for reason in record["skipped"].values() if reason.startswith("failed")] == []
    assert any("nnx" in each["name"] for each in record["contenders"])
