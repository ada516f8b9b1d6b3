"""The persistent kernel for Hopper GPUs: what it refuses, how it cuts its work, and, interpreted, what it computes.

No GPU is needed but for the last tests. Compiled for one, it is looked at in `test_ahead_of_time.py`.
"""

import json
import os
import random
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import cells, ops
from jaxrnn.ops import pallas_gpu
from jaxrnn.ops.pallas_gpu import kernel
from jaxrnn.ops.pallas_gpu.tiles import SHARED_BYTES, Tiles, arrange, plan_tiles, shared_bytes, split_parts
from tests.jaxrnn.common import CELLS, draw, draw_cell, rms_error, scalar
from tests.jaxrnn.interpreted_kernel import CASES

NEW_ENOUGH = jax.__version_info__ >= pallas_gpu.OLDEST_JAX
needs_api = pytest.mark.skipif(not NEW_ENOUGH, reason=f"the kernel needs JAX {pallas_gpu.OLDEST_JAX}")


def is_hopper() -> bool:
    return jax.default_backend() == "gpu" and jax.devices()[0].compute_capability == "9.0"


# What is refused -------------------------------------------------------------------------------------------


def arguments(cell, hidden, dtype=jnp.float32, **shape):
    params, x, state = draw_cell(cell, 2, 3, 5, hidden, dtype=dtype, **shape)
    return cell, [params], x.swapaxes(0, 1), [state], None, None


@pytest.mark.skipif(is_hopper(), reason="here is what it needs")
def test_without_a_hopper_gpu_the_error_says_what_it_needs_and_what_to_use():
    params, x, state = draw_cell(cells.LSTM, 2, 3, 5, 32, dtype=jnp.float32)
    with pytest.raises(NotImplementedError, match=r"needs a TPU or a Hopper GPU .* Use implementation=None"):
        ops.unroll(cells.LSTM, params, x, state, implementation="pallas")


def test_none_never_chooses_what_is_experimental(monkeypatch):
    def fail(*args, **options):
        raise AssertionError

    monkeypatch.setattr(pallas_gpu, "unroll", fail)
    params, x, state = draw_cell(cells.TANH, 2, 3, 5, 64, dtype=jnp.float32)
    h, _ = ops.unroll(cells.TANH, params, x, state)
    expected, _ = ops.unroll(cells.TANH, params, x, state, implementation="scan")
    assert rms_error(h, expected) == 0


def test_importing_jaxrnn_loads_neither_pallas_nor_mosaic():
    """JAX and Flax load a few small modules with these names by themselves; the packages are what is heavy."""
    heavy = ("jax.experimental.pallas", "jax.experimental.mosaic")
    program = f"import sys, jaxrnn; print([name for name in sys.modules if name.startswith({heavy})])"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_an_older_jax_is_told_which_one_is_needed(monkeypatch):
    monkeypatch.setattr(pallas_gpu, "OLDEST_JAX", (99, 0, 0))
    with pytest.raises(NotImplementedError, match=r"needs JAX 99\.0\.0, but this is .*pip install -U 'jax"):
        pallas_gpu.persistent(*arguments(cells.TANH, 64), reverse=False, precision=None)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("given", "precision", "message"),
    [
        (arguments(cells.LSTM, 32, projected=16), None, "no projection .*Use implementation=None"),
        (
            partial(arguments, cells.LSTM, 32, jnp.float64),
            None,
            "bfloat16, float16 and float32, .* are float64",
        ),
        (arguments(cells.LSTM, 32), "highest", "precision='highest' does not allow. Use precision='high'"),
        (arguments(cells.LSTM, 32), jax.lax.Precision.HIGHEST, "precision='highest' does not allow"),
        (arguments(cells.GRU, 40), None, "a multiple of 32 hidden features, but there are 40"),
    ],
    ids=["projection", "float64", "highest", "HIGHEST", "H=40"],
)
def test_what_the_kernel_cannot_do_is_refused_with_a_remedy(monkeypatch, given, precision, message):
    monkeypatch.setattr(pallas_gpu, "OLDEST_JAX", (0, 0, 0))
    given = given() if callable(given) else given
    with pytest.raises(NotImplementedError, match=message):
        pallas_gpu.persistent(*given, reverse=False, precision=precision)


