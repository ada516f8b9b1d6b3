"""The recurrence by the kernels, as one operation that JAX can transform in every way."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrnn import cells
from jaxrnn.cells import Cell
from jaxrnn.ops import loop, scan
from jaxrnn.ops.joined_rows import join
from jaxrnn.ops.loop import Layer, Recurrence
from jaxrnn.ops.native import library
from jaxrnn.ops.planning import Plan
from jaxrnn.ops.primitives import Arrays, Operation, gradients_of

FLOAT32 = jnp.float32
LANES = 16  # of the widest vectors: what is kept is padded to whole ones


class Kernel(NamedTuple):
    """What `csrc/cells.h` says of a cell."""

    number: int  # of `CellKind`
    order: tuple[str, ...]  # of its pre-activations
    kept: int  # arrays that a step leaves behind


KERNELS = {
    cells.TANH: Kernel(0, ("a",), 0),
    cells.RELU: Kernel(1, ("a",), 0),
    cells.GRU: Kernel(2, ("n_x", "r", "z", "n_h"), 4),
    cells.LSTM: Kernel(3, ("i", "f", "g", "o"), 5),
    cells.PEEPHOLE_LSTM: Kernel(4, ("i", "f", "g", "o"), 5),
}


class _Static(NamedTuple):
    """What is known when a call is compiled."""

    cell: Cell
    reverse: bool
    precision: lax.PrecisionLike
    structure: Any  # of the operands, a `Recurrence`


def run(
    cell: Cell,
    plan: Plan,
    reverse: tuple[bool, ...],
    precision: lax.PrecisionLike,
    inputs: tuple[Recurrence, ...],
) -> scan.Outputs:
    """Return what `scan.recur` does, for one layer in one direction, by the kernels."""
    (one,), (backwards,) = inputs, reverse
    leaves, structure = jax.tree.flatten(one)
    h, *final = RECURRENCE(_Static(cell, backwards, precision, structure), *leaves)
    return (h,), ((cell.state(*final),),)


def _forward(static: _Static, leaves: Arrays, *, keep: bool) -> list[Any]:
    """Return h [T, B, R] and the final state; then, to keep, what the kernel alone can read."""
    inputs = jax.tree.unflatten(static.structure, leaves)
    kernel, (layer,), (state,) = KERNELS[static.cell], inputs.layers, inputs.states
    size = _size(static.cell, inputs)
    zeros = jnp.zeros(size.hidden, FLOAT32)
    call = _call(
        library.FORWARD,
        (size.steps, size.rows, state.h.shape[-1]),
        state.h.shape,
        _rest(state).shape,
        _kept_shape(kernel, size) if keep else (0,),
        (library.workspace(kernel.number, *size, backward=False),),
    )
    h, *final, kept, _ = call(
        inputs.x, layer.weight_ih, layer.weight_hh, _projection(layer),
        jnp.stack([layer.bias.get(name, zeros) for name in kernel.order]),
        _own(layer, size), state.h, _rest(state), _marks(inputs.valid), _marks(inputs.restart),
        cell=np.int32(kernel.number), hidden=np.int64(size.hidden), reverse=static.reverse,
    )  # fmt: skip
    return [h, *final[: len(state)], *([kept] if keep else [])]


def _backward(
    static: _Static, wanted: tuple[bool, ...], leaves: Arrays, outputs: Arrays, cotangents: Arrays
) -> list[Any]:
    """Return the gradients of the leaves that are wanted."""
    inputs = jax.tree.unflatten(static.structure, leaves)
    kernel, (layer,), (state,) = KERNELS[static.cell], inputs.layers, inputs.states
    size = _size(static.cell, inputs)
    own, projection = _own(layer, size), _projection(layer)
    call = _call(
        library.BACKWARD,
        inputs.x.shape if jax.tree.unflatten(static.structure, wanted).x else (0,),
        layer.weight_ih.shape,
        layer.weight_hh.shape,
        projection.shape,
        (len(kernel.order), size.hidden),
        own.shape,
        state.h.shape,
        _rest(state).shape,
        (library.workspace(kernel.number, *size, backward=True),),
    )
    dx, d_weight_ih, d_weight_hh, d_weight_hr, d_bias, d_own, *d_state, _ = call(
        inputs.x, layer.weight_ih, layer.weight_hh, projection, own, state.h,
        _marks(inputs.valid), _marks(inputs.restart), outputs[0], outputs[-1],
        cotangents[0], cotangents[1], _rest(cotangents[1:]),
        cell=np.int32(kernel.number), hidden=np.int64(size.hidden), reverse=static.reverse,
    )  # fmt: skip
    counts = [array.shape[0] for array in layer.own.values()]
    gradients = Recurrence(
        x=dx,
        layers=(
            Layer(
                weight_ih=d_weight_ih,
                weight_hh=d_weight_hh,
                weight_hr=None if layer.weight_hr is None else d_weight_hr,
                bias={name: d_bias[kernel.order.index(name)] for name in layer.bias},
                own=dict(zip(layer.own, jnp.split(d_own, np.cumsum(counts)[:-1]), strict=False)),
            ),
        ),
        states=(static.cell.state(*d_state[: len(state)]),),
        valid=inputs.valid,
        restart=inputs.restart,
    )
    return [g for g, want in zip(jax.tree.leaves(gradients), wanted, strict=True) if want]


class _Size(NamedTuple):
    """What `library.workspace` is asked with."""

    steps: int
    rows: int
    inputs: int
    hidden: int
    projected: int  # 0 without a projection


def _size(cell: Cell, inputs: Recurrence) -> _Size:
    (layer,) = inputs.layers
    projected = 0 if layer.weight_hr is None else layer.weight_hr.shape[0]
    steps, rows, features = inputs.x.shape
    return _Size(steps, rows, features, layer.weight_hh.shape[0] // cell.gates, projected)


def _call(name: str, *results: tuple[int, ...]) -> Callable[..., Any]:
    return jax.ffi.ffi_call(name, [jax.ShapeDtypeStruct(shape, FLOAT32) for shape in results])


def flops(target: str, operands: Sequence[tuple[int, ...]], results: Sequence[tuple[int, ...]]) -> int | None:
    """Return what a call of these shapes multiplies and adds in its products; None for calls that are not ours."""
    if target not in (library.FORWARD, library.BACKWARD):
        return None
    (steps, rows, _), *weights = operands[:4]
    of_x, of_h, of_projection = map(math.prod, weights)
    products = of_x + of_h + of_projection
    if target == library.BACKWARD:
        products = 2 * products if results[0] != (0,) else products + of_h + of_projection
    return 2 * steps * rows * products


def _kept_shape(kernel: Kernel, size: _Size) -> tuple[int, ...]:
    return size.steps, -(-size.hidden // LANES), size.rows, kernel.kept, LANES


def _own(layer: Layer, size: _Size) -> jax.Array:
    """Return the cell's own parameters as rows, [0, H] where it has none."""
    rows = list(layer.own.values())
    return jnp.concatenate(rows) if rows else jnp.zeros((0, size.hidden), FLOAT32)


