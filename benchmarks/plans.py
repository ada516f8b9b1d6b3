"""Which jobs a command line asks for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from benchmarks.jobs import Job
from benchmarks.sizes import GRID, MODES, Entry, draw, parse, sweep


def entries(
    names: Sequence[str], *, sizes: Sequence[str], random: int, seed: int, axes: Sequence[str]
) -> list[Entry]:
    """Return the grid's entries by these names, and others; the whole grid where nothing is asked for."""
    if axes:
        return list(_swept(names, sizes, random, axes))
    if not (names or sizes or random):
        names = list(GRID)
    found = [entry for name in dict.fromkeys(names) for entry in _named(name)]
    return found + [Entry(parse(text)) for text in sizes] + [Entry(size) for size in draw(random, seed)]


def _named(name: str) -> tuple[Entry, ...]:
    if name not in GRID:
        near = difflib.get_close_matches(name, GRID, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(GRID)}."
        raise ValueError(f"no size is called {name!r}; {hint} Any other is --size B,T,I,H.")
    return GRID[name]


def _swept(names: Sequence[str], sizes: Sequence[str], random: int, axes: Sequence[str]) -> Iterator[Entry]:
    if random or len(names) + len(sizes) > 1:
        raise ValueError("--sweep goes around one size: give one NAME, or one --size, and no --random.")
    around = Entry(parse(sizes[0])) if sizes else _named(names[0] if names else "medium")[0]
    for axis in dict.fromkeys(axes):
        for size in sweep(around.size, axis):
            yield around._replace(size=size)


def jobs(
    chosen: Sequence[Entry],
    *,
    kinds: Sequence[str],
    modes: Sequence[str],
    allocators: Sequence[str],
    features: bool,
    peers: Sequence[str],
    budget: float,
    seed: int,
    threads: int,
) -> list[Job]:
    """Return a job for each size, kind, mode and allocator, where there is such a thing."""
    found = [
        Job(
            entry.size,
            kind,
            mode,
            allocator,
            features,
            () if features else tuple(peers),
            budget,
            seed,
            threads,
        )
        for entry in chosen
        for kind in dict.fromkeys(kinds or entry.kinds)
        for mode in dict.fromkeys(modes or MODES)
        if mode in entry.modes
        for allocator in allocators
        if not (features and entry.size.calls > 1)
    ]
    if not found:
        raise ValueError(
            "nothing is left to measure: stream is measured in --mode forward, and --features need whole sequences."
        )
    return found
