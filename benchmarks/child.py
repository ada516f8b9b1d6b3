"""One job in a fresh process: `python -m benchmarks.child OUT < job.json` writes its record to the file OUT."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checking import Results, WrongResultError, check, flaw
from benchmarks.contenders import features, ours, peers_of
from benchmarks.contenders.contender import Contender, UnsupportedError
from benchmarks.jobs import OURS, Job
from benchmarks.machine import peak_bytes
from benchmarks.timing import Rounds, measure, ratio


def run(job: Job) -> dict[str, Any]:
    """Check and time all contenders of a job; return the record."""
    x, skipped = job.inputs(), {}
    found, checked = _features(job, x) if job.features else _ours(job, x)
    for name, peer in [] if job.features else peers_of(job, x):
        reason = str(peer) if isinstance(peer, UnsupportedError) else flaw(peer.results(), job)
        if reason is not None:
            skipped[name] = reason
        elif isinstance(peer, Contender):
            found.append(peer)
    rounds = measure({each.name: each.run for each in found}, job.budget, seed=job.seed)
    return job.to_json() | {
        "flops": job.flops(),
        "traffic_bytes": job.traffic(),
        "checked": checked,
        "rounds": len(rounds.kept),
        "dropped": rounds.dropped,
        "noisy": rounds.noisy,
        "foreign": [_digits(each.foreign) for each in rounds.kept],
        "ratio_is": "contender / jaxrnn" if job.features else "jaxrnn / contender",
        "contenders": [_entry(each, rounds, job) for each in found],
        "skipped": skipped,
        "process_peak_bytes": peak_bytes(),
    }


def _ours(job: Job, x: np.ndarray) -> tuple[list[Contender], str]:
    """Return jaxrnn's contenders, and what they were checked against: torch, or else the plain scan."""
    weights, expected, against = _torch(job, x)
    found = list(ours.contenders(job, x, weights))
    if expected is None:
        expected = next(each for each in found if each.name == ours.PLAIN).results()
    for each in found:
        check(each.name, each.results(), expected, job.kind)
    return found, f"jaxrnn: {against}; peers: shape and finiteness, since their initial weights are their own"


def _torch(job: Job, x: np.ndarray) -> tuple[Mapping[str, np.ndarray] | None, Results | None, str]:
    """Return torch's weights and results; where there are none, what to compare with instead, and why."""
    if importlib.util.find_spec("torch") is None:
        return None, None, f"{ours.PLAIN}, since torch is not installed"
    from benchmarks.contenders import torch_nn

    try:
        return *torch_nn.expected(job, x), "torch"
    except UnsupportedError as reason:
        return None, None, f"{ours.PLAIN}, since {reason}"


def _features(job: Job, x: np.ndarray) -> tuple[list[Contender], str]:
    """Return jaxrnn's layer without and with its features, each checked against the plain scan."""
    found = []
    for layer, plain in features.contenders(job, x):
        check(layer.name, layer.results(), plain.results(), job.kind)
        found.append(layer)
    return found, f"each against the {ours.PLAIN}"


def _entry(contender: Contender, rounds: Rounds, job: Job) -> dict[str, Any]:
    seconds, base = rounds.seconds(contender.name), rounds.seconds(OURS)
    above, below = (seconds, base) if job.features else (base, seconds)
    return {
        "name": contender.name,
        "median_ms": _digits(1e3 * float(np.median(seconds))),
        "min_ms": _digits(1e3 * float(seconds.min())),
        "ratio": [_digits(each) for each in ratio(above, below, job.seed)],
        "compile_seconds": _digits(contender.compile_seconds),
        "temp_bytes": contender.temp_bytes,
        "flops": contender.flops,
        "note": contender.note,
        "seconds": [_digits(each) for each in seconds],
    }


def _digits(value: float | None) -> float | None:
    """Round to four significant digits."""
    return None if value is None else float(f"{value:.4g}")


def main(arguments: Sequence[str]) -> None:
    """Read a job from standard input, and write its record to the file named."""
    (path,) = arguments
    try:
        record = run(Job.from_json(json.load(sys.stdin)))
    except WrongResultError as error:
        sys.exit(str(error))
    Path(path).write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