def _projection(layer: Layer) -> jax.Array:
    return jnp.zeros(0, FLOAT32) if layer.weight_hr is None else layer.weight_hr


def _rest(state: Sequence[Any]) -> jax.Array:
    return state[1] if len(state) > 1 else jnp.zeros(0, FLOAT32)


def _marks(marks: jax.Array | None) -> jax.Array:
    return jnp.zeros(0, bool) if marks is None else marks[..., 0]


# What it means -----------------------------------------------------------------------------------------------


def _meaning(static: _Static, *leaves: Any) -> list[Any]:
    inputs = jax.tree.unflatten(static.structure, leaves)
    plan = Plan(inputs.x.shape[0], joined=False)
    (h,), ((final,),) = scan.recur(
        static.cell, plan, (static.reverse,), static.precision, loop.run, (inputs,)
    )
    return [h, *final]


def _forward_elsewhere(static: _Static, leaves: Arrays, *, keep: bool) -> list[Any]:
    """Return what an exported program computes: no kernel, and nothing kept."""
    results = _meaning(static, *leaves)
    inputs = jax.tree.unflatten(static.structure, leaves)
    shape = _kept_shape(KERNELS[static.cell], _size(static.cell, inputs))
    return [*results, jnp.zeros(shape, FLOAT32)] if keep else results


def _backward_elsewhere(
    static: _Static, wanted: tuple[bool, ...], leaves: Arrays, outputs: Arrays, cotangents: Arrays
) -> Arrays:
    return gradients_of(_meaning, static, wanted, leaves, cotangents)


def _results(static: _Static) -> int:
    return 1 + len(static.cell.state._fields)


def _join(static: _Static, leaves: Arrays, axes: Sequence[int | None]) -> list[Any] | None:
    """Return the results of calls that share their weights: their rows, joined, are one call."""
    found = join(*(jax.tree.unflatten(static.structure, each) for each in (leaves, axes)))
    return None if found is None else found.apart(RECURRENCE(static, *jax.tree.leaves(found.whole)))


RECURRENCE = Operation(
    "recurrence_on_a_cpu",
    forward=_forward,
    backward=_backward,
    meaning=_meaning,
    results=_results,
    join=_join,
    exported=(_forward_elsewhere, _backward_elsewhere),
)
