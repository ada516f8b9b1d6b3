"""Ask libtpu what it expects a step to take on a TPU v5e that is not here, by its static profile (`plan.profile`).

`python -m tests.jaxrnn.cycles_ahead CELL STEPS` prints one line of JSON, cycles per time step at B = 8, I = 64,
H = 512 in bfloat16: of the forward and the backward kernel, and of the scan's whole programs over so many STEPS,
forward alone and training. Each program has a process of its own, which may abort once it has written what is read.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

from benchmarks.ahead import arrays_on
from jaxrnn.plan import profile
from jaxrnn.plan.topologies import target

ROWS, INPUTS, HIDDEN = 8, 64, 512
KERNEL_STEPS = 128  # per step, a kernel's estimate hardly depends on it; the time it takes does


def compile_one(cell_name: str, implementation: str, what: str, steps: int) -> None:
    """Compile a program where the profile was asked for, and print the scan's cycles."""
    import jax
    import jax.numpy as jnp

    from jaxrnn import cells, ops
    from jaxrnn.ops.planning import planning_for

    cell = getattr(cells, cell_name)
    device = target("v5e").described()[0]
    shaped = arrays_on(device, jnp.bfloat16)

    def forward(params, x, state):
        return ops.unroll(cell, params, x, state, implementation=implementation)

    def loss(params, x, state):
        return jnp.square(forward(params, x, state)[0].astype(jnp.float32)).mean()

    params = {name: shaped(*shape) for name, shape in cell.parameter_shapes(INPUTS, HIDDEN).items()}
    state = cell.state(*(shaped(ROWS, HIDDEN, of=jnp.float32) for _ in cell.state._fields))
    step = jax.jit(forward if what == "forward" else jax.grad(loss))
    with planning_for("tpu", device.device_kind):
        compiled = step.lower(params, shaped(ROWS, steps, INPUTS), state).compile()
    print(json.dumps(profile.cycles(compiled.as_text())))


def run(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Compile a program in another process, which leaves its profile in a folder."""
    environment = profile.asked_for(os.environ | target("v5e").environment, folder)
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-m", "tests.jaxrnn.cycles_ahead", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def of_kernels(cell: str) -> dict[str, float]:
    """Return what the two kernels of a training step take."""
    with tempfile.TemporaryDirectory() as folder:
        ended = run(folder, cell, "pallas", "training", str(KERNEL_STEPS))
        estimates = profile.read(folder)
    found = {}
    for name, cycles in estimates.items():
        if kernel := re.search(r"_(forward|backward)(\.\d+)?$", name):
            found[kernel[1]] = cycles / KERNEL_STEPS
    if len(found) != 2:
        raise RuntimeError(f"no estimate of the kernels: {ended.stderr[-500:]}")
    return found


def of_the_scan(cell: str, steps: int) -> dict[str, float]:
    """Return what whole programs of the scan take."""
    found = {}
    for what in ("forward", "training"):
        with tempfile.TemporaryDirectory() as folder:
            ended = run(folder, cell, "scan", what, str(steps))
        if ended.returncode:
            raise RuntimeError(f"{cell}, {what}: {ended.stderr[-500:]}")
        found[what] = json.loads(ended.stdout.splitlines()[-1]) / steps
    return found


def main(cell: str, steps: int) -> None:
    print(json.dumps({"kernels": of_kernels(cell), "scan": of_the_scan(cell, steps)}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(sys.argv[1], int(sys.argv[2]))
    else:
        compile_one(*sys.argv[1:4], int(sys.argv[4]))
