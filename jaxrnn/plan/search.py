"""The longest sequence that fits: a line through what was compiled says where to compile next."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

MOST_STEPS = 2**31 - 1  # loops count in 32 bits
_MOST_COMPILES = 16
_PRECISION = 0.01
_GROWTH = 16  # at once, where nothing has been refused yet


class Point(NamedTuple):
    """What the compiler said of one length."""

    steps: int
    fits: bool
    bytes: int | None  # of a device; a refusal may not say


class Longest(NamedTuple):
    """The most steps that the compiler took and the fewest that it refused; None where there are none."""

    fits: int | None
    refused: int | None


def search(
    compile_at: Callable[[int], Point], first: Point, usable_bytes: int, multiple: int = 1
) -> tuple[Longest, list[Point]]:
    """Return the longest sequence that fits, to one per cent, and all that was compiled to find it.

    Memory is close to a line in T, so few lengths are compiled: those where the line through the two nearest
    crosses the limit, and the middle where that leads nowhere. Both bounds are the compiler's word. Lengths other
    than the first are multiples of `multiple` and of a power of two near 1 / 128 of them: no chunk has a remainder.
    """
    points = [first]
    while len(points) < _MOST_COMPILES:
        found = bounds(points)
        steps = _next(points, found, usable_bytes, multiple)
        if steps is None:
            break
        points.append(compile_at(steps))
    return bounds(points), points


def bounds(points: list[Point]) -> Longest:
    """Return what is known so far."""
    fitting = [point.steps for point in points if point.fits]
    longest = max(fitting, default=None)
    refused = [point.steps for point in points if not point.fits and point.steps > (longest or 0)]
    return Longest(longest, min(refused, default=None))


def _next(points: list[Point], found: Longest, usable_bytes: int, multiple: int) -> int | None:
    """Return the length to compile next, or None where the bounds are as close as they need be."""
    low = found.fits or 0
    high = found.refused or min(MOST_STEPS, _GROWTH * low) + 1
    grain = _grain(max(low, multiple), multiple)
    if high - low <= max(grain, _PRECISION * low):
        return None
    wanted, middle = _crossing(points, usable_bytes), math.sqrt(max(low, 1) * high)
    stuck = len(points) > 2 and len({point.fits for point in points[-3:]}) == 1 and found.refused and low
    if wanted is None or stuck or not low < wanted < high:
        wanted = middle
    nearest, farthest = low * (1 + _PRECISION), high * (1 - _PRECISION)  # nearer to a bound would tell little
    wanted = min(max(wanted, nearest), farthest) if nearest < farthest else middle
    steps = max(_rounded(int(wanted), multiple), low // grain * grain + grain)
    return steps if steps < high else None


def _crossing(points: list[Point], usable_bytes: int) -> float | None:
    """Return the length at which the line through the two points nearest to the limit reaches it."""
    known = sorted(
        ((point.bytes, point.steps) for point in points if point.bytes),
        key=lambda each: abs(each[0] - usable_bytes),
    )[:2]
    if not known:
        return None
    (size, steps), *rest = known
    if not rest:
        return steps * usable_bytes / size  # through the origin: too little, if anything
    slope = (size - rest[0][0]) / (steps - rest[0][1])
    return steps + (usable_bytes - size) / slope if slope > 0 else None


def _grain(steps: int, multiple: int) -> int:
    """Return the unit in which lengths near `steps` are tried."""
    if multiple > 1:
        return multiple * max(1, _power(steps // multiple // 128))
    return max(1, _power(steps // 128))


def _power(number: int) -> int:
    return 2 ** (number.bit_length() - 1) if number > 0 else 1


def _rounded(steps: int, multiple: int) -> int:
    grain = _grain(steps, multiple)
    return steps // grain * grain
