"""Compile training steps by the TPU kernels for chips that are not here; print what the compiler makes of them.

`python -m tests.jaxrnn.kernels_ahead` takes, for each kind of chip, the widest networks that are served, and prints
one line of JSON: for each, the calls of kernels in the compiled step, or the error.
"""

import json
import os
import sys

import jax

from jaxrnn.plan.topologies import CHIPS, LIBTPU, target

os.environ |= LIBTPU
jax.config.update("jax_platforms", "cpu")

# Cell, dtype, rows, steps, memory policy, ragged with resets; features are the most that fit.
CASES = [
    ("LSTM", "bfloat16", 8, 256, None, False),
    ("LSTM", "float32", 8, 256, None, False),
    ("GRU", "bfloat16", 200, 64, "carry", True),
    ("PEEPHOLE_LSTM", "bfloat16", 3, 100, "h", True),
    ("TANH", "float32", 1, 64, None, True),
]


def main(names: list[str]) -> None:
    import jax.numpy as jnp
    import numpy as np

    from jaxrnn import cells, ops
    from jaxrnn.ops.pallas_tpu.sizes import Size, choose_steps, vmem_of
    from jaxrnn.ops.planning import planning_for

    found = {}
    for name in names or CHIPS:
        device = target(name).described()[0]
        mesh = jax.sharding.Mesh(np.array([device]), ("one",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        for cell_name, dtype, rows, steps, memory, ragged in CASES:
            cell = getattr(cells, cell_name)

            def fits(hidden, cell=cell, rows=rows, dtype=dtype, steps=steps, kind=device.device_kind):
                size = Size(cell, rows, hidden, hidden, jnp.dtype(dtype), jnp.dtype(dtype))
                return choose_steps(size, steps, vmem_of(kind)) is not None

            hidden = max(h for h in range(128, 8192, 128) if fits(h)) - 8

            def shaped(*shape, of=dtype, sharding=sharding):
                return jax.ShapeDtypeStruct(shape, jnp.dtype(of), sharding=sharding)

            def loss(params, x, state, lengths, resets, cell=cell, memory=memory):
                h, _ = ops.unroll(
                    cell,
                    params,
                    x,
                    state,
                    lengths=lengths,
                    resets=resets,
                    memory=memory,
                    implementation="pallas",
                )
                return jnp.square(h.astype(jnp.float32)).mean()

            params = {key: shaped(*shape) for key, shape in cell.parameter_shapes(hidden, hidden).items()}
            state = cell.state(*(shaped(rows, hidden) for _ in cell.state._fields))
            lengths, resets = (
                (shaped(rows, of="int32"), shaped(rows, steps, of=bool)) if ragged else (None, None)
            )
            step = jax.jit(jax.grad(loss, argnums=(0, 1)))
            key = f"{name} {cell_name} {dtype} H={hidden}"
            try:
                with planning_for("tpu", device.device_kind):
                    lowered = step.lower(params, shaped(rows, steps, hidden), state, lengths, resets)
                found[key] = lowered.compile().as_text().count('custom_call_target="tpu_custom_call"')
            except Exception as error:  # whatever the compiler says is the finding
                found[key] = f"{type(error).__name__}: {error}"[:400]
            print(key, found[key], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
