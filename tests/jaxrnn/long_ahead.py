"""Compile training steps over very long sequences for a TPU v5e that is not here; print what its compiler says.

`python -m tests.jaxrnn.long_ahead` compiles all programs and prints one line of JSON: for each, bytes of the
device's memory, arguments included, bytes of the host's, and seconds; or the error. B = 8 rows, H = 512.
"""

import json
import os
import time

import jax

from jaxrnn.plan.topologies import LIBTPU

ROWS, FEATURES, HIDDEN, VOCABULARY = 8, 32, 512, 256
ENWIK = 12_500_992  # steps of eight lanes through 100 007 936 bytes

os.environ |= LIBTPU
jax.config.update("jax_platforms", "cpu")


def main() -> None:
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx
    from jax.experimental import topologies

    import jaxrnn
    from jaxrnn.ops.planning import planning_for

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), ("one",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shaped(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)

    class Bytes(nnx.Module):
        """A language model over bytes."""

        def __init__(self):
            rngs = nnx.Rngs(0)
            self.embed = nnx.Embed(VOCABULARY, 64, dtype=jnp.bfloat16, rngs=rngs)
            self.layer = jaxrnn.LSTM(64, HIDDEN, dtype=jnp.bfloat16, rngs=rngs)
            self.head = nnx.Linear(HIDDEN, VOCABULARY, dtype=jnp.bfloat16, rngs=rngs)

        def __call__(self, tokens, state):
            h, state = self.layer(self.embed(tokens.astype(jnp.int32)), state)
            return self.head(h), state

    def taken_apart(make):
        structure, weights = nnx.split(nnx.eval_shape(make))
        return structure, jax.tree.map(lambda a: shaped(*a.shape, dtype=a.dtype), weights)

    def layer(steps, **how):
        """The whole sequence through one layer, and a loss of its outputs."""
        options = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16} | how
        structure, weights = taken_apart(lambda: jaxrnn.LSTM(FEATURES, HIDDEN, **options, rngs=nnx.Rngs(0)))

        def loss(weights, x):
            h, _ = nnx.merge(structure, weights)(x)
            return jnp.mean(jnp.square(h.astype(jnp.float32)))

        return jax.jit(jax.grad(loss)), (weights, shaped(steps, ROWS, FEATURES))

    def language_model(steps, segments, offload=False):
        structure, weights = taken_apart(Bytes)

        def cross_entropy(logits, targets):
            return optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32), targets.astype(jnp.int32)
            )

        def loss(weights, x, y, state):
            model = nnx.merge(structure, weights)
            options = {"segments": segments, "offload": offload}
            return jaxrnn.scan_loss(model, cross_entropy, x, y, state, **options)

        state = (shaped(1, ROWS, HIDDEN), shaped(1, ROWS, HIDDEN))
        tokens = shaped(steps, ROWS, dtype=jnp.uint8)
        return jax.jit(jax.grad(loss, has_aux=True)), (weights, tokens, tokens, state)

    programs = {
        "plain scan, 100 thousand": layer(102_400, implementation="reference"),
        "gates, 100 thousand": layer(102_400),
        "carry, 600 thousand": layer(600_064, memory="carry"),
        "h, 900 thousand": layer(900_096, memory="h"),
        "segments, 419 million": language_model(419_430_400, 4096),
        "two levels, a thousand million": language_model(1_000_341_504, (1_048_576, 1024)),
        "enwik8": language_model(ENWIK, 2048),
        "enwik8, offloaded": language_model(ENWIK, 2048, offload=True),
    }
    found = {}
    with planning_for("tpu", topology.devices[0].device_kind):
        for name, (step, arguments) in programs.items():
            began = time.perf_counter()
            try:
                needs = step.lower(*arguments).compile().memory_analysis()
            except jax.errors.JaxRuntimeError as error:
                found[name] = {"error": str(error)[:300]}
                continue
            found[name] = {
                "device_bytes": needs.temp_size_in_bytes + needs.argument_size_in_bytes,
                "host_bytes": needs.host_temp_size_in_bytes,
                "seconds": time.perf_counter() - began,
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
