"""The loop over time of one layer or of several, with the products that need not wait for it taken outside."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.cells import Cell, Derivative, Parameters, State, matmul
from jaxrnn.ops.planning import Plan
from jaxrnn.ops.reference import select, without_padding


class Layer(NamedTuple):
    """The parameters of a layer. The tangent of them has the same fields."""

    weight_ih: jax.Array  # [G*H, I], above the first layer [G*H, R]
    weight_hh: jax.Array  # [G*H, R]
    weight_hr: jax.Array | None  # [R, H]
    bias: dict[str, jax.Array]  # {pre-activation: [H]}, empty for a cell without bias
    own: dict[str, jax.Array]


class Recurrence(NamedTuple):
    """What is unrolled: layers that advance together, each on what the one below returns for the same step.

    The tangent of it has the same fields.
    """

    x: jax.Array  # [T, B, I]
    layers: tuple[Layer, ...]
    states: tuple[State, ...]  # one per layer
    valid: jax.Array | None  # bool [T, B, 1]
    restart: jax.Array | None  # bool [T, B, 1]


class Left(NamedTuple):
    """What the loop leaves behind of a layer, for the derivative, each [T, B, ...]: see `Plan.keep`."""

    kept: tuple[jax.Array, ...]  # `Derivative.keep` of each step
    h: jax.Array | None  # after each step, where it does not follow from `kept`
    # Other fields of the state: after each step, or before each chunk, [T / K, B, H].
    rest: tuple[jax.Array, ...] = ()


# Of each recurrence: the last layer's h [T, B, R], all final states, and what the derivative needs of each layer.
Results = tuple[tuple[jax.Array, ...], tuple[tuple[State, ...], ...], tuple[tuple[Left, ...], ...]]

# Of a cell, a plan, reverse, precision, the inputs and a derivative or None: `run`, or what takes its place.
Forward = Callable[
    [Cell, Plan, tuple[bool, ...], lax.PrecisionLike, tuple[Recurrence, ...], Derivative | None], Results
]


def layer(cell: Cell, params: Parameters, state: State) -> Layer:
    """Return a layer's parameters, one bias per pre-activation: the sum of those of both products."""
    biases: dict[str, jax.Array] = {}
    for gates, name in ((cell.x_gates, "bias_ih"), (cell.h_gates, "bias_hh")):
        if name not in params:
            continue
        for gate, block in zip(gates, jnp.split(params[name].astype(state.h.dtype), cell.gates), strict=True):
            biases[gate] = biases[gate] + block if gate in biases else block
    weights = params["weight_ih"], params["weight_hh"], params.get("weight_hr")
    return Layer(*weights, biases, cell.own_parameters(params))


def run(
    cell: Cell,
    plan: Plan,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    inputs: tuple[Recurrence, ...],
    derivative: Derivative | None,
) -> Results:
    """Run one loop, from the last step to the first if the first of `reverse` says so."""
    parts = [_part(cell, plan, precision, one, derivative) for one in inputs]

    def step(states, xs):
        moved = [part.step(state, x) for part, state, x in zip(parts, states, xs, strict=True)]
        return tuple(zip(*moved, strict=True))

    def chunk(states, xs):
        ready = [
            (part.ahead(x, valid), valid, restart)
            for part, (x, valid, restart) in zip(parts, xs, strict=True)
        ]
        after, written = lax.scan(step, states, ready, reverse=reverse[0], unroll=plan.unroll)
        if at_bounds:
            written = tuple(
                (h, tuple(map(_with_rest, left, of_one)))
                for (h, left), of_one in zip(written, states, strict=True)
            )
        return after, written

    at_bounds = derivative is not None and plan.keep == "h"
    states = tuple(one.states for one in inputs)
    xs = [(one.x, one.valid, one.restart) for one in inputs]
    count = 1 if plan.joined and not at_bounds else inputs[0].x.shape[0] // plan.chunk
    finals, written = scan_chunks(chunk, states, cut(xs, count), reverse[0])
    h, left = zip(*(part.read(*of_steps) for part, of_steps in zip(parts, written, strict=True)), strict=True)
    return h, finals, left