def test_the_precision_of_the_whole_process_counts_too(monkeypatch):
    monkeypatch.setattr(pallas_gpu, "OLDEST_JAX", (0, 0, 0))
    with (
        jax.default_matmul_precision("float32"),
        pytest.raises(NotImplementedError, match="precision='float32' does not allow"),
    ):
        pallas_gpu.persistent(*arguments(cells.GRU, 32), reverse=False, precision=None)


# How the work is cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("hidden", [32, 64, 96, 128, 256, 352])
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_tiles_cover_every_unit_once_and_fit_into_shared_memory(cell, hidden, dtype):
    for rows in (1, 8, 64, 1000):
        tiles = plan_tiles(cell, rows, hidden, jnp.dtype(dtype))
        assert tiles.blocks * tiles.units == hidden
        assert tiles.blocks <= 16
        assert shared_bytes(cell, tiles, jnp.dtype(dtype)) <= SHARED_BYTES
        assert tiles.height(cell.gates) % 64 == 0


def test_an_lstm_of_512_features_takes_a_cluster_of_sixteen_blocks():
    assert plan_tiles(cells.LSTM, 16, 512, jnp.dtype("bfloat16")) == Tiles(blocks=16, units=32, rows=16)


def test_a_batch_too_large_for_all_clusters_at_once_makes_tiles_wider():
    narrow = plan_tiles(cells.TANH, 16, 512, jnp.dtype("bfloat16"))
    wide = plan_tiles(cells.TANH, 1024, 512, jnp.dtype("bfloat16"))
    assert (narrow.rows, wide.rows) == (16, 64)


@pytest.mark.parametrize(
    ("cell", "hidden", "dtype"),
    [(cells.LSTM, 768, "bfloat16"), (cells.LSTM, 512, "float32"), (cells.GRU, 544, "bfloat16")],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_its_size_and_a_remedy(cell, hidden, dtype):
    with pytest.raises(
        NotImplementedError, match=f"cannot hold .* of {hidden} features.* Use implementation=None"
    ):
        plan_tiles(cell, 16, hidden, jnp.dtype(dtype))


@pytest.mark.parametrize("tiles", [Tiles(2, 32, 16), Tiles(3, 64, 16)], ids=str)
@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, cells.TANH], ids=str)
def test_the_gates_of_a_block_are_those_of_its_units(cell, tiles):
    hidden = tiles.blocks * tiles.units
    weight, h = draw(1, cell.gates * hidden, hidden), draw(2, hidden, tiles.rows)
    expected = (weight @ h).reshape(cell.gates, hidden, tiles.rows)
    product = np.asarray(arrange(cell, tiles, jnp.asarray(weight))) @ h
    for block, of_block in enumerate(np.split(product, tiles.blocks)):
        gates = kernel.gates_of(of_block, cell.gates, tiles, split=kernel.split_rows)
        units = slice(block * tiles.units, (block + 1) * tiles.units)
        assert rms_error(np.stack(gates), expected[:, units]) < 1e-6


