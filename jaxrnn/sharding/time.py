"""Time spread over devices: each takes a stretch of every row, and the state passes from one to the next."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxrnn.layers.recurrent import RecurrentLayer
from jaxrnn.lengths import check_lengths
from jaxrnn.sharding.specs import check_divides, check_mesh, of_shard, placed

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

    Of D devices, each holds T / D steps of every row, inputs, outputs and what the backward pass keeps. Rows are cut
    into M micro-batches that follow each other through the devices as a wave::

        tick          0    1    2    3    4         device d works on micro-batch m at tick d + m,
        device 0      m0   m1   m2                  then hands its state to device d + 1
        device 1           m0   m1   m2
        device 2                m0   m1   m2

    so M + D - 1 ticks do the work of M, a utilisation of ``M / (M + D - 1)``, at least 80 % from M = 4 D on. This is
    backpropagation through all T steps, exact to rounding; only states, and their cotangents, pass between devices.
    Example, an LSTM over sequences that no single device could hold::

        output, (h, c) = jaxrnn.sharding.wavefront(lstm, x, mesh=mesh, micro_batches=16)    # x [T, B, I]

    * `model`: a layer of this library in one direction, or any module ``model(inputs, state) -> (outputs, state)``
      that begins where the state says. Random streams are advanced, each device and tick drawing by keys of its own.
    * `inputs`, `outputs`: arrays, or trees of them, time along `time_axis` (0 or 1) and rows along the other. The
      outputs of a module may have another number of steps than its inputs, one loss per stretch and row, say: those
      of all devices are put one after the other.
    * `state`: rows along `state_axis` of each array. None begins with zeros and is for our layers alone.
    * `lengths`, int [B], and `resets`, bool like the inputs without features, are handed to the model by name, each
      device its part of them.

    D divides T, and M divides B. Other axes of the mesh are left to the compiler. Pipelines over micro-batches: Huang
    et al. (2019), arXiv 1811.06965; here they run along time instead of depth.

    Raises:
        ValueError: T or B that cannot be shared evenly; a bidirectional layer; no state for a module of one's own.
    """
    devices = check_mesh(mesh, axis)
    call = _Call(devices, micro_batches, axis, time_axis, state_axis)
    rows = _check(call, mesh, inputs, resets)
    if isinstance(model, RecurrentLayer):
        state = _zeros(model, inputs, time_axis, rows) if state is None else state
    elif state is None:
        raise ValueError("state=None is for layers of jaxrnn, which begin with zeros. Pass the state to begin with.")
    if lengths is not None:
        lengths = check_lengths(lengths, rows, jax.tree.leaves(inputs)[0].shape[time_axis])
    structure, *arrays = nnx.split(model, nnx.Param, nnx.RngKey, ...)

    everywhere, along_time = PartitionSpec(), PartitionSpec(*[None] * time_axis, axis)
    specs = ((everywhere,) * 3, along_time, everywhere, everywhere, along_time)
    run = jax.shard_map(
        partial(_in_shard, structure, call),
        mesh=mesh,
        in_specs=specs,
        out_specs=(along_time, everywhere, everywhere),
        axis_names={axis},
        # With replication tracked, gradients of the weights would be summed where these are used: in the loops.
        check_vma=False,
    )
    outputs, final, changed = jax.jit(run)(*placed((tuple(arrays), inputs, state, lengths, resets), mesh, specs))
    if jax.tree.leaves(changed):
        nnx.update(model, changed)
    return outputs, final
