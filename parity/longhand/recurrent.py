"""Recurrent networks spelled out: a stack of layers as a `Recipe`, whose parts can be exchanged one by one.

The defaults compute what `torch.nn.RNN`, `GRU` and `LSTM` compute, and the peephole LSTM of `torch_ref`. A part
receives the `Place` that it works at first: the network, the layer, the direction (0 forward, 1 reverse) and the
step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parity.longhand.arrays import Library, library_of, map_tree

Params = Mapping[str, Any]  # one layer's and direction's, by the cell's names: weight_ih, bias_hh ...
State = dict[str, Any]  # "h" [B, R] and, in an LSTM, "c" [B, H]

GATES = {
    "RNN_TANH": ("a",),
    "RNN_RELU": ("a",),
    "GRU": ("r", "z", "n"),
    "LSTM": ("i", "f", "g", "o"),
    "PEEPHOLE_LSTM": ("i", "f", "g", "o"),
}


@dataclass(frozen=True)
class Network:
    """What is known of a stack of recurrent layers before its weights."""

    kind: str  # a key of GATES
    hidden: int
    layers: int = 1
    directions: int = 1
    projected: int = 0
    batch_first: bool = False
    dropout: float = 0.0

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of the blocks of H rows in `weight_ih`, in torch's order."""
        return GATES[self.kind]

    @property
    def states(self) -> tuple[str, ...]:
        """The parts of the state."""
        return ("h", "c") if "LSTM" in self.kind else ("h",)

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of each part of the state."""
        return (self.projected or self.hidden, self.hidden)[: len(self.states)]


@dataclass(frozen=True)
class Place:
    """Where a part is at work; `step` is the index in time, also where a direction runs backwards."""

    lib: Library
    network: Network
    recipe: Recipe
    layer: int = 0
    direction: int = 0
    step: Any = None  # a number, or an array where JAX traces it

    @property
    def index(self) -> int:
        """The place of this layer and direction in `h_n`."""
        return self.layer * self.network.directions + self.direction


class Call(NamedTuple):
    """What a network is called with, time first."""

    x: Any  # [T, B, I]
    start: tuple[Any, ...]  # each [L*D, B, features]
    lengths: Any = None  # [B]
    resets: Any = None  # bool [T, B]: a sequence begins here
    masks: Sequence[Any] = ()  # what to keep of the output of every layer but the last, each [T, B, D*R]


# The parts ------------------------------------------------------------------------------------------------


def resume(at: Place, given: tuple[Any, ...], left: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Return the initial states of a call, given its own and those that the call before ended with, if any."""
    return given


def read_weights(at: Place, stack: Mapping[tuple[int, int], Params]) -> Params:
    """Return the parameters of a layer and direction."""
    return stack[at.layer, at.direction]


def start(at: Place, states: tuple[Any, ...]) -> State:
    """Return the state that a layer and direction begins with."""
    return {name: part[at.index] for name, part in zip(at.network.states, states, strict=True)}


def sums(at: Place, params: Params, x: Any, h: Any) -> tuple[Any, Any]:
    """Return what the input and what the state add to the pre-activations, each [B, G*H]."""
    return linear(x, params["weight_ih"], params.get("bias_ih")), linear(
        h, params["weight_hh"], params.get("bias_hh")
    )


def peephole(at: Place, params: Params, gate: str, before: Any, after: Any) -> Any:
    """Return what a gate sees of the cell state: i and f the old one, o the new one."""
    if "weight_ch" not in params:
        return 0.0
    return params["weight_ch"]["ifo".index(gate)] * (after if gate == "o" else before)


def activate(at: Place, gate: str, z: Any) -> Any:
    """Return a gate's value."""
    if gate in "gn" or at.network.kind == "RNN_TANH":
        return at.lib.xp.tanh(z)
    return at.lib.xp.where(z > 0, z, 0.0 * z) if at.network.kind == "RNN_RELU" else at.lib.sigmoid(z)


def remember(at: Place, i: Any, f: Any, g: Any, before: Any) -> Any:
    """Return an LSTM's new cell state."""
    return f * before + i * g


def emit(at: Place, params: Params, o: Any, c: Any) -> Any:
    """Return an LSTM's output, projected where it has a projection."""
    h = o * at.lib.xp.tanh(c)
    return linear(h, params["weight_hr"]) if "weight_hr" in params else h


def reset(at: Place, params: Params, r: Any, x_n: Any, h_n: Any, state: State) -> Any:
    """Return the pre-activation of a GRU's candidate."""
    return x_n + r * h_n


def mix(at: Place, z: Any, n: Any, before: Any) -> Any:
    """Return a GRU's new state."""
    return (1.0 - z) * n + z * before


def show(at: Place, before: State, after: State) -> Any:
    """Return what a step gives to the layer above."""
    return after["h"]


