"""Contenders timed in turns, what other processes did meanwhile, and what may be concluded."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FEWEST_ROUNDS = 7
FEWEST_CLEAN = 5
FOREIGN_LIMIT = 0.12  # share of a round's time that others may compute
SHORTEST_ROUND = 0.4  # seconds: /proc/stat counts in hundredths, so that one count is below the limit
PATIENCE = 3  # budgets to wait for clean rounds
# Seconds between contenders: the threads of OpenMP and XLA spin for a while when their work is done. Without it, a
# step of jaxrnn that takes 0.13 ms took 0.15 ms after torch; with it, each takes what it takes alone.
PAUSE = 0.01


class Clock:
    """The time that has passed, and how much of it other processes computed."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()

    def foreign(self) -> float | None:
        """Return the seconds of CPU that everything but this process used; None where the system does not say."""
        try:
            fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()

    def pause(self) -> None:
        """Let what spins go to sleep."""
        time.sleep(PAUSE)


class Round(NamedTuple):
    """Every contender once."""

    seconds: dict[str, float]  # per call
    foreign: float | None  # share of the round's time that others computed

    @property
    def clean(self) -> bool:
        """Whether nobody else computed much."""
        return self.foreign is None or self.foreign <= FOREIGN_LIMIT


@dataclass(frozen=True)
class Rounds:
    """What was measured; `dropped` rounds, in which others computed, are not among `kept`."""

    kept: tuple[Round, ...]
    dropped: int
    noisy: bool  # too few rounds were clean, so that all are kept

    def seconds(self, name: str) -> np.ndarray:
        """Return a contender's seconds, one for each round."""
        return np.array([each.seconds[name] for each in self.kept])


def measure(
    contenders: Mapping[str, Callable[[], Any]], budget: float, *, seed: int, clock: Clock | None = None
) -> Rounds:
    """Time contenders in turns, every round in another random order.

    Each is warmed up and, where it is quick, called several times in a round. There are at least `FEWEST_ROUNDS`,
    and as many as `budget` seconds allow. Rounds in which others computed do not count, and are waited out for
    `PATIENCE` budgets at most.
    """
    clock = clock or Clock()
    rng = np.random.default_rng(seed)
    shortest = SHORTEST_ROUND / len(contenders)
    repeats = {name: _repeats(run, shortest, clock) for name, run in contenders.items()}
    found: list[Round] = []
    started = clock.now()
    while not _enough(found, clock.now() - started, budget):
        order = [str(name) for name in rng.permutation(list(contenders))]
        found.append(_round(contenders, repeats, order, clock))
    return sort_out(found)


def _repeats(run: Callable[[], Any], shortest: float, clock: Clock) -> int:
    """Warm a contender up, and return how often it is called in a round."""
    run()
    times = 1
    while True:
        started = clock.now()
        for _ in range(times):
            run()
        seconds = clock.now() - started
        if seconds >= shortest / 2 or times >= 1_000_000:
            return max(1, math.ceil(times * shortest / max(seconds, 1e-9)))
        times *= 4


def _enough(found: Sequence[Round], seconds: float, budget: float) -> bool:
    clean = sum(each.clean for each in found)
    if clean >= FEWEST_ROUNDS:
        return seconds >= budget
    return len(found) >= FEWEST_ROUNDS and seconds >= PATIENCE * budget


def _round(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: Mapping[str, int],
    order: Sequence[str],
    clock: Clock,
) -> Round:
    seconds = {}
    began, before = clock.now(), clock.foreign()
    for name in order:
        run, times = contenders[name], repeats[name]
        clock.pause()
        started = clock.now()
        for _ in range(times):
            run()
        seconds[name] = (clock.now() - started) / times
    after, took = clock.foreign(), clock.now() - began
    return Round(seconds, None if after is None or before is None else max(0.0, after - before) / took)


def sort_out(found: Sequence[Round]) -> Rounds:
    """Drop the rounds in which others computed; where too few are left, keep all of them and call them noisy."""
    clean = tuple(each for each in found if each.clean)
    if len(clean) < FEWEST_CLEAN:
        return Rounds(tuple(found), 0, noisy=True)
    return Rounds(clean, len(found) - len(clean), noisy=False)


# Conclusions ----------------------------------------------------------------------------------------------


class Ratio(NamedTuple):
    """A median of paired ratios, and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float


RESAMPLES = 2000


def ratio(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Ratio:
    """Return the median of `above / below`, pair by pair, with the percentile bootstrap's interval.

    Paired, because what slows a round down slows down both.
    """
    pairs = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(seed).choice(pairs, (RESAMPLES, len(pairs)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(pairs)), float(low), float(high))