def _with_rest(left: Left, state: State) -> Left:
    return left._replace(rest=tuple(field[None] for field in state[1:]))


class _Part(NamedTuple):
    """What one recurrence does in the loop."""

    # Of the x and the valid steps of a chunk: what its steps need of them.
    ahead: Callable[..., Any]
    # Of the states, and of what is needed, valid and restart of a step: the new states, and what is written.
    step: Callable[..., Any]
    # Of what was written: the outputs, and what is left for the derivative.
    read: Callable[..., Any]


def _part(
    cell: Cell, plan: Plan, precision: lax.PrecisionLike, inputs: Recurrence, derivative: Derivative | None
) -> _Part:
    last = len(inputs.layers) - 1
    zeros = jax.tree.map(jnp.zeros_like, inputs.states)
    gates = derivative if plan.keep == "gates" else None
    stored = [derivative is not None and not follows(gates, layer) for layer in inputs.layers]
    packed = [plan.packed and layer.weight_hr is None for layer in inputs.layers]
    # Where all that is kept is one array, h is computed from it after the loop: one write less in each step.
    unwritten = gates.output if gates is not None and packed[last] else None
    narrow = output_dtype(inputs)
    stored_dtype = inputs.states[0].h.dtype if cell.reads_h else narrow
    joins = [plan.joined] + [cell.joinable] * last
    sums = [
        sums_of(cell, precision, layer, joined=joined)
        for joined, layer in zip(joins, inputs.layers, strict=True)
    ]

    def ahead(x, valid):
        if not plan.joined:  # here and not before the loop: a copy of x would be kept for the backward pass
            x = without_padding(valid, x)
        return sums[0].ahead(x)

    def step(states, xs):
        entering, valid, restart = xs
        if plan.joined:
            entering = without_padding(valid, entering)
        after, left = [], []
        for number, (layer, state) in enumerate(zip(inputs.layers, states, strict=True)):
            before = select(restart, zeros[number], state)
            pre = sums[number].of_step(entering, before.h)
            new = cell.step(pre, before, layer.own)
            kept = gates.keep(pre, before, layer.own) if gates else ()
            if layer.weight_hr is not None:
                new = new._replace(h=matmul(new.h, layer.weight_hr, precision))
            after.append(select(valid, new, state, default=True))
            left.append(Left(_packed(kept) if packed[number] else kept, None))
            if derivative is not None and plan.keep == "carry":
                left[-1] = left[-1]._replace(rest=tuple(field.astype(narrow) for field in after[-1][1:]))
            if number < last:
                if stored[number]:
                    left[-1] = left[-1]._replace(h=after[-1].h.astype(stored_dtype))
                entering = sums[number + 1].ahead(after[-1].h)
        h = None if unwritten else after[-1].h.astype(stored_dtype if stored[last] else narrow)
        return tuple(after), (h, tuple(left))

    def read(h, left):
        if unwritten:
            h = unwritten(unpacked(left[last].kept, cell, inputs.layers[last]), inputs.layers[last].own)
        if stored[last]:
            left = (*left[:last], left[last]._replace(h=h))
        return h, left

    return _Part(ahead, step, read)


def output_dtype(inputs: Recurrence) -> Any:
    """Return the dtype of the outputs: that of x, if all products are taken in it, else that of the state."""
    same = all(layer.weight_hh.dtype == inputs.x.dtype for layer in inputs.layers)
    return inputs.x.dtype if same else inputs.states[0].h.dtype


def follows(gates: Derivative | None, layer: Layer) -> bool:
    """Tell whether a layer's h follows from what is kept of its gates."""
    return gates is not None and gates.output is not None and layer.weight_hr is None


