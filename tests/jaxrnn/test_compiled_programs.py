"""What the compiled loops launch, write and copy in each step: a guard of speed that no clock is needed for.

The numbers are those of the optimized programs (`jaxrnn/plan/loops.py`). A limit is what was found, on JAX 0.10
to 0.12, and never more than the plain scan, differentiated by JAX, has.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxrnn import cells
from jaxrnn.ops import reference, scan
from jaxrnn.plan.loops import Loop, loops

B, T, I, H = 32, 128, 64, 256
ARRAY = 4 * B * T * H  # bytes of one array of all steps


class Limits(NamedTuple):
    """Of a training step: per step of the forward loop and of the backward one, and in all."""

    forward: int  # kernels
    backward: int
    updates: int  # writes into stacked arrays, in the forward loop
    arrays: float  # temporary memory, in arrays [T, B, H]


LIMITS = {
    cells.LSTM: Limits(18, 13, 6, 7.8),
    cells.PEEPHOLE_LSTM: Limits(18, 14, 6, 7.9),
    cells.GRU: Limits(13, 12, 5, 7.8),
    cells.TANH: Limits(7, 6, 1, 5.4),
    cells.RELU: Limits(7, 6, 1, 5.4),
}


def compiled(unroll, cell, **masks):
    params = {name: jnp.zeros(shape) for name, shape in cell.parameter_shapes(I, H).items()}
    state = cell.state(*(jnp.zeros((B, H)) for _ in cell.state._fields))

    def loss(params, x):
        valid, resets = masks.get("valid"), masks.get("resets")
        h, _ = unroll(cell, [params], x, [state], valid, resets, reverse=False, precision=None)
        return jnp.square(h).mean()

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, jnp.zeros((T, B, I))).compile()


def innermost(found: list[Loop]) -> list[Loop]:
    """Return the loops over steps, in the order in which they run."""
    following = [*found[1:], None]
    return [
        loop
        for loop, after in zip(found, following, strict=True)
        if after is None or after.depth <= loop.depth
    ]


@pytest.mark.essential
@pytest.mark.parametrize("cell", LIMITS, ids=str)
def test_a_training_step_launches_and_keeps_no_more_than_it_did(cell):
    program = compiled(scan.unroll, cell)
    forward, backward = innermost(loops(program.as_text()))
    limits = LIMITS[cell]
    assert (forward.products, backward.products) == (1, 1)
    assert max(forward.copies, backward.copies) <= 2
    assert forward.kernels <= limits.forward
    assert backward.kernels <= limits.backward
    assert forward.updates <= limits.updates
    assert backward.updates <= 2
    assert program.memory_analysis().temp_size_in_bytes <= limits.arrays * ARRAY


@pytest.mark.parametrize("cell", LIMITS, ids=str)
def test_a_training_step_is_smaller_than_that_of_the_plain_scan(cell):
    ours, plain = (compiled(module.unroll, cell) for module in (scan, reference))
    launched, would_be = (sum(l.kernels for l in innermost(loops(p.as_text()))) for p in (ours, plain))
    assert launched < would_be
    if cell.gates > 1:  # a network of one gate keeps h alone, and so does the plain scan, almost
        temporary, would_take = (p.memory_analysis().temp_size_in_bytes for p in (ours, plain))
        assert temporary < 0.75 * would_take


@pytest.mark.slow
@pytest.mark.parametrize("cell", LIMITS, ids=str)
def test_ragged_rows_and_resets_add_few_kernels_to_a_step(cell):
    marks = {"valid": jnp.ones((T, B, 1), bool), "resets": jnp.zeros((T, B, 1), bool)}
    masked, plain = (innermost(loops(compiled(scan.unroll, cell, **m).as_text())) for m in (marks, {}))
    for with_masks, without in zip(masked, plain, strict=True):
        assert with_masks.products == without.products == 1
        assert with_masks.kernels <= without.kernels + 8


@pytest.mark.parametrize("cell", LIMITS, ids=str)
def test_ragged_rows_keep_no_copy_of_the_input(cell):
    marks = {"valid": jnp.ones((T, B, 1), bool)}
    ragged, full = (compiled(scan.unroll, cell, **m).memory_analysis() for m in (marks, {}))
    x = 4 * B * T * I  # bytes
    assert ragged.temp_size_in_bytes - full.temp_size_in_bytes < 0.5 * x
