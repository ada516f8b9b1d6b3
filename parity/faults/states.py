"""Mistakes in what flows from step to step: initial states, outputs, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parity.faults.fault import (
    Fault,
    is_lstm,
    is_square_lstm,
)
from parity.longhand import recurrent
from parity.longhand.arrays import map_tree
from parity.longhand.recurrent import Place, State


def _swapped_start(at: Place, states: tuple[Any, ...]) -> State:
    state = recurrent.start(at, states)
    return {"h": state["c"], "c": state["h"]}


def _zero_start(at: Place, states: tuple[Any, ...]) -> State:
    return map_tree(lambda part: 0.0 * part, recurrent.start(at, states))


def _cut(*names: str) -> dict[str, Callable[..., Any]]:
    def carry(at: Place, state: State) -> State:
        return {name: at.lib.stop_gradient(part) if name in names else part for name, part in state.items()}

    return {"carry": carry}


def truncated(length: int) -> dict[str, Callable[..., Any]]:
    """Stop the gradient on entering every `length`-th step."""

    def carry(at: Place, state: State) -> State:
        border = (at.step % length == 0) & (at.step > 0)
        return map_tree(lambda part: at.lib.xp.where(border, at.lib.stop_gradient(part), part), state)

    return {"carry": carry}


def _show_cell(at: Place, before: State, after: State) -> Any:
    return after["c"]


def _show_before(at: Place, before: State, after: State) -> Any:
    return before["h"]


def _carried_over(at: Place, given: tuple[Any, ...], left: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return given if left is None else left


def _started_anew(at: Place, given: tuple[Any, ...], left: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return given if left is None else tuple(0.0 * part for part in given)


def _cut_between(at: Place, given: tuple[Any, ...], left: tuple[Any, ...] | None) -> tuple[Any, ...]:
    return given if left is None else tuple(map(at.lib.stop_gradient, given))


_CALLS = "hand the final state of one call to the next where the reference does, and only there"
_BPTT = "let the gradient flow through the carried state: no stop_gradient, no detach"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "L08",
        "h_0 and c_0 swapped",
        "torch's hx is (h_0, c_0); Flax's carry is (c, h)",
        {"start": _swapped_start},
        is_square_lstm,
    ),
    Fault("L09", "initial state ignored", "start from hx, not from zeros", {"start": _zero_start}),
    Fault("S18", "state carried over from the call before", _CALLS, {"resume": _carried_over}),
    Fault(
        "S18-anew",
        "state starts anew from zeros in every call after the first",
        _CALLS,
        {"resume": _started_anew},
    ),
    Fault(
        "S18-cut",
        "gradient stopped between one call and the next",
        "do not detach the state between calls",
        {"resume": _cut_between},
    ),
    Fault("L15", "c given out instead of h", "the output is h", {"show": _show_cell}, is_square_lstm),
    Fault(
        "L16",
        "the state before the step given out, not the one after",
        "the output at t is h after step t",
        {"show": _show_before},
    ),
    Fault("L22", "gradient stopped at every step", _BPTT, _cut("h", "c")),
    Fault("L22-h", "gradient of h stopped at every step", _BPTT, _cut("h"), is_lstm),
    Fault("L22-c", "gradient of c stopped at every step", _BPTT, _cut("c"), is_lstm),
    *(
        Fault(f"L23-{k}", f"back-propagation truncated every {k} steps", _BPTT, truncated(k), variant=k != 4)
        for k in range(2, 9)
    ),
)
