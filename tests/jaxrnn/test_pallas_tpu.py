"""The kernels for TPUs: interpreted, what they compute; and which requests they serve.

No TPU is needed. Compiled for one, they are looked at in `test_ahead_of_time.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.ops import loop, pallas_tpu
from jaxrnn.ops.pallas_tpu import chunks, sizes
from jaxrnn.ops.pallas_tpu.backward import run_backward
from jaxrnn.ops.pallas_tpu.blocks import Blocks
from jaxrnn.ops.pallas_tpu.forward import run_forward
from jaxrnn.ops.pallas_tpu.operands import pack
from jaxrnn.ops.pallas_tpu.sizes import MIB, Size, block_rows, choose_steps, vmem_of
from jaxrnn.ops.planning import Target, planning_for
from jaxrnn.ops.primitives import VALUES
from tests.jaxrnn.common import CELLS, draw, draw_cell, mostly_slow, rms_error, scalar
from tests.jaxrnn.kernel_checks import assert_transformed_alike, errors, in_float64, values_and_gradients

V5E = "TPU v5 lite"
B, T, I, H = 3, 12, 5, 7
LENGTHS = np.array([T, 5, 0])
RESETS = np.zeros((B, T), bool)
RESETS[0, [0, 4]] = RESETS[1, 2] = RESETS[1, 7] = True  # the last one is in the padding


@pytest.fixture
def kernels(monkeypatch):
    """Let this process plan for a TPU, and interpret what it would run there, in blocks of four steps."""
    monkeypatch.setattr(sizes, "BLOCK_STEPS", 4)
    monkeypatch.setattr(sizes, "STEPS", (4,))
    monkeypatch.setattr(pallas_tpu, "unroll", partial(pallas_tpu.unroll, interpret=True))
    with planning_for("tpu", V5E):
        yield


def unroller(cell, implementation, **options):
    return partial(ops.unroll, cell, implementation=implementation, precision="highest", **options)


def assert_as_good_as(other, cell, args, memory=None, floor=2.0**-24, **options):
    """Hold every error against float64 to twice that which another implementation makes in the same dtype."""
    exact = in_float64(unroller(cell, "reference", **options), args)
    ours = errors(unroller(cell, "pallas", memory=memory, **options), args, exact)
    theirs = errors(unroller(cell, other, **options), args, exact)
    assert (ours <= 2 * theirs + floor).all(), (ours, theirs)


# What they compute -----------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "ragged": {"lengths": LENGTHS, "resets": RESETS},
    "reverse": {"reverse": True},
    "ragged-reverse": {"lengths": LENGTHS, "resets": RESETS, "reverse": True},
}


@pytest.mark.essential
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("keep", mostly_slow(["gates", "carry", "h"], fast=("h",)))
@pytest.mark.parametrize("options", mostly_slow(OPTIONS, fast=("ragged-reverse",)))
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.LSTM, cells.GRU)), ids=str)
def test_values_and_gradients_are_those_of_the_reference(cell, options, keep):
    args = draw_cell(cell, B, T, I, H, dtype=jnp.float32)
    options = {
        name: jnp.asarray(v) if isinstance(v, np.ndarray) else v for name, v in OPTIONS[options].items()
    }
    assert_as_good_as("reference", cell, args, keep, **options)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("keep", mostly_slow(["gates", "carry", "h"], fast=()))
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_bfloat16_loses_no_more_than_in_the_scan(cell, keep):
    args = draw_cell(cell, B, T, I, H, dtype=jnp.bfloat16)
    assert_as_good_as("scan", cell, args, memory=keep, floor=2.0**-12)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(1, 1), (9, 13), (130, 3)], ids=str)
def test_any_number_of_rows_and_steps_is_cut_into_blocks(shape):
    args = draw_cell(cells.GRU, *shape, I, H, dtype=jnp.float32)
    assert_as_good_as("scan", cells.GRU, args)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_a_network_without_biases_has_none_to_differentiate():
    assert_as_good_as("scan", cells.GRU, draw_cell(cells.GRU, B, T, I, H, bias=False, dtype=jnp.float32))


@pytest.mark.usefixtures("kernels")
def test_nan_in_padding_reaches_nothing():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    padding = np.arange(T)[:, None] >= LENGTHS[:, None, None]
    run = unroller(cells.LSTM, "pallas", lengths=jnp.asarray(LENGTHS))
    clean, dirty = (
        jax.jit(partial(values_and_gradients, run))((params, jnp.where(padding, fill, x), state))
        for fill in (0.0, jnp.nan)
    )
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("kernels")
def test_two_bidirectional_layers_are_those_of_the_scan():
    x = jnp.asarray(draw(1, B, T, I), jnp.float32)
    results = []
    for implementation in (None, "scan"):
        layer = jaxrnn.LSTM(
            I, H, num_layers=2, bidirectional=True, batch_first=True, implementation=implementation,
            precision="highest", rngs=nnx.Rngs(0),
        )  # fmt: skip
        structure, weights = nnx.split(layer)

        def loss(weights, x, structure=structure):
            output, (h, c) = nnx.merge(structure, weights)(x, lengths=jnp.asarray(LENGTHS))
            return jnp.sin(output).sum() + h.sum() + jnp.cos(c).sum()

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        assert ("recurrence_on_a_tpu" in str(jax.make_jaxpr(step)(weights, x))) is (implementation is None)
        results.append(step(weights, x))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert rms_error(a, b) < 2e-6


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("reverse", "keep"), [(False, "gates"), (True, "h")])
def test_chunks_of_blocks_change_nothing(monkeypatch, reverse, keep):
    monkeypatch.setattr(chunks, "LARGE_COPY", 0)
    monkeypatch.setattr(chunks, "LEAST_BLOCKS", 1)
    monkeypatch.setattr(chunks, "MOST_BLOCKS", 2)
    args = draw_cell(cells.LSTM, B, 24, I, H, dtype=jnp.float32)  # three chunks of two blocks
    marks = {"lengths": jnp.array([24, 13, 0]), "resets": jnp.zeros((B, 24), bool).at[0, 16].set(True)}
    assert_as_good_as("scan", cells.LSTM, args, keep, reverse=reverse, **marks)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_segments_are_around_the_kernels():
    args = draw_cell(cells.GRU, B, T, I, H, dtype=jnp.float32)
    assert_as_good_as("scan", cells.GRU, args, memory=4, lengths=jnp.asarray(LENGTHS))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("cell", mostly_slow([cells.LSTM, cells.GRU], fast=(cells.GRU,)), ids=str)
def test_forward_mode_vmap_and_second_derivatives_work(cell):
    args = draw_cell(cell, B, 4, I, H, dtype=jnp.float32)
    marks = {"lengths": jnp.array([4, 2, 0])}
    assert_transformed_alike(*(unroller(cell, name, **marks) for name in ("pallas", "reference")), args)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU], ids=str)
def test_no_memory_is_read_that_was_not_written(cell):
    """JAX's simulation of a TPU fills memory with NaN, copies as its DMAs do and watches bounds."""
    params, x, state = draw_cell(cell, B, 16, I, H, dtype=jnp.float32)
    valid = jnp.arange(16)[:, None, None] < jnp.array([16, 11, 0])[:, None]
    restart = jnp.zeros((16, B, 1), bool).at[9, 0].set(True)
    recurrence = loop.Recurrence(
        x.swapaxes(0, 1), (loop.layer(cell, params, state),), (state,), valid, restart
    )
    dh = jnp.asarray(draw(5, 16, 8, 128), jnp.float32)
    d_final = cell.state(*(jnp.ones((8, 128)) for _ in state))

    def run(interpret):
        dtype = jnp.dtype(jnp.float32)
        blocks = Blocks(
            cell, 8, 8, 128, keep="carry", h_dtype=dtype, rest_dtype=dtype, precision="highest", reverse=False,
            vmem_bytes=100 * MIB, interpret=interpret,
        )  # fmt: skip
        operands = pack(blocks, recurrence)
        written = run_forward(blocks, operands, keep_rest=True)
        return written, run_backward(blocks, operands, written, dh, d_final, of_x=True)

    simulated = run(pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise"))
    for ours, theirs in zip(*map(jax.tree.leaves, (simulated, run(True))), strict=True):
        assert rms_error(ours, theirs) < 1e-6


@pytest.mark.usefixtures("kernels")
def test_a_gradient_of_x_is_computed_only_if_somebody_asks_for_it():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    loss = scalar(unroller(cells.LSTM, "pallas"))

    def outputs(argnums):
        program = jax.make_jaxpr(jax.grad(loss, argnums=argnums))(params, x, state)
        (call,) = equations(program.jaxpr, "recurrence_on_a_tpu_back")
        given = [variable.aval for variable in call.invars]
        inside = jax.make_jaxpr(partial(VALUES[call.primitive], **call.params))(*given)
        (kernel,) = equations(inside.jaxpr, "pallas_call")
        return [[variable.aval.shape for variable in each.outvars] for each in (call, kernel)]

    asked, unasked = outputs((0, 1)), outputs(0)
    assert (T, B, I) in asked[0]
    assert (T, 8, I) in asked[1]
    assert (T, B, I) not in unasked[0]
    assert (T, 8, I) not in unasked[1]


def equations(program, primitive):
    """Return the equations of a primitive, at any depth."""
    inner = [getattr(v, "jaxpr", v) for e in program.eqns for v in e.params.values()]
    found = [e for e in program.eqns if e.primitive.name == primitive]
    return found + [e for each in inner if hasattr(each, "eqns") for e in equations(each, primitive)]


# Which requests they serve ---------------------------------------------------------------------------------


def request(cell=cells.LSTM, rows=8, hidden=512, features=64, dtype=jnp.bfloat16, **options):
    shaped = partial(jax.ShapeDtypeStruct, dtype=dtype)
    projected = options.get("projected", 0)
    shapes = cell.parameter_shapes(features, hidden, projected_features=projected)
    params = {name: shaped(shape) for name, shape in shapes.items()}
    carried = options.get("carried", jnp.float32)
    state = cell.state(*(jax.ShapeDtypeStruct((rows, hidden), carried) for _ in cell.state._fields))
    return cell, [params], shaped((options.get("steps", 100), rows, features)), [state]


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_on_a_tpu_none_means_the_kernels(cell, dtype):
    given = request(cell, dtype=dtype)
    assert pallas_tpu.is_chosen(*given, target=Target("tpu", V5E))
    assert not pallas_tpu.is_chosen(*given, target=Target("cpu"))
    assert not pallas_tpu.is_chosen(*given, target=Target("tpu", V5E, devices=4))


def test_sizes_that_are_symbols_are_left_to_the_scan():
    cell, layers, x, states = request()
    steps, rows = jax.export.symbolic_shape("steps, rows")
    x = x.update(shape=(steps, rows, x.shape[-1]))
    assert not pallas_tpu.is_chosen(cell, layers, x, states, target=Target("tpu", V5E))


def test_a_step_alone_is_no_loop():
    assert not pallas_tpu.is_chosen(*request(steps=1), target=Target("tpu", V5E))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (request(projected=128), "has no projection"),
        (request(dtype=jnp.float16), "of one dtype, float32 or bfloat16, not float16"),
        (request(dtype=jnp.float64, carried=jnp.float64), "not float64"),
        (request(hidden=4096), r"\d+ MiB with 4096 features, of 96 MiB that it may take on TPU v5 lite"),
        (request(rows=0), "needs rows and features"),
    ],
    ids=["projection", "float16", "float64", "wide", "no rows"],
)
def test_what_the_kernels_cannot_do_is_refused_with_a_remedy(given, message):
    target = Target("tpu", V5E)
    assert not pallas_tpu.is_chosen(*given, target=target)
    with pytest.raises(NotImplementedError, match=f"implementation='pallas' .*{message}.*take 'scan'"):
        pallas_tpu.unroll(*given, None, None, precision=None, target=target)


