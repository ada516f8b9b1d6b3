"""Time spread over devices: each takes a stretch of every row, and the state passes from one to the next."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxrnn.layers.recurrent import RecurrentLayer
from jaxrnn.lengths import check_lengths
from jaxrnn.sharding.common import agreed, check_divides, check_mesh, of_shard, on_each

Tree = Any  # of arrays


def wavefront(
    model: nnx.Module,
    inputs: Tree,
    state: Tree = None,
    *,
    mesh: Mesh,
    micro_batches: int,
    axis: str = "time",
    lengths: Any = None,
    resets: jax.Array | None = None,
    time_axis: int = 0,
    state_axis: int = 1,
) -> tuple[Tree, Tree]:
    """Return ``model(inputs, state)``, its outputs and final state, with time spread over the devices of an axis.

    Of D devices, each holds T / D steps of every row: inputs, outputs, and what the backward pass keeps. Rows are
    cut into M micro-batches that follow each other through the devices as a wave::

        tick          0    1    2    3    4         device d works on micro-batch m at tick d + m,
        device 0      m0   m1   m2                  then hands its state to device d + 1
        device 1           m0   m1   m2
        device 2                m0   m1   m2

    so M + D - 1 ticks do the work of M, a utilisation of ``M / (M + D - 1)``: 80 % from M = 4 (D - 1) on. This is
    backpropagation through all T steps, exact to rounding; only states, and their cotangents, pass between devices.
    Example, an LSTM over sequences that no single device could hold::

        output, (h, c) = jaxrnn.sharding.wavefront(lstm, x, mesh=mesh, micro_batches=16)    # x [T, B, I]

    * `model`: a layer of this library in one direction, or any module ``model(inputs, state) -> (outputs, state)``
      that begins where the state says. Random streams go on, each device and tick drawing by keys of its own; what
      else a module changes is averaged.
    * `inputs`: arrays, or trees of them, time along `time_axis` (0 or 1) and rows along the other. So are the
      outputs; they may have another number of steps, one loss per stretch and row, say: those of all devices are
      put one after the other.
    * `state`: rows along `state_axis` of each array. None begins with zeros and is for our layers alone.
    * `lengths`, int [B], and `resets`, bool like the inputs without features, are handed to the model by name, each
      device its part of them.

    D divides T, and M divides B. Rows may be spread over another axis of the mesh by `data_parallel`. Pipelines of
    micro-batches are those of Huang et al. (2019), arXiv 1811.06965; here they run along time instead of depth.

    Raises:
        ValueError: T or B that cannot be shared evenly; a bidirectional layer; no state for a module of one's own.
    """
    call = _Call(check_mesh(mesh, axis), micro_batches, axis, time_axis, state_axis)
    rows = _check(call, mesh, inputs, resets)
    if isinstance(model, RecurrentLayer):
        _check_layer(model, time_axis)
    state = _zeros(model, rows) if state is None else _check_state(state, rows, state_axis)
    if lengths is not None:
        lengths = check_lengths(lengths, rows, jax.tree.leaves(inputs)[0].shape[time_axis])
    structure, *arrays = nnx.split(model, nnx.Param, nnx.RngKey, ...)
    outputs, final, changed = _run(structure, call, mesh, tuple(arrays), inputs, state, lengths, resets)
    if jax.tree.leaves(changed):
        nnx.update(model, changed)
    return outputs, final


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(structure, call, mesh, *arguments):
    everywhere, along_time = PartitionSpec(), PartitionSpec(*[None] * call.time_axis, call.axis)
    in_specs = ((everywhere,) * 3, along_time, everywhere, everywhere, along_time)
    out_specs = along_time, everywhere, everywhere
    return on_each(partial(_in_shard, structure, call), mesh, call.axis, in_specs, out_specs)(*arguments)


class _Call(NamedTuple):
    """How arrays are cut."""

    devices: int  # D
    micro_batches: int  # M
    axis: str
    time_axis: int
    state_axis: int

    def cut(self, tree: Tree, rows_axis: int) -> Tree:
        """Cut rows into micro-batches, [M, ...] with an M-th of the rows each."""

        def of(array):
            shape = list(array.shape)
            shape[rows_axis : rows_axis + 1] = self.micro_batches, shape[rows_axis] // self.micro_batches
            return jnp.moveaxis(array.reshape(shape), rows_axis, 0)

        return jax.tree.map(of, tree)

    def join(self, tree: Tree, rows_axis: int) -> Tree:
        """Undo `cut`."""

        def of(array):
            shape = list(array.shape[1:])
            shape[rows_axis] *= self.micro_batches
            return jnp.moveaxis(array, 0, rows_axis).reshape(shape)

        return jax.tree.map(of, tree)

    def queue(self, tree: Tree, device: jax.Array) -> Tree:
        """Return, of micro-batches [M, ...], that of each tick on a device [M + D - 1, ...].

        A device that waits takes the first or the last one, which has no effect and raises no infinities, as zeros
        might: a cotangent of zero times an infinite derivative is NaN.
        """
        wait, ticks = self.devices - 1, self.micro_batches + self.devices - 1

        def of(array):
            around = [(wait, wait), *[(0, 0)] * (array.ndim - 1)]
            return lax.dynamic_slice_in_dim(jnp.pad(array, around, mode="edge"), wait - device, ticks)

        return jax.tree.map(of, tree)

    def worked_on(self, tree: Tree, device: jax.Array) -> Tree:
        """Return, of all ticks [M + D - 1, ...], those of the micro-batches [M, ...] on a device."""
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, device, self.micro_batches), tree)


def _in_shard(structure, call, arrays, inputs, state, lengths, resets):
    weights, keys, changing = arrays
    device, rows_axis = lax.axis_index(call.axis), 1 - call.time_axis
    keys = jax.tree.map(partial(of_shard, device), keys)
    if lengths is not None:
        steps = jax.tree.leaves(inputs)[0].shape[call.time_axis]
        lengths = jnp.clip(lengths - device * steps, 0, steps)
    cuts = ((inputs, rows_axis), (resets, rows_axis), (lengths, 0), (state, call.state_axis))
    pieces = [call.queue(call.cut(tree, at), device) for tree, at in cuts]

    def tick(carried, xs):
        received, changing = carried
        number, (inputs, resets, lengths, initial) = xs
        handed_on = (device > 0) & (number >= device) & (number < device + call.micro_batches)
        state = jax.tree.map(partial(jnp.where, handed_on), received, initial)
        options = {"lengths": lengths, "resets": resets}
        module = nnx.merge(structure, weights, keys, changing)
        outputs, after = module(
            inputs, state, **{name: value for name, value in options.items() if value is not None}
        )
        changing = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngKey)))
        sent = lax.ppermute(after, call.axis, [(d, d + 1) for d in range(call.devices - 1)])
        return (sent, changing), (outputs, after)

    nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), pieces[-1])
    ticks = jnp.arange(call.micro_batches + call.devices - 1)
    (_, changed), found = lax.scan(tick, (nothing, changing), (ticks, pieces))
    outputs, after = call.worked_on(found, device)
    last = device == call.devices - 1
    final = lax.psum(jax.tree.map(lambda a: jnp.where(last, a, 0), after), call.axis)
    return (
        call.join(outputs, rows_axis),
        call.join(final, call.state_axis),
        agreed(changing, changed, call.axis),
    )


def _check(call: _Call, mesh: Mesh, inputs: Tree, resets: Any) -> int:
    """Return the number of rows."""
    if call.time_axis not in (0, 1):
        raise ValueError(
            f"time_axis={call.time_axis} is neither 0 nor 1: rows lie along the other of the two."
        )
    if call.micro_batches < 1:
        raise ValueError(f"micro_batches={call.micro_batches}: expected at least 1.")
    shapes = {jnp.shape(array)[:2] for array in jax.tree.leaves((inputs, resets))}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"inputs and resets should all begin with the same two axes, time and rows, got {sorted(shapes)}."
        )
    shape = shapes.pop()
    steps, rows = shape[call.time_axis], shape[1 - call.time_axis]
    check_divides("time steps", steps, mesh, call.axis, "Fill up with padding, and give lengths.")
    if rows % call.micro_batches:
        raise ValueError(
            f"{rows} rows cannot be cut into {call.micro_batches} micro-batches of equal size. Choose "
            "micro_batches among the divisors, or fill up with rows of length 0."
        )
    return rows


def _check_layer(layer: RecurrentLayer, time_axis: int) -> None:
    if layer.bidirectional:
        raise ValueError(
            "wavefront needs a layer of one direction: the reverse direction would begin on the last device. "
            "Spread rows instead (data_parallel)."
        )
    if time_axis != int(layer.batch_first):
        raise ValueError(
            f"time_axis={time_axis}, but the layer has batch_first={layer.batch_first}. Pass "
            f"time_axis={int(layer.batch_first)}."
        )


def _check_state(state: Tree, rows: int, state_axis: int) -> Tree:
    shapes = [jnp.shape(array) for array in jax.tree.leaves(state)]
    if any(len(shape) <= state_axis or shape[state_axis] != rows for shape in shapes):
        raise ValueError(
            f"state: expected {rows} rows along axis {state_axis} of each array, got shapes {shapes}. "
            "Pass state_axis=."
        )
    return state


def _zeros(model: nnx.Module, rows: int) -> Any:
    """Return the state with which a layer begins when it is given none."""
    if not isinstance(model, RecurrentLayer):
        raise ValueError(
            f"state=None: only layers of jaxrnn are known to begin with zeros, not {type(model).__name__}. "
            "Pass the state to begin with."
        )
    return model._returned(model._initial_states(None, rows))
