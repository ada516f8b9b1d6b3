"""A training step on four devices of a CPU, of one process or of two: `... two_processes 0 PORT`.

Each process holds the rows of its devices alone, as on a cluster; without arguments, one holds all of them. Prints
value and gradients as JSON, and what comes out where time or units are spread.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn.sharding import HiddenSharded, data_parallel, wavefront
from tests.jaxrnn.common import draw, fill

T, B, I, H = 8, 8, 3, 4
INPUTS = draw(0, T, B, I).astype("float32")
LENGTHS = np.array([8, 0, 0, 0, 2, 5, 1, 6], np.int32)


def mesh_of(axis):
    return jax.make_mesh((4,), (axis,), (AxisType.Auto,))


def of_all(mesh, spec, local):
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), local)


def layer():
    return fill(jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0)), jnp.float32)


def loss(model, x, lengths):
    h, _ = model(x, lengths=lengths)
    return jnp.square(h).sum(), lengths.sum() * H


def rows(mine):
    """Return value and gradients: after the reduction, every device of every process has all of them."""
    mesh, specs = mesh_of("data"), (PartitionSpec(None, "data"), PartitionSpec("data"))
    x = of_all(mesh, specs[0], INPUTS[:, mine])
    lengths = of_all(mesh, specs[1], LENGTHS[mine])
    assert len(x.addressable_shards) == jax.local_device_count()
    return nnx.jit(nnx.value_and_grad(data_parallel(loss, mesh, specs)))(layer(), x, lengths)


def time(mine):
    """Return final states, which the last device hands to all."""
    mesh, spec = mesh_of("time"), PartitionSpec("time")
    x = of_all(mesh, spec, INPUTS[mine])
    return nnx.jit(lambda layer, x: wavefront(layer, x, mesh=mesh, micro_batches=2)[1])(layer(), x)


def units():
    """Return outputs, and the layer's own parameters after they were spread."""
    mesh = mesh_of("model")
    wide, x = HiddenSharded(layer(), mesh), of_all(mesh, PartitionSpec(), INPUTS)
    return nnx.jit(lambda wide, x: wide(x)[0])(wide, x), nnx.state(wide.gathered(), nnx.Param)


def main(process, port):
    jax.config.update("jax_num_cpu_devices", 4 if process is None else 2)
    if process is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert len(jax.devices()) == 4
    mine = slice(None) if process is None else slice(4 * process, 4 * process + 4)
    found = {"rows": rows(mine), "time": time(mine), "units": units()}
    numbers = {
        name: [np.asarray(array.addressable_data(0)).tolist() for array in jax.tree.leaves(tree)]
        for name, tree in found.items()
    }
    print(json.dumps({"devices here": jax.local_device_count(), **numbers}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]) if sys.argv[1:] else (None, None))