def carry(at: Place, state: State) -> State:
    """Return what one step hands to the next."""
    return state


def hold(at: Place, valid: Any, after: State, before: State) -> State:
    """Return the state after a step: a row that has ended keeps its own."""
    return map_tree(lambda a, b: at.lib.xp.where(valid[:, None], a, b), after, before)


def last(at: Place, carried: State, stacked: State, lengths: Any) -> State:
    """Return the final state, given the state carried out of the loop and those of all steps [T, B, ...]."""
    return carried


def blank(at: Place, output: Any, states: State, valid: Any) -> Any:
    """Return a direction's output [T, B, R] with zeros where a row has ended; `states` are those of all steps."""
    return at.lib.xp.where(valid[:, :, None], output, at.lib.xp.zeros_like(output))


def turn(at: Place, series: Any, lengths: Any) -> Any:
    """Return a series [T, ...] in the order in which a direction reads it."""
    return at.lib.xp.flip(series, axis=0) if at.direction else series


def turn_back(at: Place, series: Any, lengths: Any) -> Any:
    """Return what a direction gave in the order of time."""
    return at.lib.xp.flip(series, axis=0) if at.direction else series


def join(at: Place, outputs: list[Any]) -> Any:
    """Return a layer's output from those of its directions."""
    return at.lib.xp.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]


def clean(at: Place, x: Any, valid: Any) -> Any:
    """Return an input [T, B, I] with zeros where a row has ended."""
    return at.lib.xp.where(valid[:, :, None], x, at.lib.xp.zeros_like(x))  # not 0 * x: padding may hold NaN


def between(at: Place, x: Any, masks: Sequence[Any]) -> Any:
    """Return what the layer above receives: in training mode, some of it dropped."""
    return at.recipe.drop(at, x, masks[at.layer]) if masks and at.layer < at.network.layers - 1 else x


def drop(at: Place, x: Any, mask: Any) -> Any:
    """Return `x` where the mask says so, scaled to keep its mean."""
    rate = at.network.dropout
    return at.lib.xp.where(mask, x / (1.0 - rate), 0.0 * x) if rate < 1.0 else 0.0 * x


def stack_states(at: Place, ends: list[State]) -> tuple[Any, ...]:
    """Return the final states [L*D, B, ...]."""
    return tuple(at.lib.xp.stack([end[name] for end in ends]) for name in at.network.states)