def test_a_chip_that_is_not_known_is_taken_for_the_smallest():
    assert vmem_of("TPU v99") == vmem_of(None) == vmem_of("TPU v4") == 12 * MIB


def test_blocks_are_even_and_divide_the_steps_where_they_can():
    size = Size(cells.LSTM, 8, 64, 512, jnp.bfloat16, jnp.bfloat16)
    assert [choose_steps(size, steps, vmem_of(V5E)) for steps in (1, 7, 1024, 1000, 720, 1001)] == [
        1, 7, 32, 40, 24, 32,
    ]  # fmt: skip
    rows = [block_rows(size._replace(rows=rows), 8, vmem_of(V5E)) for rows in (1, 8, 128, 130, 1000)]
    assert rows == [8, 8, 128, 72, 128]


@pytest.mark.parametrize(("rows", "cut"), [(8, (8, 32)), (32, (16, 16)), (128, (16, 16))])
def test_where_memory_is_short_a_block_has_fewer_rows_before_it_has_too_few_steps(rows, cut):
    size = Size(cells.LSTM, rows, 512, 1024, jnp.bfloat16, jnp.bfloat16)
    steps = choose_steps(size, 1024, vmem_of(V5E))
    assert (block_rows(size, steps, vmem_of(V5E)), steps) == cut


def test_what_a_user_names_is_what_runs():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    with planning_for("tpu", V5E):
        program = jax.make_jaxpr(unroller(cells.LSTM, "scan"))(params, x, state)
    assert not equations(program.jaxpr, "recurrence_on_a_tpu")
