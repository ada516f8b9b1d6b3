"""Compile a training step for an accelerator that is not here, and count what its loops launch.

XLA compiles for a described device: `jax-cuda13-plugin` and `jax-cuda13-pjrt` bring the compiler for NVIDIA's GPUs,
`libtpu` that for TPUs; neither needs a device, a driver or the CUDA libraries. Run as a process, which sets the
flags of XLA before they are read: `python -m benchmarks.ahead h100 LSTM 16,256,64,512` prints one line of JSON.
With `bfloat16 pallas` after it, the forward loop is the persistent kernel, and of this there is what the assembler
says: registers, bytes of registers spilled, bytes of shared memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxrnn.plan.topologies import target

# Beside what a device's compiler needs: what the assembler says of our own kernels.
OVERHEARD = {"MOSAIC_GPU_DUMP_PTXAS": "1"}


def count(
    device: str, cell_name: str, size: Sequence[int], dtype: str = "float32", implementation: str = "scan"
) -> dict[str, Any]:
    """Return the plan, the loops and the kernels of our own of a training step of `size` (B, T, I, H)."""
    import jax.numpy as jnp

    from jaxrnn import cells
    from jaxrnn.ops import pallas_gpu, planning, scan
    from jaxrnn.ops.pallas_gpu.tiles import plan_tiles, shared_bytes
    from jaxrnn.plan.loops import launched, loops

    platform = target(device).platform
    rows, steps, features, hidden = size
    shaped = arrays_on(target(device).described()[0], dtype)
    cell = getattr(cells, cell_name)
    params = {name: shaped(*shape) for name, shape in cell.parameter_shapes(features, hidden).items()}
    state = cell.state(*(shaped(rows, hidden, of=jnp.float32) for _ in cell.state._fields))
    options: dict[str, Any] = {"reverse": False, "precision": None}
    mask: Any = None
    plan: Any
    if implementation == "pallas":  # ragged rows need the most registers
        run: Any = pallas_gpu.persistent
        mask = shaped(steps, rows, 1, of=bool)
        options["tiles"] = plan = plan_tiles(cell, rows, hidden, jnp.dtype(dtype))
    else:
        run = scan.unroll
        options["plan"] = plan = planning.choose(cell, steps, rows, features, hidden, platform)

    def loss(params: Any, x: jax.Array, state: Any, valid: Any, resets: Any) -> jax.Array:
        h, _ = run(cell, [params], x, [state], valid, resets, **options)
        return jnp.square(h.astype(jnp.float32)).mean()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    x = shaped(steps, rows, features)
    compiled: Any
    compiled, said = _overheard(lambda: step.lower(params, x, state, mask, mask).compile())
    kernels = [{"registers": int(m[2]), "spilled_bytes": int(m[1])} for m in _KERNEL.finditer(said)]
    if implementation == "pallas":
        shared = shared_bytes(cell, plan, jnp.dtype(dtype))
        kernels = [kernel | {"shared_bytes": shared} for kernel in kernels]
    found = loops(compiled.as_text())
    unknown = any(loop.trips is None for loop in found)  # a TPU's program does not say
    return {
        "plan": plan._asdict(),
        "loops": [dataclasses.asdict(loop) for loop in found],
        "kernels": kernels,
        "kernels_per_step": None if unknown else launched(found) / steps,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def arrays_on(device: Any, dtype: Any) -> Callable[..., jax.ShapeDtypeStruct]:
    """Return ``shaped(*shape, of=dtype)``, which describes an array on a device that may not be here."""
    import numpy as np

    mesh = jax.sharding.Mesh(np.array([device]), ("one",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def shaped(*shape: int, of: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.dtype(of), sharding=sharding)

    return shaped


_KERNEL = re.compile(r"(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


def _overheard(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of `work` and what it wrote to standard output and error, compilers in C++ included."""
    with tempfile.TemporaryFile() as heard:
        before = [(stream, os.dup(stream)) for stream in (1, 2)]
        try:
            for stream, _ in before:
                os.dup2(heard.fileno(), stream)
            result = work()
        finally:
            for stream, copy in before:
                os.dup2(copy, stream)
                os.close(copy)
        heard.seek(0)
        return result, heard.read().decode(errors="replace")


def main(arguments: Sequence[str]) -> None:
    """Print what `count` finds."""
    device, cell, size, *rest = arguments
    os.environ |= target(device).environment | OVERHEARD
    jax.config.update("jax_platforms", "cpu")  # read from the environment when JAX was imported
    print(json.dumps(count(device, cell, [int(n) for n in size.split(",")], *rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