def deliver(at: Place, output: Any, states: tuple[Any, ...], lengths: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the last layer's output [T, B, D*R] and the final states as they leave the network."""
    return output, states


def valid_steps(at: Place, steps: Any, lengths: Any) -> Any:
    """Return bool [T, B]: True at the steps before each row's end."""
    return steps[:, None] < lengths[None, :]


def layout(at: Place, array: Any) -> Any:
    """Return an input or an output with time first, or back in the caller's order."""
    return at.lib.xp.permute_dims(array, (1, 0, 2)) if at.network.batch_first else array


def note(at: Place, name: str, value: Any) -> Any:
    """Return a named quantity of a step as it is; whoever wants to see or to change one does it here."""
    return value


@dataclass(frozen=True)
class Recipe:
    """How a network computes, part by part; `dataclasses.replace` exchanges one."""

    resume: Callable[..., Any] = resume
    read_weights: Callable[..., Any] = read_weights
    start: Callable[..., Any] = start
    sums: Callable[..., Any] = sums
    peephole: Callable[..., Any] = peephole
    activate: Callable[..., Any] = activate
    remember: Callable[..., Any] = remember
    emit: Callable[..., Any] = emit
    reset: Callable[..., Any] = reset
    mix: Callable[..., Any] = mix
    show: Callable[..., Any] = show
    carry: Callable[..., Any] = carry
    hold: Callable[..., Any] = hold
    last: Callable[..., Any] = last
    blank: Callable[..., Any] = blank
    turn: Callable[..., Any] = turn
    turn_back: Callable[..., Any] = turn_back
    join: Callable[..., Any] = join
    clean: Callable[..., Any] = clean
    between: Callable[..., Any] = between
    drop: Callable[..., Any] = drop
    stack_states: Callable[..., Any] = stack_states
    deliver: Callable[..., Any] = deliver
    valid_steps: Callable[..., Any] = valid_steps
    layout: Callable[..., Any] = layout
    note: Callable[..., Any] = note


FAITHFUL = Recipe()


# The network ----------------------------------------------------------------------------------------------


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Return ``x Wᵀ + b``."""
    product = x @ weight.T
    return product if bias is None else product + bias


def step(at: Place, params: Params, x: Any, state: State) -> State:
    """Return the state after one step on `x` [B, I]."""
    x_sums, h_sums = at.recipe.sums(at, params, x, state["h"])
    gates = at.network.gates
    width = x_sums.shape[-1] // len(gates)
    x_of, h_of = (
        {gate: part[..., n * width : (n + 1) * width] for n, gate in enumerate(gates)}
        for part in (x_sums, h_sums)
    )
    if at.network.kind == "GRU":
        return _gru_step(at, params, x_of, h_of, state)
    if "LSTM" in at.network.kind:
        return _lstm_step(at, params, {gate: x_of[gate] + h_of[gate] for gate in gates}, state)
    return {"h": at.recipe.note(at, "h", _gate(at, "a", x_of["a"] + h_of["a"]))}


def _gate(at: Place, name: str, z: Any) -> Any:
    z = at.recipe.note(at, f"z_{name}", z)
    return at.recipe.note(at, name, at.recipe.activate(at, name, z))


def _lstm_step(at: Place, params: Params, z: Mapping[str, Any], state: State) -> State:
    recipe, before = at.recipe, state["c"]
    i, f = (_gate(at, gate, z[gate] + recipe.peephole(at, params, gate, before, None)) for gate in "if")
    g = _gate(at, "g", z["g"])
    c = recipe.note(at, "c", recipe.remember(at, i, f, g, before))
    o = _gate(at, "o", z["o"] + recipe.peephole(at, params, "o", before, c))
    h = recipe.note(at, "h", recipe.emit(at, params, o, c))
    return {"h": h, "c": recipe.note(at, "c'", c)}  # c' is what the next step sees of c


def _gru_step(
    at: Place, params: Params, x_of: Mapping[str, Any], h_of: Mapping[str, Any], state: State
) -> State:
    recipe = at.recipe
    r, z = (_gate(at, gate, x_of[gate] + h_of[gate]) for gate in "rz")
    n = _gate(at, "n", recipe.reset(at, params, r, x_of["n"], h_of["n"], state))
    return {"h": recipe.note(at, "h", recipe.mix(at, z, n, state["h"]))}


def run(
    network: Network, stack: Mapping[tuple[int, int], Params], call: Call, recipe: Recipe = FAITHFUL
) -> tuple[Any, tuple[Any, ...]]:
    """Return the last layer's output [T, B, D*R] and the final states, each [L*D, B, features].

    `stack` holds the parameters by (layer, direction).
    """
    lib = library_of(call.x)
    x, ends = call.x, []
    steps = lib.xp.arange(x.shape[0])
    at = Place(lib, network, recipe)
    valid = None if call.lengths is None else recipe.valid_steps(at, steps, call.lengths)
    if valid is not None:
        x = recipe.clean(at, x, valid)
    for layer in range(network.layers):
        outputs = []
        for direction in range(network.directions):
            at = dataclasses.replace(at, layer=layer, direction=direction)
            output, end = _run_direction(at, stack, x, steps, valid, call)
            outputs.append(output)
            ends.append(end)
        x = recipe.between(at, recipe.join(at, outputs), call.masks)
    return recipe.deliver(at, x, recipe.stack_states(at, ends), call.lengths)


def _run_direction(
    at: Place, stack: Mapping[tuple[int, int], Params], x: Any, steps: Any, valid: Any, call: Call
) -> tuple[Any, State]:
    recipe, params = at.recipe, at.recipe.read_weights(at, stack)
    restart = None if call.resets is None else restart_marks(at, call.resets, valid)

    def body(state: State, inputs: dict[str, Any]) -> tuple[State, tuple[Any, State]]:
        here = dataclasses.replace(at, step=inputs["step"])
        before = state
        if inputs["restart"] is not None:
            before = map_tree(
                lambda part: at.lib.xp.where(inputs["restart"][:, None], 0.0 * part, part), state
            )
        before = recipe.carry(here, before)
        after = step(here, params, inputs["x"], before)
        shown = recipe.show(here, before, after)
        if inputs["valid"] is not None:
            after = recipe.hold(here, inputs["valid"], after, state)
        return after, (shown, after)

    series = {"step": steps, "x": x, "valid": valid, "restart": restart}
    series = map_tree(lambda array: recipe.turn(at, array, call.lengths), series)
    carried, (shown, states) = at.lib.scan(body, recipe.start(at, call.start), series)
    shown, states = map_tree(lambda array: recipe.turn_back(at, array, call.lengths), (shown, states))
    if valid is not None:
        shown = recipe.blank(at, shown, states, valid)
    return shown, recipe.last(at, carried, states, call.lengths)


def restart_marks(at: Place, resets: Any, valid: Any) -> Any:
    """Return the steps [T, B] that start from zeros, given those at which a sequence begins.

    Running backwards, the border before step t is crossed on entering step t - 1.
    """
    marks = resets if valid is None else resets & valid
    if not at.direction:
        return marks
    return at.lib.xp.concat([marks[1:], at.lib.xp.zeros_like(marks[:1])])
