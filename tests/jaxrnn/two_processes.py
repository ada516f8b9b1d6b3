"""A training step on four devices of a CPU, of one process or of two: `... two_processes 0 PORT`.

Each process holds the rows of its devices alone, as on a cluster; without arguments, one holds all of them. Prints
value and gradients as JSON.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxrnn
from jaxrnn.sharding import data_parallel
from tests.jaxrnn.common import draw, fill

T, B, I, H = 6, 8, 3, 4
LENGTHS = np.array([6, 0, 0, 0, 2, 5, 1, 6], np.int32)


def loss(model, x, lengths):
    h, _ = model(x, lengths=lengths)
    return jnp.square(h).sum(), lengths.sum() * H


def main(process, port):
    jax.config.update("jax_num_cpu_devices", 4 if process is None else 2)
    if process is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert len(jax.devices()) == 4
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    mine = slice(None) if process is None else slice(4 * process, 4 * process + 4)

    def of_all(spec, local):
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), local)

    rows = PartitionSpec(None, "data"), PartitionSpec("data")
    x = of_all(rows[0], draw(0, T, B, I).astype("float32")[:, mine])
    lengths = of_all(rows[1], LENGTHS[mine])
    model = fill(jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0)), jnp.float32)
    mean = data_parallel(loss, mesh, rows)
    value, gradients = nnx.jit(nnx.value_and_grad(mean))(model, x, lengths)
    # After the reduction, every device of every process has all of them.
    numbers = jax.tree.map(lambda a: np.asarray(a.addressable_data(0)).tolist(), (value, gradients))
    print(json.dumps({"devices here": len(x.addressable_shards), "numbers": jax.tree.leaves(numbers)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]) if sys.argv[1:] else (None, None))
