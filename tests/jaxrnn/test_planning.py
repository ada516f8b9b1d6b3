"""Plans are arithmetic on shapes: whole chunks, within the allocator's limit, and the same for everybody."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxrnn import cells, ops
from jaxrnn.ops import planning, scan
from jaxrnn.ops.planning import Plan, choose, even_chunk, planning_for

SIZES = list(itertools.product((1, 19, 128, 2048), (1, 4, 32, 1026), (1, 300), (16, 128, 512)))


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, cells.TANH, cells.PEEPHOLE_LSTM], ids=str)
def test_a_chunk_is_at_least_one_step_and_at_most_all(cell):
    for steps, rows, features, hidden in SIZES:
        plan = choose(cell, steps, rows, features, hidden, "cpu")
        assert 1 <= plan.chunk <= steps
        size = plan.chunk * rows * cell.gates * hidden * planning.FLOAT32
        assert plan.chunk == 1 or size <= 1.5 * planning.CHUNK_BYTES


def test_a_chunk_divides_the_steps_where_one_nearby_does():
    assert even_chunk(128, 16) == 16
    assert even_chunk(100, 18) == 20
    assert even_chunk(90, 16) == 15
    assert even_chunk(97, 16) == 16  # a prime leaves a remainder of one step
    assert even_chunk(7, 16) == 7
    assert all(1 <= even_chunk(steps, 1) <= steps for steps in range(1, 50))


def test_a_cell_whose_products_enter_different_sums_is_never_joined():
    assert not any(choose(cells.GRU, *size, "cpu").joined for size in SIZES)
    assert choose(cells.LSTM, 128, 32, 50, 256, "cpu").joined
    assert not choose(cells.LSTM, 128, 1, 50, 256, "cpu").joined


def test_a_large_batch_takes_its_gradients_step_by_step():
    for cell in (cells.LSTM, cells.GRU, cells.TANH):
        assert choose(cell, 19, 1026, 1, 32, "cpu") == Plan(1, joined=False)
    assert choose(cells.GRU, 40, 100, 10, 32, "cpu").chunk == 1
    assert choose(cells.LSTM, 40, 100, 10, 32, "cpu").chunk > 1


def test_an_accelerator_gets_long_chunks():
    assert choose(cells.LSTM, 1000, 16, 50, 256, "tpu") == Plan(1000, joined=False)
    gpu = partial(choose, cells.LSTM, platform="gpu")
    assert gpu(1024, 16, 50, 256) == Plan(512, joined=False, packed=True, unroll=8)
    assert gpu(1000, 512, 50, 1024).chunk == 50  # short, but long beside the launches of a chunk
    assert gpu(3, 16, 50, 256) == Plan(3, joined=False, packed=True, unroll=3)


def test_a_chunk_shrinks_where_it_would_carry_the_memory_over_the_allocators_limit():
    """Above it, glibc gives the memory back after each call, and each call faults its pages in anew."""
    steps, rows, features, hidden = 160, 24, 64, 250  # residuals: 27 MB of 31

    def temporary(plan):
        params = {n: jnp.zeros(s) for n, s in cells.LSTM.parameter_shapes(features, hidden).items()}
        state = cells.LSTMState(jnp.zeros((rows, hidden)), jnp.zeros((rows, hidden)))

        def loss(params, x):
            options = {"reverse": False, "precision": None, "plan": plan}
            return jnp.square(scan.unroll(cells.LSTM, [params], x, [state], None, None, **options)[0]).mean()

        compiled = jax.jit(jax.grad(loss)).lower(params, jnp.zeros((steps, rows, features))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    plan = choose(cells.LSTM, steps, rows, features, hidden, "cpu")
    assert temporary(plan) < 32 * 2**20
    assert temporary(plan._replace(chunk=steps)) > 32 * 2**20


def test_what_is_planned_for_another_platform_is_planned_for_it_alone():
    params = {n: jnp.zeros(s) for n, s in cells.LSTM.parameter_shapes(8, 128).items()}
    state = cells.LSTMState(jnp.zeros((64, 128)), jnp.zeros((64, 128)))

    def gradient():  # a new function each time; the unroll within is compiled, and remembered, by itself
        def loss(params):
            x = jnp.zeros((64, 200, 8))
            return ops.unroll(cells.LSTM, params, x, state, implementation="scan")[0].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params))

    here = gradient()
    with planning_for("tpu"):
        there = gradient()
    assert here.count("scan[") > there.count("scan[")  # no chunks there
    assert gradient() == here


def test_what_is_computed_again_is_computed_in_chunks_for_products():
    for keep in ("carry", "h"):
        plan = choose(cells.LSTM, 1000, 8, 64, 512, "tpu", keep=keep)
        assert plan == Plan(500, joined=False, keep=keep)
        assert choose(cells.LSTM, 128, 32, 64, 256, "cpu", keep=keep) == Plan(32, joined=False, keep=keep)
