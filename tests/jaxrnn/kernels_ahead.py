"""Compile a training step by the TPU kernels for a chip that is not here; print what the compiler makes of it.

`python -m tests.jaxrnn.kernels_ahead CHIP CASE` takes the widest network of a case that is served, and prints one
line of JSON: its hidden features, and the calls of kernels in the compiled step.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp

from benchmarks.ahead import arrays_on
from jaxrnn import cells, ops
from jaxrnn.ops.pallas_tpu.sizes import Size, choose_steps, vmem_of
from jaxrnn.ops.planning import planning_for
from jaxrnn.plan.topologies import LIBTPU, target

# Cell, dtype, rows, steps, memory policy, ragged with resets; features are the most that fit.
CASES = [
    ("LSTM", "bfloat16", 8, 256, None, False),
    ("LSTM", "float32", 8, 256, None, False),
    ("GRU", "bfloat16", 200, 64, "carry", True),
    ("PEEPHOLE_LSTM", "bfloat16", 3, 100, "h", True),
    ("TANH", "float32", 1, 64, None, True),
]


def main(chip: str, case: str) -> None:
    os.environ |= LIBTPU
    jax.config.update("jax_platforms", "cpu")
    cell_name, dtype, rows, steps, memory, ragged = CASES[int(case)]
    cell, device = getattr(cells, cell_name), target(chip).described()[0]
    vmem = vmem_of(device.device_kind)

    def fits(hidden):
        size = Size(cell, rows, hidden, hidden, jnp.dtype(dtype), jnp.dtype(dtype))
        return choose_steps(size, steps, vmem) is not None

    def loss(params, x, state, lengths, resets):
        options = {"lengths": lengths, "resets": resets, "memory": memory, "implementation": "pallas"}
        h, _ = ops.unroll(cell, params, x, state, **options)
        return jnp.square(h.astype(jnp.float32)).mean()

    hidden = max(h for h in range(128, 8192, 128) if fits(h)) - 8
    shaped = arrays_on(device, jnp.dtype(dtype))
    params = {key: shaped(*shape) for key, shape in cell.parameter_shapes(hidden, hidden).items()}
    state = cell.state(*(shaped(rows, hidden) for _ in cell.state._fields))
    marks = (shaped(rows, of="int32"), shaped(rows, steps, of=bool)) if ragged else (None, None)
    with planning_for("tpu", device.device_kind):
        step = jax.jit(jax.grad(loss, argnums=(0, 1)))
        lowered = step.lower(params, shaped(rows, steps, hidden), state, *marks)
    text = lowered.compile().as_text()
    print(json.dumps({"hidden": hidden, "kernels": text.count('custom_call_target="tpu_custom_call"')}))


if __name__ == "__main__":
    main(*sys.argv[1:])