def _packed(kept: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Return what a step leaves behind as one array: where each write is a kernel, one is better than many."""
    return (jnp.concatenate(kept, axis=-1),) if len(kept) > 1 else kept


def unpacked(kept: tuple[jax.Array, ...], cell: Cell, layer: Layer) -> tuple[jax.Array, ...]:
    """Return the arrays of what may have been packed, each as wide as a gate."""
    width = layer.weight_hh.shape[0] // cell.gates
    return tuple(part for array in kept for part in jnp.split(array, array.shape[-1] // width, axis=-1))


class Sums(NamedTuple):
    """How the pre-activations of a layer come about."""

    ahead: Callable[[jax.Array], Any]  # of x [..., B, I], for any number of steps at once
    of_step: Callable[[Any, jax.Array], tuple[jax.Array, ...]]  # of that and h, the pre-activations of a step


def sums_of(cell: Cell, precision: lax.PrecisionLike, layer: Layer, *, joined: bool) -> Sums:
    """Return how a layer's pre-activations are computed."""
    return (_joined if joined else _hoisted)(cell, precision, layer)


def _joined(cell: Cell, precision: lax.PrecisionLike, layer: Layer) -> Sums:
    """One product per step, ``[x, h] [W_ih, W_hh]ᵀ``, for a cell whose two products enter the same sums."""
    weights = jnp.concatenate([layer.weight_ih, layer.weight_hh], axis=1).T
    bias = wide_bias(cell, layer)

    def of_step(x, h):
        product = matmul(jnp.concatenate([x, h.astype(x.dtype)], axis=-1), weights, precision, axis=0) + bias
        return tuple(jnp.split(product, cell.gates, -1))

    return Sums(lambda x: x, of_step)


def _hoisted(cell: Cell, precision: lax.PrecisionLike, layer: Layer) -> Sums:
    """``W_ih x + b`` for all steps of a chunk, and ``W_hh h`` in the loop.

    One array per gate: slicing gates out of one wide array inside the loop stops XLA's CPU compiler from
    vectorising the exponentials.
    """
    weight_ih, weight_hh, bias = layer.weight_ih.T, layer.weight_hh.T, wide_bias(cell, layer)
    late = late_biases(cell, layer)

    def ahead(x):
        product = matmul(x, weight_ih, precision, axis=0) + bias
        return dict(zip(cell.x_gates, jnp.split(product, cell.gates, -1), strict=True))

    def of_step(ahead, h):
        blocks = jnp.split(matmul(h, weight_hh, precision, axis=0), cell.gates, -1)
        blocks = [b + late[name] if name in late else b for name, b in zip(cell.h_gates, blocks, strict=True)]
        return cell.sum_blocks(ahead, tuple(blocks))

    return Sums(ahead, of_step)


def wide_bias(cell: Cell, layer: Layer) -> jax.Array | float:
    """Return what is added to ``W_ih x``, [G*H]."""
    return jnp.concatenate([layer.bias[name] for name in cell.x_gates]) if layer.bias else 0.0


def late_biases(cell: Cell, layer: Layer) -> dict[str, jax.Array]:
    """Return the biases of the pre-activations in which x has no part, by name."""
    return {name: bias for name, bias in layer.bias.items() if name not in cell.x_gates}


def cut(xs: Any, count: int) -> Any:
    """Cut the steps of arrays [T, ...] into [count, T / count, ...]."""
    return jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), xs)


def scan_chunks(chunk: Any, carry: Any, pieces: Any, reverse: bool) -> tuple[Any, Any]:
    """Scan over chunks; return results [count, K, ...] as [T, ...]."""
    if jax.tree.leaves(pieces)[0].shape[0] == 1:
        return chunk(carry, jax.tree.map(lambda a: a[0], pieces))
    carry, ys = lax.scan(chunk, carry, pieces, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), ys)
