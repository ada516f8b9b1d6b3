"""What an unroll in parallel over time takes: iterations of both passes, and memory, beside the loop.

``python -m benchmarks.parallel_in_time`` prints a table (B = 1, I = 8, H = 128, float32; weights of U(±scale)/√H,
of which scale 1 is torch's initialisation). Memory is what XLA allots to a training step beside its arguments, in
arrays [T, B, H]. Times are not compared: on a CPU there is little to run in parallel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

FEATURES, HIDDEN = 8, 128
SCALES, STEPS = (1.0, 2.0, 4.0), (128, 2048)


def training_step(cell: Any, implementation: Any, steps: int) -> Any:
    """Return the compiled gradient of a loss by parameters and input."""
    import jax
    import jax.numpy as jnp

    from jaxrnn import ops

    def loss(params, x):
        state = cell.state(*(jnp.zeros((1, HIDDEN)) for _ in cell.state._fields))
        return jnp.square(ops.unroll(cell, params, x, state, implementation=implementation)[0]).mean()

    shaped = {name: jnp.zeros(shape) for name, shape in cell.parameter_shapes(FEATURES, HIDDEN).items()}
    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shaped, jnp.zeros((1, steps, FEATURES))).compile()


def arrays(compiled: Any, steps: int) -> float:
    """Return the memory of a compiled program, in float32 arrays [T, B, H]."""
    return compiled.memory_analysis().temp_size_in_bytes / (4 * steps * HIDDEN)


def iterations(cell: Any, compiled: Any, found: list[Any], steps: int, scale: float) -> str:
    """Return how many iterations each pass took, with weights of a scale; certificates arrive in `found`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    random = np.random.default_rng(0)
    params = {
        name: jnp.asarray(random.uniform(-1, 1, shape) * scale / HIDDEN**0.5, jnp.float32)
        for name, shape in cell.parameter_shapes(FEATURES, HIDDEN).items()
    }
    found.clear()
    jax.block_until_ready(
        compiled(params, jnp.asarray(random.standard_normal((1, steps, FEATURES)), jnp.float32))
    )
    jax.effects_barrier()
    return " + ".join(f"{one.iterations}" if one.converged else "loop" for one in found)


def _keep(found: list[Any], what: str, certificate: Any) -> None:
    found.append(certificate)


def main() -> None:
    """See the module."""
    from jaxrnn import cells
    from jaxrnn.ops import QuasiDeer

    print("cell | T | " + " | ".join(f"scale {scale:g}" for scale in SCALES) + " | memory | of the loop")
    for cell in (cells.TANH, cells.GRU, cells.LSTM):
        for steps in STEPS:
            found: list[Any] = []
            how = QuasiDeer(report=partial(_keep, found))
            parallel, loop = (training_step(cell, each, steps) for each in (how, "scan"))
            taken = [iterations(cell, parallel, found, steps, scale) for scale in SCALES]
            print(
                cell.name,
                steps,
                *taken,
                f"{arrays(parallel, steps):.0f}",
                f"{arrays(loop, steps):.0f}",
                sep=" | ",
            )


if __name__ == "__main__":
    main()
