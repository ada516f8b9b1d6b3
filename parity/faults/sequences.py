"""Mistakes in the plumbing of sequences: directions, lengths, layouts, dropout between layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from parity.faults.fault import Fault, is_bidirectional, is_deep_and_bidirectional
from parity.longhand import recurrent
from parity.longhand.arrays import map_tree
from parity.longhand.recurrent import Params, Place, State


def _other_layout(at: Place, array: Any) -> Any:
    return array if at.network.batch_first else at.lib.xp.permute_dims(array, (1, 0, 2))


def _as_it_is(at: Place, series: Any, lengths: Any) -> Any:
    return series


def _last_in_time(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    return map_tree(lambda series: series[-1], stacked)


def _first_place(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    """Take the last place in time; a reverse direction began there, it ends at the first step."""
    return _last_in_time(at, carried, stacked, lengths) if at.direction else carried


def _run_on(*directions: int) -> dict[str, Callable[..., Any]]:
    def hold(at: Place, valid: Any, after: State, before: State) -> State:
        return after if at.direction in directions else recurrent.hold(at, valid, after, before)

    return {"hold": hold}


def _keep_padding(at: Place, x: Any, valid: Any) -> Any:
    return x


def _multiplied(at: Place, x: Any, valid: Any) -> Any:
    return x * at.lib.xp.astype(valid[:, :, None], x.dtype)


def _joined_backwards(at: Place, outputs: list[Any]) -> Any:
    return recurrent.join(at, outputs[::-1])


def _summed(at: Place, outputs: list[Any]) -> Any:
    return sum(outputs) if at.layer == at.network.layers - 1 else recurrent.join(at, outputs)


def _forward_weights(at: Place, stack: Any) -> Params:
    return stack[at.layer, 0]


def _first_layer_weights(at: Place, stack: Any) -> Params:
    """Take those of the second layer, whose shape is that of all above it."""
    return stack[min(at.layer, 1), at.direction]


def _directions_swapped(at: Place, stack: Any) -> Params:
    return stack[at.layer, 1 - at.direction]


def _by_direction(at: Place, ends: list[State]) -> tuple[Any, ...]:
    directions = at.network.directions
    return recurrent.stack_states(at, [end for d in range(directions) for end in ends[d::directions]])


def _start_by_direction(at: Place, states: tuple[Any, ...]) -> State:
    index = at.direction * at.network.layers + at.layer
    return {name: part[index] for name, part in zip(at.network.states, states, strict=True)}


def _last_padded_output(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    """Take the last place of the padded output: zero where a row has ended before."""
    steps = stacked["h"].shape[0]
    place = 0 if at.direction else steps - 1
    ended = (lengths <= place)[:, None]
    return map_tree(lambda series: at.lib.xp.where(ended, 0.0 * series[place], series[place]), stacked)


def _unblanked(at: Place, output: Any, states: State, valid: Any) -> Any:
    return output


def _repeated(at: Place, output: Any, states: State, valid: Any) -> Any:
    return at.lib.xp.where(valid[:, :, None], output, states["h"])


# A loop over all steps whose states are picked afterwards, at each row's length - 1


def _turned_by_row(at: Place, series: Any, lengths: Any) -> Any:
    """Reverse each row by itself, its padding stays behind it; doing it again undoes it."""
    if not at.direction or lengths is None or len(series.shape) == 1:
        return recurrent.turn(at, series, lengths)
    xp, (steps, rows) = at.lib.xp, series.shape[:2]
    index = (lengths[None, :] - 1 - xp.arange(steps)[:, None]) % steps
    return series[index, xp.arange(rows)[None, :]]


def _picked(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    """Take the state at the index length - 1: of an empty row, -1, that after the last padded step."""
    if lengths is None:
        return carried
    xp, steps = at.lib.xp, stacked["h"].shape[0]
    place = 0 * lengths if at.direction else (lengths - 1) % steps
    there = (xp.arange(steps)[:, None] == place[None, :])[:, :, None]
    return map_tree(lambda series: xp.sum(xp.where(there, series, xp.zeros_like(series)), axis=0), stacked)


def _picking() -> dict[str, Callable[..., Any]]:
    return {**_run_on(0, 1), "turn": _turned_by_row, "turn_back": _turned_by_row, "last": _picked}


def _zero_if_empty(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    if lengths is None:
        return carried
    return map_tree(lambda part: at.lib.xp.where((lengths > 0)[:, None], part, 0.0 * part), carried)


def _one_step_at_least(at: Place, steps: Any, lengths: Any) -> Any:
    return (steps[:, None] < lengths[None, :]) | (steps[:, None] == 0)


def _valid(shift: int) -> dict[str, Callable[..., Any]]:
    def valid_steps(at: Place, steps: Any, lengths: Any) -> Any:
        return steps[:, None] < lengths[None, :] + shift

    return {"valid_steps": valid_steps}


def _sorted_rows(
    at: Place, output: Any, states: tuple[Any, ...], lengths: Any
) -> tuple[Any, tuple[Any, ...]]:
    xp = at.lib.xp
    order = xp.argsort(-lengths, stable=True)
    return xp.take(output, order, axis=1), tuple(xp.take(part, order, axis=1) for part in states)


def _drop_one_layer_late(at: Place, x: Any, masks: Sequence[Any]) -> Any:
    return at.recipe.drop(at, x, masks[at.layer - 1]) if masks and at.layer > 0 else x


def _unscaled(at: Place, x: Any, mask: Any) -> Any:
    return at.lib.xp.where(mask, x, 0.0 * x)


def _same_mask(at: Place, x: Any, mask: Any) -> Any:
    return recurrent.drop(at, x, at.lib.xp.broadcast_to(mask[:1], mask.shape))


def _undropped(at: Place, x: Any, mask: Any) -> Any:
    return x


def _inverted(at: Place, x: Any, mask: Any) -> Any:
    return recurrent.drop(at, x, ~mask)


_PACK = "a packed row ends at its own length, and its reverse direction begins there"
_EMPTY = "the final state of a row of length 0 is its initial state: jnp.where(lengths > 0, state, initial)"
_PICK = "jnp.where(mask, x, 0) before the loop; after it jnp.where(lengths > 0, state, initial)"
_PAD = (
    "mask the output: torch pads it with zeros; jnp.where(mask, output, 0), Keras's zero_output_for_mask=True"
)
_H_N = "torch stacks final states as layer * 2 + direction"
_DROP = "torch drops the output of every layer but the last, anew at every step, and divides by 1 - p"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "S01",
        "batch and time exchanged (batch_first)",
        "give the layer torch's batch_first",
        {"layout": _other_layout},
        gate="structure",
    ),
    Fault(
        "S02",
        "reverse direction not reversed",
        "let the second direction read from the last step to the first",
        {"turn": _as_it_is, "turn_back": _as_it_is},
        is_bidirectional,
    ),
    Fault(
        "S03",
        "reverse outputs not restored to the order of time",
        "flip the reverse direction's outputs back",
        {"turn_back": _as_it_is},
        is_bidirectional,
    ),
    Fault(
        "S04",
        "reverse direction starts in the padding (zeros)",
        _PACK,
        _run_on(1),
        is_bidirectional,
    ),
    Fault(
        "S04-raw",
        "reverse direction starts in the padding (whatever it holds)",
        _PACK,
        {**_run_on(1), "clean": _keep_padding},
        is_bidirectional,
    ),
    Fault(
        "S05",
        "directions joined as [reverse, forward]",
        "concatenate [forward, reverse]",
        {"join": _joined_backwards},
        is_bidirectional,
    ),
    Fault(
        "S06",
        "directions summed",
        "concatenate the two directions",
        {"join": _summed},
        is_bidirectional,
        gate="structure",
    ),
    Fault(
        "S07",
        "forward weights used for both directions",
        "the reverse direction has the weights with the suffix _reverse",
        {"read_weights": _forward_weights},
        is_bidirectional,
    ),
    Fault(
        "S07-swapped",
        "weights of the two directions exchanged",
        "the reverse direction has the weights with the suffix _reverse",
        {"read_weights": _directions_swapped},
        is_bidirectional,
    ),
    Fault(
        "S08",
        "final states stacked direction by direction",
        _H_N,
        {"stack_states": _by_direction},
        is_deep_and_bidirectional,
    ),
    Fault(
        "S08-start",
        "initial states read direction by direction",
        _H_N,
        {"start": _start_by_direction},
        is_deep_and_bidirectional,
    ),
    Fault(
        "S09",
        "state runs on through the padding (zeros)",
        "freeze the state at the row's length",
        _run_on(0, 1),
    ),
    Fault(
        "S09-forward",
        "state of the forward direction runs on through the padding (zeros)",
        "freeze the state at the row's length",
        _run_on(0),
        is_bidirectional,
    ),
    Fault(
        "S09-raw",
        "state runs on through the padding (whatever it holds)",
        "freeze the state at the row's length",
        {**_run_on(0, 1), "clean": _keep_padding},
    ),
    Fault(
        "S09-output",
        "final state taken from the last place of the padded output",
        "take h_n, or gather the output at length - 1",
        {"last": _last_padded_output},
    ),
    Fault(
        "S09-place",
        "final state of the reverse direction taken from the last step, where it began",
        "the reverse direction ends at the first step",
        {"last": _first_place},
        is_bidirectional,
    ),
    Fault(
        "S09-empty",
        "state runs on through the padding (zeros), picked at length - 1, of an empty row at -1",
        _PICK,
        _picking(),
    ),
    Fault(
        "S09-empty-raw",
        "state runs on through the padding (whatever it holds), picked at length - 1, of an empty row at -1",
        _PICK,
        {**_picking(), "clean": _keep_padding},
        gate="non-finite",
    ),
    Fault("S09-none", "an empty row ends with zeros", _EMPTY, {"last": _zero_if_empty}),
    Fault(
        "S10",
        "padded outputs not zero: the cell computes them from a frozen state",
        _PAD,
        {"blank": _unblanked},
        gate="zeros",
    ),
    Fault(
        "S10-on",
        "padded outputs not zero: the state runs on through the padding (zeros)",
        _PAD,
        {**_picking(), "blank": _unblanked},
        gate="zeros",
    ),
    Fault(
        "S10-on-raw",
        "padded outputs not zero: the state runs on through the padding (flax's RNN)",
        _PAD,
        {**_picking(), "blank": _unblanked, "clean": _keep_padding},
        gate="zeros",
    ),
    Fault(
        "S10-repeated",
        "padded outputs not zero: the last one is repeated (Keras)",
        _PAD,
        {"blank": _repeated},
        gate="zeros",
    ),
    Fault("S11", "rows one step too long (<= for <)", "step t belongs to a row if t < length", _valid(1)),
    Fault("S11-short", "rows one step too short", "step t belongs to a row if t < length", _valid(-1)),
    Fault(
        "S11-one",
        "an empty row takes one step",
        _EMPTY,
        {"valid_steps": _one_step_at_least},
        gate="non-finite",
    ),
    Fault(
        "S12",
        "padding multiplied by zero: NaN in it survives",
        "jnp.where(mask, x, 0), not x * mask: 0 * nan is nan",
        {"clean": _multiplied},
        gate="non-finite",
    ),
    Fault(
        "S13",
        "rows left in the order of their lengths",
        "undo the permutation of pack_padded_sequence(enforce_sorted=False)",
        {"deliver": _sorted_rows},
    ),
    Fault("S14", "dropout left out in training mode", _DROP, {"drop": _undropped}),
    Fault(
        "S15", "dropout after the last layer, not after the first", _DROP, {"between": _drop_one_layer_late}
    ),
    Fault("S16", "dropout not rescaled by 1 / (1 - p)", _DROP, {"drop": _unscaled}),
    Fault("S17", "the same dropout mask at every step", _DROP, {"drop": _same_mask}),
    Fault("S17-inverted", "dropout keeps what it should drop", _DROP, {"drop": _inverted}),
    Fault(
        "T03",
        "the second layer's weights used for all above it",
        "load each layer's own weights",
        {"read_weights": _first_layer_weights},
        lambda network: network.layers > 2,
    ),
)
