"""The persistent kernel, run by JAX's interpreter for GPU kernels beside the reference, in a process of its own.

Blocks of a cluster wait for each other, so each needs a thread of XLA: `NPROC=32 python -m
tests.jaxrnn.interpreted_kernel LSTM` prints {case: {what: the root mean square of the error}} as JSON.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import cells
from jaxrnn.ops import pallas_gpu, reference, scan
from jaxrnn.ops.pallas_gpu.tiles import Tiles
from tests.jaxrnn.common import draw, draw_cell, rms_error, scalar

STEPS, FEATURES = 4, 5
# Per case: tiles, dtype, rows of the batch, reverse, ragged with resets. A last tile that is not full, several
# batch tiles, one block and several, two gates to a product and one, two products to a gate.
CASES = {
    "two blocks of 32 units": (Tiles(2, 32, 16), "float32", 3, True, True),
    "three blocks, two batch tiles": (Tiles(3, 32, 16), "bfloat16", 20, False, True),
    "two blocks of 64 units": (Tiles(2, 64, 16), "bfloat16", 3, True, False),
    "one block": (Tiles(1, 128, 16), "float32", 3, False, True),
    "wide batch tile": (Tiles(1, 64, 64), "float16", 65, False, False),
}


def problem(cell, tiles, dtype, rows, reverse, ragged):
    """Return two functions of (params, x, state), the kernel and what it is held to, and their arguments."""
    hidden = tiles.blocks * tiles.units
    params, x, state = draw_cell(cell, rows, STEPS, FEATURES, hidden, dtype=jnp.dtype(dtype))
    params["weight_hh"] *= 4 / hidden**0.5
    state = jax.tree.map(lambda s: s.astype(jnp.float32), state)
    valid = resets = None
    if ragged:
        random = np.random.default_rng(1)
        valid = jnp.arange(STEPS)[:, None, None] < jnp.asarray(random.integers(0, STEPS + 1, (rows, 1)))
        resets = jnp.asarray(random.random((STEPS, rows, 1)) < 0.3) & valid

    def run(unroll, params, x, state, **options):
        x = x.swapaxes(0, 1)
        options |= {"reverse": reverse, "precision": None}
        h, (final,) = unroll(cell, [params], x, [state], valid, resets, **options)
        return h, final

    # In half precision, gradients of two programs differ by roundings; the scan's are those of the same program.
    exact = reference.unroll if dtype == "float32" else scan.unroll
    kernel = partial(run, pallas_gpu.persistent, tiles=tiles, interpret=interpreter())
    return kernel, partial(run, exact), (params, x, state)


def interpreter():
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return plgpu.InterpretGPUParams(detect_races=True)


def races() -> bool:
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    return gpu_callbacks.get_races().races_found


def compared(ours, theirs, args):
    """Return the errors of outputs, of final states and of all gradients, by name."""

    def everything(run):
        h, final = run(*args)
        gradients = jax.grad(scalar(run), argnums=(0, 1, 2))(*args)
        return {"h": h, "final": final._asdict(), "d": [gradients[0], gradients[1], gradients[2]._asdict()]}

    actual, expected = everything(ours), everything(theirs)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    pairs = zip(paths, jax.tree.leaves(actual), strict=True)
    return {jax.tree_util.keystr(path): rms_error(a, e) for (path, e), a in pairs}


def transformed():
    """Return the errors of forward mode, second derivatives and `vmap`."""
    ours, theirs, args = problem(cells.LSTM, Tiles(1, 32, 16), "float32", 3, False, True)
    direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape), a.dtype), args)

    def tangent(run):
        return jax.jvp(run, args, direction)[1]

    def second(run):
        return jax.grad(lambda x: jnp.sum(jax.grad(scalar(run), argnums=1)(args[0], x, args[2]) ** 2))(
            args[1]
        )

    def per_network(run):
        params = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), args[0])
        return jax.vmap(run, in_axes=(0, None, None))(params, *args[1:])

    transforms = {"forward mode": tangent, "second derivative": second, "vmap": per_network}
    return {
        name: max(map(rms_error, jax.tree.leaves(each(ours)), jax.tree.leaves(each(theirs))))
        for name, each in transforms.items()
    }


def unsynchronised():
    """Return whether the interpreter finds the races of a kernel that waits for nothing; it may fail of them."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    plgpu.barrier_wait = lambda barrier: None
    ours, _, args = problem(cells.GRU, Tiles(2, 32, 16), "bfloat16", 3, False, False)
    try:
        jax.block_until_ready(ours(*args))
    except Exception as error:
        return "RACE DETECTED" in str(error)
    return races()


def main(name: str) -> None:
    if name == "transformed":
        found = transformed()
    elif name == "unsynchronised":
        found = {"races": unsynchronised()}
    else:
        cell = getattr(cells, name)
        found = {case: compared(*problem(cell, *CASES[case])) for case in CASES}
        found["races"] = races()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
