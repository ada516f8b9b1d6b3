"""A million steps by exact backpropagation through time: memory and time of one process, ours and flax.nnx's.

``python -m benchmarks.long_run OUT`` trains one LSTM (B = 1, I = 8) in a process of its own per length, and writes
JSON: jaxrnn at ten thousand steps and at a million, flax.nnx at ten thousand and at the most with which its process
stays below the same 2 GiB. ``python -m benchmarks.long_run OUT jaxrnn 1000000`` is one such process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, peak_bytes

FEATURES, HIDDEN = 8, 128
SHORT, LONG = 10_000, 1_000_000
ALLOWED = 2 * 2**30  # bytes of a process
STEP_OF_SEARCH = 10_000


def train(library: str, steps: int) -> dict[str, Any]:
    """Take optimizer steps through a sequence of `steps`; return the peak memory, time per time step and losses."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((steps, 1, FEATURES)), jnp.float32)
    y = jnp.asarray(np.cumsum(random.standard_normal((steps, 1, 1)), 0) / steps**0.5, jnp.float32)
    head = nnx.Linear(HIDDEN, 1, rngs=nnx.Rngs(1))

    if library == "jaxrnn":
        import jaxrnn

        layer: Any = jaxrnn.LSTM(FEATURES, HIDDEN, rngs=nnx.Rngs(0))
        state = tuple(jnp.zeros((1, 1, HIDDEN)) for _ in range(2))

        def loss(layer, head):
            def model(x, state):
                h, state = layer(x, state)
                return head(h), state

            return jaxrnn.scan_loss(model, lambda a, b: jnp.square(a - b), x, y, state)[0]
    else:
        layer = nnx.RNN(nnx.OptimizedLSTMCell(FEATURES, HIDDEN, rngs=nnx.Rngs(0)), time_major=True)

        def loss(layer, head):
            carry = (jnp.zeros((1, HIDDEN)), jnp.zeros((1, HIDDEN)))  # its own draws a random number
            return jnp.square(head(layer(x, initial_carry=carry)) - y).mean()

    structure = nnx.graphdef((layer, head))
    weights, rest = nnx.state((layer, head), nnx.Param), nnx.state((layer, head), nnx.Not(nnx.Param))
    rule = optax.sgd(0.1)

    @jax.jit
    def update(weights, state):
        value, gradients = jax.value_and_grad(lambda weights: loss(*nnx.merge(structure, weights, rest)))(
            weights
        )
        changes, state = rule.update(gradients, state, weights)
        return value, optax.apply_updates(weights, changes), state

    of_rule, losses, seconds = rule.init(weights), [], []
    for _ in range(max(3, min(20, 200_000 // steps))):
        began = time.perf_counter()
        value, weights, of_rule = update(weights, of_rule)
        losses.append(float(value))
        seconds.append(time.perf_counter() - began)
    return {
        "library": library,
        "steps": steps,
        "peak_bytes": peak_bytes(),
        "microseconds_per_step": 1e6 * float(np.median(seconds[1:])) / steps,
        "losses": losses[:3],
    }


def in_a_process(library: str, steps: int) -> dict[str, Any]:
    """Return what `train` does, of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.long_run", "-", library, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def longest(library: str) -> dict[str, Any]:
    """Return the run over the most steps that stays within what is allowed, by bisection."""
    best, fits, too_many = in_a_process(library, SHORT), SHORT, LONG
    while too_many - fits > STEP_OF_SEARCH:
        steps = (fits + too_many) // 2 // STEP_OF_SEARCH * STEP_OF_SEARCH
        found = in_a_process(library, steps)
        print(f"{library}: {steps} steps, {found['peak_bytes'] / 2**30:.2f} GiB", file=sys.stderr)
        if found["peak_bytes"] <= ALLOWED:
            best, fits = found, steps
        else:
            too_many = steps
    return best


def main() -> None:
    """See the module."""
    out, *single = sys.argv[1:]
    if single:
        print(json.dumps(train(single[0], int(single[1]))))
        return
    runs = [in_a_process("jaxrnn", SHORT), in_a_process("jaxrnn", LONG)]
    runs += [in_a_process("flax.nnx", SHORT), longest("flax.nnx")]
    Path(out).write_text(json.dumps({"machine": describe(), "hidden": HIDDEN, "runs": runs}, indent=1) + "\n")
    for run in runs:
        print(
            f"{run['library']:8} T = {run['steps']:>9,}  {run['peak_bytes'] / 2**30:.2f} GiB  "
            f"{run['microseconds_per_step']:.1f} us per step"
        )


if __name__ == "__main__":
    main()
