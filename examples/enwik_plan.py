"""What one exact gradient of `examples.enwik_long` through 100 million bytes needs on a TPU v5e that is not here.

`python -m examples.enwik_plan [STEPS]` compiles the example's own loss by libtpu, for eight lanes of 12,500,992
steps, hidden 512, bfloat16, segments of 2048, and prints what the compiler allots.
"""

import os
import sys
import time
from typing import Any

from benchmarks.ahead import LIBTPU

LANES, STEPS, HIDDEN, SEGMENTS = 8, 12_500_992, 512, 2048
V5E_GIB = 15.75  # that its compiler grants

os.environ |= LIBTPU | {"JAX_PLATFORMS": "cpu"}


def main(steps: int) -> None:
    """Print one line."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax.experimental import topologies

    from examples.enwik_long import ByteModel, bits_per_byte
    from jaxrnn.ops.planning import planning_for

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = jax.sharding.Mesh(np.array(topology.devices[:1]), ("one",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shaped(tree):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    def make():
        return ByteModel(HIDDEN, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)

    def loss(weights, x, y, state):
        return bits_per_byte(nnx.merge(structure, weights), x, y, state, SEGMENTS)

    structure, weights = nnx.split(nnx.eval_shape(make))
    tokens = jax.ShapeDtypeStruct((steps, LANES), jnp.uint8)
    state = jax.eval_shape(lambda: make().start(LANES))
    began = time.perf_counter()
    with planning_for("tpu"):
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(*map(shaped, (weights, tokens, tokens, state)))
    needs: Any = lowered.compile().memory_analysis()
    gib = (needs.temp_size_in_bytes + needs.argument_size_in_bytes) / 2**30
    print(
        f"one exact gradient through {LANES * steps:,} bytes ({LANES} lanes of {steps:,} steps, hidden {HIDDEN}, "
        f"bfloat16, segments of {SEGMENTS}) on a TPU v5e: {gib:.2f} GiB of {V5E_GIB}, by its compiler "
        f"({time.perf_counter() - began:.0f} s); never run on one"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
