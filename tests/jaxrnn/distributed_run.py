"""A run of `fit` over four devices in COUNT processes, with batches by grain and checkpoints within epochs.

`python -m tests.jaxrnn.distributed_run DIRECTORY PORT INDEX COUNT`: with COUNT 2, four of six batches are trained
on, and the run breaks off; with COUNT 1, a whole run is trained, and the one in DIRECTORY is resumed. Prints one
line of JSON: losses, weights and the rows that were read.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import chain

DIRECTORY, PORT, INDEX, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
DEVICES = 4

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // COUNT}",
}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import jaxrnn  # noqa: E402
from jaxrnn import pipeline  # noqa: E402
from jaxrnn.train import Checkpoints, fit  # noqa: E402

if COUNT > 1:
    jax.distributed.initialize(f"127.0.0.1:{PORT}", COUNT, INDEX, initialization_timeout=120)

WINDOWS = jaxrnn.data.sliding_windows(np.sin(np.arange(60) ** 1.5).astype(np.float32)[:, None], 8)


class BrokenOff(Exception):
    pass


class Model(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.gru = jaxrnn.GRU(1, 4, batch_first=True, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.gru(x)[0][:, -1])


def train(seed, break_off_at=None, **options):
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    model = Model(seed)
    nnx.update(model, jax.device_put(nnx.state(model), NamedSharding(mesh, P())))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    rows_read = []

    def place(batch):
        if len(rows_read) == break_off_at:
            raise BrokenOff
        rows_read.append(batch[1][:, 0].tolist())
        return tuple(
            jax.make_array_from_process_local_data(NamedSharding(mesh, P("d")), part) for part in batch
        )

    def loss(model, batch):
        return jnp.mean((model(batch[0]) - batch[1]) ** 2)

    dataset = pipeline.examples(WINDOWS, 16, shuffle_seed=1).map(place)  # three batches
    losses = ()
    with suppress(BrokenOff):
        batches = partial(pipeline.stream, dataset, prefetch=1)
        losses = fit(model, optimizer, loss, batches, epochs=2, progress=False, **options).train_loss
    weights = [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    return {"losses": losses, "weights": list(chain(*weights)), "rows": rows_read}


def preempted():
    """Count to a hundred, get SIGTERM on the way, and return at which step the run was saved."""
    with Checkpoints(f"{DIRECTORY}-preempted", every=1000) as checkpoints:
        for step in range(1, 100):
            if (step, INDEX) == (5, 1):
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # the notice takes a while to reach the other
            checkpoints.save(step, {"step": jnp.asarray(step)})
            if checkpoints.preempted:
                break
    return step, checkpoints.steps


if __name__ == "__main__":
    saving = {"checkpoint": DIRECTORY, "checkpoint_every": 1}
    if COUNT == 2:
        print(json.dumps({**train(0, break_off_at=4, **saving), "preempted": preempted()}))
    else:
        print(json.dumps({"whole": train(0), "resumed": train(9, **saving)}))