def held(layout, shape):
    """Return which elements of an array, by number, the threads hold: [warp, lane, *registers, vector]."""
    tiled = np.arange(np.prod(shape)).reshape(shape)
    for tile in layout.tiling.tiles:
        outer, inner = tiled.shape[: -len(tile)], tiled.shape[-len(tile) :]
        counts = [size // t for size, t in zip(inner, tile, strict=True)]
        split = tiled.reshape(*outer, *(n for pair in zip(counts, tile, strict=True) for n in pair))
        first, rank = len(outer), len(tile)
        order = [*range(first), *range(first, first + 2 * rank, 2), *range(first + 1, first + 2 * rank, 2)]
        tiled = split.transpose(order)
    threads = [dim + tiled.ndim for dim in (*layout.warp_dims, *layout.lane_dims)]
    rest = [dim for dim in range(tiled.ndim) if dim not in threads]
    registers = [1 if dim in threads else tiled.shape[dim] for dim in range(tiled.ndim)]
    by_thread = tiled.transpose(*threads, *rest).reshape(4, 32, *registers)
    return np.moveaxis(by_thread, layout.vector_dim + by_thread.ndim, -1)


@needs_api
@pytest.mark.parametrize("rows", [16, 64])
def test_splitting_registers_is_splitting_rows(rows):
    """By what Mosaic says of its layouts: every thread finds in its registers the elements that it should hold."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    whole, half = plgpu.Layout.WGMMA.to_mgpu(), kernel.halves_layout().to_mgpu()
    numbers = np.arange(64 * rows).reshape(64, rows)
    of_product, of_half = held(whole, (64, rows)), held(half, (32, rows))
    # As NVIDIA draws it: thread 5 has rows 1 and 9, columns 2 and 3.
    assert set(of_product[0, 5].flat) >= {1 * rows + 2, 1 * rows + 3, 9 * rows + 2, 9 * rows + 3}
    for part, expected in enumerate(kernel.split_rows(numbers)):
        mine = [
            [kernel.split_registers(of_product[warp, lane])[part] for lane in range(32)] for warp in range(4)
        ]
        assert (np.reshape(mine, -1) == expected.reshape(-1)[of_half].reshape(-1)).all()


def test_two_bfloat16_numbers_are_a_float32_up_to_2_to_the_minus_17():
    values = jnp.asarray(draw(1, 1000), jnp.float32)
    for split in (jax.jit(split_parts, static_argnums=1), split_parts):
        parts = np.asarray(split(values, jnp.float32).astype(jnp.float32))
        assert np.max(np.abs(parts.sum(0) - values) / np.abs(values)) <= 2.0**-16
        assert np.any(parts[1] != 0)


# How blocks wait for each other ----------------------------------------------------------------------------


class Barrier:
    """A barrier in shared memory: so many arrivals complete a phase, and a waiter knows the phase it waits for."""

    def __init__(self, arrivals):
        self.arrivals, self.missing, self.phase = arrivals, arrivals, 0

    def arrive(self):
        self.missing -= 1
        if self.missing == 0:
            self.missing, self.phase = self.arrivals, self.phase + 1


def exchange(blocks, steps, seed, *, barriers=2):
    """Play the blocks of a cluster in random order, with deliveries as late and as unordered as can be.

    A model of the kernel's `deliver` and `receive`, not the kernel. Raises AssertionError where a block reads what
    is not of its step.
    """
    chance = random.Random(seed)
    h = [
        [[0] * blocks, [None] * blocks] for _ in range(blocks)
    ]  # of a block, a buffer: the step of each part
    delivered = [[Barrier(blocks) for _ in range(barriers)] for _ in range(blocks)]
    waited = [[0] * barriers for _ in range(blocks)]
    under_way = []

    def run(block):
        for step in range(steps):
            buffer, following = step % 2, (step + 1) % 2
            assert h[block][buffer] == [step] * blocks
            yield  # it reads on, while others go on
            assert h[block][buffer] == [step] * blocks
            for other in range(blocks):
                under_way.append((other, following, block, step + 1))
                yield
            barrier = following % barriers
            while delivered[block][barrier].phase == waited[block][barrier]:
                yield
            waited[block][barrier] += 1

    running = [run(block) for block in range(blocks)]
    while running:
        if under_way and chance.random() < 0.4:
            other, buffer, block, step = under_way.pop(chance.randrange(len(under_way)))
            h[other][buffer][block] = step
            delivered[other][buffer % barriers].arrive()
        else:
            player = chance.choice(running)
            try:
                next(player)
            except StopIteration:
                running.remove(player)
    assert not under_way  # nobody leaves while something is sent to it


@pytest.mark.parametrize("blocks", [2, 3, 8])
def test_two_buffers_with_a_barrier_each_are_all_that_a_cluster_needs(blocks):
    for seed in range(200):
        exchange(blocks, 6, seed)


def test_the_model_finds_the_fault_of_a_single_barrier():
    def fails(seed):
        try:
            exchange(3, 6, seed, barriers=1)
        except AssertionError:
            return True
        return False

    assert any(fails(seed) for seed in range(50))


# What is computed, interpreted -----------------------------------------------------------------------------

# float32 is the sum of two bfloat16 numbers, up to 2^-17 of each factor; in half precision a rounding may go
# the other way, which is 2^-8 or 2^-11 of one number among many.
TOLERANCE = {"float32": 2.0**-14, "bfloat16": 2.0**-10, "float16": 2.0**-11}


def interpreted(name):
    command = [sys.executable, "-m", "tests.jaxrnn.interpreted_kernel", name]
    environment = os.environ | {"NPROC": "32", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_api
@pytest.mark.slow
@pytest.mark.parametrize("cell", ["TANH", "RELU", "LSTM", "GRU", "PEEPHOLE_LSTM"])
def test_interpreted_the_kernel_returns_values_and_gradients_of_the_reference_without_a_race(cell):
    found = interpreted(cell)
    assert not found.pop("races")
    assert set(found) == set(CASES)
    for case, errors in found.items():
        limit = TOLERANCE[CASES[case][1]]
        assert {name: error for name, error in errors.items() if not error <= limit} == {}, case


@needs_api
@pytest.mark.slow
def test_interpreted_the_kernel_has_forward_mode_second_derivatives_and_vmap():
    errors = interpreted("transformed")
    assert len(errors) == 3
    assert max(errors.values()) <= TOLERANCE["float32"]


@needs_api
@pytest.mark.slow
def test_the_interpreter_finds_the_races_of_a_kernel_that_waits_for_nothing():
    assert interpreted("unsynchronised") == {"races": True}


# On a Hopper GPU -------------------------------------------------------------------------------------------


# The projection of x and the backward pass multiply float32 as TF32, with errors of 2^-11 per factor.
ON_GPU = {"float32": 2.0**-9, "bfloat16": 2.0**-7, "float16": 2.0**-9}


@pytest.mark.skipif(not is_hopper(), reason="needs a Hopper GPU")
@pytest.mark.parametrize("dtype", ON_GPU)
@pytest.mark.parametrize("hidden", [64, 256, 320])
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_on_a_gpu_the_kernel_returns_values_and_gradients_of_the_reference(cell, hidden, dtype):
    rows, steps = 20, 50
    args = draw_cell(cell, rows, steps, 5, hidden, dtype=jnp.dtype(dtype))
    args[0]["weight_hh"] *= 4 / hidden**0.5
    generator = np.random.default_rng(1)
    lengths = jnp.asarray(generator.integers(0, steps + 1, rows))
    resets = jnp.asarray(generator.random((rows, steps)) < 0.05)

    def everything(implementation, precision, **options):
        def run(*args):
            return ops.unroll(cell, *args, implementation=implementation, precision=precision, **options)

        return run(*args), jax.grad(scalar(run), argnums=(0, 1, 2))(*args)

    for reverse in (False, True):
        for ragged in ({}, {"lengths": lengths, "resets": resets}):
            kernel = everything("pallas", "high", reverse=reverse, **ragged)
            exact = everything("reference", "highest", reverse=reverse, **ragged)
            errors = map(rms_error, jax.tree.leaves(kernel), jax.tree.leaves(exact))
            assert max(errors) <= ON_GPU[dtype]
