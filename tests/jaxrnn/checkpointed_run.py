"""A training run with checkpoints on several devices, to be killed, and resumed on others.

`python -m tests.jaxrnn.checkpointed_run killed DIRECTORY` kills itself while it saves; `... resumed DIRECTORY` then
trains one run without interruption and resumes the killed one on 4, 2 and 1 devices, each from its own copy, and
prints one line of JSON: losses and weights of each.
"""

import json
import os
import shutil
import signal
import sys

DEVICES, LANES, STEPS, KILLED_AT, WINDOW = 4, 8, 6, 4, 12

os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import jaxrnn  # noqa: E402
from jaxrnn.train import Checkpoints  # noqa: E402


class Bytes(nnx.Module):
    """A language model with all kinds of state: parameters, and the streams of its dropout."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(16, 8, rngs=rngs)
        self.lstm = jaxrnn.LSTM(8, 12, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(12, 16, rngs=rngs)

    def __call__(self, tokens, state):
        h, state = self.lstm(self.embed(tokens), state)
        return self.head(self.dropout(h)), state


def spread(mesh, seed):
    """Return model, optimizer and carry on the mesh: the lanes of the carry and the head's outputs are spread."""
    model = Bytes(nnx.Rngs(seed))

    def place(path, leaf):
        columns = P(None, "d") if "kernel" in jax.tree_util.keystr(path) else P()
        return jax.device_put(leaf, NamedSharding(mesh, columns))

    nnx.update(model, jax.tree_util.tree_map_with_path(place, nnx.state(model)))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    zeros = jax.device_put(jnp.zeros((1, LANES, 12)), NamedSharding(mesh, P(None, "d")))
    return {"model": model, "optimizer": optimizer, "carry": (zeros, zeros + 0)}


def train(run, mesh, checkpoints=None, killed_at=None):
    """Train to the end; return losses, including those before a resume, and the parameters."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    tokens = np.random.default_rng(0).integers(0, 16, (STEPS * WINDOW + 1, LANES)).astype(np.int32)
    step, losses = 0, []
    if checkpoints:
        step, run, facts = checkpoints.resume(run)
        losses = facts.get("losses", [])
        carry, kernel = run["carry"][0].sharding, run["model"].head.kernel.sharding
        assert (carry.mesh, carry.spec) == (mesh, P(None, "d"))
        assert (kernel.mesh, kernel.spec) == (mesh, P(None, "d"))
    while step < STEPS:
        window = tokens[step * WINDOW : (step + 1) * WINDOW + 1]
        x, y = (jax.device_put(part, NamedSharding(mesh, P(None, "d"))) for part in (window[:-1], window[1:]))
        means, run["carry"] = jaxrnn.truncated_bptt(
            run["model"], run["optimizer"], cross_entropy, x, y, run["carry"], k1=4
        )
        losses += means.tolist()
        step += 1
        if checkpoints:
            assert checkpoints.save(step, run, {"losses": losses})
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)  # while orbax writes
    weights = jax.tree.leaves(nnx.state((run["model"], run["optimizer"])))
    carry = jax.tree.leaves(run["carry"])
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in weights]
    numbers = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(weights, keys, strict=True)]
    return {"losses": losses, "weights": [np.asarray(leaf).tolist() for leaf in [*numbers, *carry]]}


def main(what, directory):
    mesh = {n: Mesh(np.array(jax.devices()[:n]), ("d",)) for n in (4, 2, 1)}
    if what == "killed":
        with Checkpoints(directory) as checkpoints:
            train(spread(mesh[4], 0), mesh[4], checkpoints, KILLED_AT)
    found = {"whole": train(spread(mesh[4], 0), mesh[4])}
    found["last step before the kill"] = Checkpoints(directory).steps[-1]
    for devices, on in mesh.items():
        with Checkpoints(shutil.copytree(directory, f"{directory}-{devices}")) as checkpoints:
            found[f"resumed on {devices}"] = train(spread(on, 9), on, checkpoints)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
