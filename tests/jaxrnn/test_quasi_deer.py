"""In parallel over time an unroll is what it is in a loop, or is computed in one; the certificate says which."""

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.ops import QuasiDeer
from jaxrnn.ops.planning import planning_for
from jaxrnn.ops.quasi_deer import default_limits, iteration, recurrence
from tests.jaxrnn.common import (
    CELLS,
    assert_same,
    draw,
    draw_cell,
    fill,
    mostly_slow,
    rms_error,
    scalar,
    trace,
)

B, T, I, H = 3, 12, 5, 4
LENGTHS = jnp.array([T, 0, 7])
RESETS = jnp.asarray(np.random.default_rng(1).random((B, T)) < 0.2)


def drawn(cell, rows, steps, hidden, *, scale=1.0, dtype=jnp.float32):
    """Return parameters of U(±scale)/√H, of which 1 is torch's initialisation, an input and a state of zeros."""
    random = np.random.default_rng(0)
    shapes = cell.parameter_shapes(I, hidden)
    params = {
        n: jnp.asarray(random.uniform(-1, 1, s) * scale / hidden**0.5, dtype) for n, s in shapes.items()
    }
    state = cell.state(*(jnp.zeros((rows, hidden), dtype) for _ in cell.state._fields))
    return params, jnp.asarray(random.standard_normal((rows, steps, I)), dtype), state


def recorder(**limits):
    """Return an implementation and the list that its certificates go to."""
    found = []
    return QuasiDeer(**limits, report=lambda what, one: found.append((what, one))), found


def values_and_gradients(cell, implementation, args, **options):
    def run(*args):
        return ops.unroll(cell, *args, implementation=implementation, **options)

    @jax.jit
    def everything(args):
        results, pull = jax.vjp(run, *args)
        return results, pull(jax.grad(scalar(lambda results: results))(results))

    results = everything(args)
    jax.effects_barrier()
    return results


def assert_close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


# What is computed -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.LSTM,)), ids=str)
def test_both_passes_converge_to_what_the_reference_computes(cell):
    args = jax.tree.map(lambda a: 0.7 * a, draw_cell(cell, B, T, I, H))
    options = {"lengths": LENGTHS, "resets": RESETS, "reverse": True}
    implementation, found = recorder()
    ours = values_and_gradients(cell, implementation, args, **options)
    # The same few hundred float64 operations in another order.
    assert_close(ours, values_and_gradients(cell, "reference", args, **options), 1e-13)
    assert {what for what, _ in found} == {"states", "gradients"}
    assert all(one.converged and 0 < one.iterations <= T for _, one in found)


@pytest.mark.usefixtures("x64")
def test_a_padded_nan_reaches_nothing_and_a_valid_one_is_not_hidden():
    params, x, state = draw_cell(cells.GRU, B, T, I, H)
    x = jnp.where(jnp.arange(T)[None, :, None] < LENGTHS[:, None, None], x, jnp.nan)
    implementation, found = recorder()
    ours = values_and_gradients(cells.GRU, implementation, (params, x, state), lengths=LENGTHS)
    theirs = values_and_gradients(cells.GRU, "reference", (params, x, state), lengths=LENGTHS)
    assert_close(ours, theirs, 1e-13)
    assert all(one.converged for _, one in found)
    x = x.at[0, 5].set(jnp.nan)
    h, _ = ops.unroll(cells.GRU, params, x, state, lengths=LENGTHS, implementation=implementation)
    jax.effects_barrier()
    assert np.array_equal(jnp.isnan(h).any(-1), (jnp.arange(T) >= 5)[None] & (jnp.arange(B) == 0)[:, None])
    assert not found[-1][1].converged


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_forward_mode_is_solved_by_the_same_iteration():
    args = jax.tree.map(lambda a: 0.7 * a, draw_cell(cells.LSTM, B, 4, I, H))
    direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape)), args)
    implementation, found = recorder()

    def tangent(which):
        run = partial(ops.unroll, cells.LSTM, implementation=which, lengths=jnp.array([4, 0, 2]))
        return jax.jit(lambda args, d: jax.jvp(run, args, d))(args, direction)

    ours = tangent(implementation)
    jax.effects_barrier()
    assert_close(ours, tangent("reference"), 1e-13)
    assert [(what, bool(one.converged)) for what, one in found] == [("states", True), ("tangents", True)]


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_vmap_and_second_derivatives_work():
    args = jax.tree.map(lambda a: 0.7 * a, draw_cell(cells.GRU, 2, 4, I, H))

    def second(which):
        run = partial(ops.unroll, cells.GRU, implementation=which, lengths=jnp.array([4, 2]))

        def norm(*args):
            gradients = jax.grad(scalar(run), argnums=(0, 1, 2))(*args)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))

        several = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), args)  # the second takes other iterations
        return jax.jit(jax.vmap(jax.grad(norm, argnums=(0, 1, 2))))(*several)

    assert_close(second("quasi_deer"), second("reference"), 1e-12)  # sums of squares of what agrees to 1e-13


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5])
def test_a_layer_takes_it_in_both_directions_and_projected(steps):
    implementation, found = recorder()

    def traced(implementation):
        lstm = jaxrnn.LSTM(
            I, H, 2, bidirectional=True, dropout=0.5, proj_size=2, param_dtype=jnp.float64,
            implementation=implementation, rngs=nnx.Rngs(0),
        )  # fmt: skip
        masks = [jnp.asarray(draw(5, steps, B, 4) > 0)]
        x = jnp.asarray(draw(1, steps, B, I))
        lengths = np.minimum([steps, 0, 3], steps)
        return trace(fill(lstm), x, lengths=lengths, dropout_masks=masks)

    assert_same(traced(implementation), traced(None), 1e-13)
    jax.effects_barrier()
    assert len(found) == 8  # two passes, layers and directions
    assert all(one.converged for _, one in found)


@pytest.mark.slow
def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_loop():
    args = jax.tree.map(lambda a: a.astype(jnp.bfloat16), drawn(cells.GRU, 2, 40, 32, scale=1.5))
    exact = jax.tree.map(lambda a: a.astype(jnp.float32), args)
    truth = values_and_gradients(cells.GRU, "reference", exact)
    implementation, found = recorder()
    ours = values_and_gradients(cells.GRU, implementation, args)
    plain = values_and_gradients(cells.GRU, "reference", args)
    assert all(one.converged for _, one in found)
    for a, b, c in zip(*(jax.tree.leaves(tree) for tree in (ours, plain, truth)), strict=True):
        assert a.dtype == jnp.bfloat16
        assert rms_error(a, c) <= 1.5 * rms_error(b, c) + 2e-3  # of a rounding, 4e-3


# What the certificate says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "longest", "most"),
    [
        (cells.GRU, 2048, 13),
        pytest.param(cells.LSTM, 512, 13, marks=pytest.mark.slow),  # compiles for long
        pytest.param(cells.TANH, 2048, 30, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_iterations_do_not_grow_with_time(cell, longest, most):
    implementation, found = recorder()
    for steps in (128, longest):
        args = drawn(cell, 1, steps, 32)
        ours = values_and_gradients(cell, implementation, args)
        # A few units in the last place per step, forgotten from step to step; twenty in the sum of a bias.
        assert_close(ours, values_and_gradients(cell, "scan", args), 5e-6)
    assert all(one.converged for _, one in found)
    for what in ("states", "gradients"):
        short, long = (int(one.iterations) for name, one in found if name == what)
        assert long <= short + 2 <= most + 2


@pytest.mark.usefixtures("x64")
def test_a_chaotic_network_is_computed_by_the_loop():
    args = drawn(cells.TANH, 1, 24, 32, scale=4.0, dtype=jnp.float64)
    implementation, found = recorder(max_iterations=8)
    ours = values_and_gradients(cells.TANH, implementation, args)
    # Differences of 1e-16 grow by a factor of about 1.6 in each of the 24 steps.
    assert_close(ours, values_and_gradients(cells.TANH, "reference", args), 1e-10)
    assert [(what, int(one.iterations)) for what, one in found] == [("states", 8), ("gradients", 8)]
    assert not any(one.converged for _, one in found)


@pytest.mark.usefixtures("x64")
def test_every_step_of_a_chaotic_trajectory_is_a_step_of_the_cell():
    """Two roundings apart, two trajectories have nothing in common; each of their steps is right, all the same."""
    params, x, state = drawn(cells.TANH, 1, 200, 32, scale=4.0, dtype=jnp.float64)
    implementation, found = recorder()
    h, _ = ops.unroll(cells.TANH, params, x, state, implementation=implementation)
    jax.effects_barrier()
    assert not found[0][1].converged
    assert found[0][1].residual > 0.1
    before = jnp.concatenate([state.h, h[0, :-1]])
    again = cells.advance(cells.TANH, params, x[0], cells.HiddenState(before)).h
    assert jnp.abs(again - h[0]).max() < 1e-14


@pytest.mark.parametrize("part", ["states", "gradients"])
@pytest.mark.usefixtures("x64")
def test_a_spoilt_iteration_is_caught(part, monkeypatch):
    args = jax.tree.map(lambda a: 0.7 * a, draw_cell(cells.GRU, B, T, I, H))
    right = recurrence.solve_diagonal

    def spoilt(problem, layer, marks, blocks, residual):
        correction = right(problem, layer, marks, blocks, residual)
        return jax.tree.map(lambda d: d.at[T // 2].multiply(0.9), correction)

    if part == "states":
        monkeypatch.setattr(recurrence, "solve_diagonal", spoilt)
    else:
        correction = recurrence._Linear._correction
        monkeypatch.setattr(
            recurrence._Linear,
            "_correction",
            lambda self: lambda r: jax.tree.map(lambda d: d.at[T // 2].multiply(0.5), correction(self)(r)),
        )
    implementation, found = recorder(max_iterations=10)
    ours = values_and_gradients(cells.GRU, implementation, args)
    assert_close(ours, values_and_gradients(cells.GRU, "reference", args), 1e-13)
    assert (part, False) in [(what, bool(one.converged)) for what, one in found]


def test_the_residual_is_that_of_what_is_returned():
    params, x, state = drawn(cells.GRU, 2, 50, 16)
    how = QuasiDeer(tolerance=1e-2)
    h, _, (certificate,) = jax.jit(partial(how.certified, cells.GRU))([params], x.swapaxes(0, 1), [state])
    before = jnp.concatenate([state.h[None], h[:-1]])
    advance = jax.vmap(lambda x, h: cells.advance(cells.GRU, params, x, cells.HiddenState(h)).h)
    largest = jax.lax.cummax(jnp.abs(h).max(-1))
    residual = (jnp.abs(advance(x.swapaxes(0, 1), before) - h).max(-1) / largest).max()
    assert 1e-4 < residual < 1e-2  # it was stopped early
    assert abs(certificate.residual - residual) < 1e-5
    assert certificate.converged
    assert certificate.iterations < 8


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_the_residual_is_relative_so_that_small_states_count(size):
    """An absolute tolerance would take zeros for the solution."""
    params, x, state = drawn(cells.RELU, 1, 30, 16)
    params = params | {name: 0 * params[name] for name in ("bias_ih", "bias_hh")}
    args = params, size * x, state
    ours, theirs = (ops.unroll(cells.RELU, *args, implementation=name) for name in ("quasi_deer", "scan"))
    assert_close(ours, theirs, 2e-6)


def test_tolerances_are_those_of_the_products():
    full, twice = 8 * 2.0**-23, 8 * 2.0**-52
    assert default_limits(jnp.float32, jnp.float32) == (full, 64)
    assert default_limits(jnp.float64, jnp.float64) == (twice, 128)
    assert default_limits(jnp.float32, jnp.bfloat16).tolerance == 2.0**-8
    for platform, precision, tolerance in (
        ("tpu", None, 2.0**-8), ("tpu", "high", 2.0**-16), ("tpu", "highest", full),
        ("gpu", None, 2.0**-11), ("gpu", jax.lax.Precision.HIGHEST, full),
    ):  # fmt: skip
        with planning_for(platform):
            assert default_limits(jnp.float32, jnp.float32, precision).tolerance == tolerance


# What is asked for ------------------------------------------------------------------------------------------


def test_it_is_never_chosen_unasked(monkeypatch):
    def fail(*args, **options):
        raise AssertionError("chosen")

    monkeypatch.setattr(iteration, "iterate", fail)
    monkeypatch.setattr(recurrence, "iterate", fail)
    args = drawn(cells.LSTM, 1, 77, 8)
    ops.unroll(cells.LSTM, *args)
    with pytest.raises(AssertionError, match="chosen"):
        ops.unroll(cells.LSTM, *args, implementation="quasi_deer")


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"tolerance=0.0 should be positive. Leave it at None"):
        QuasiDeer(tolerance=0.0)
    with pytest.raises(ValueError, match=r"max_iterations=0 should be positive. implementation='scan'"):
        QuasiDeer(max_iterations=0)
    with pytest.raises(NotImplementedError, match=r"memory='carry' is there in implementation='scan', in"):
        ops.unroll(cells.GRU, *drawn(cells.GRU, 1, 3, 4), implementation="quasi_deer", memory="carry")


@pytest.mark.slow
def test_time_may_be_shared_among_devices():
    """One sequence over four devices: each is given a quarter of the steps, and returns that of the gradient."""
    program = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from jaxrnn import cells, ops
        from tests.jaxrnn.test_quasi_deer import drawn, rms_error

        params, x, state = drawn(cells.GRU, 1, 256, 16)
        mesh = Mesh(np.array(jax.devices()), ("time",))
        shared = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "time")))

        def loss(implementation, params, x):
            return jnp.square(ops.unroll(cells.GRU, params, x, state, implementation=implementation)[0]).sum()

        ours = jax.jit(jax.grad(lambda *args: loss("quasi_deer", *args), argnums=(0, 1)))(params, shared)
        theirs = jax.grad(lambda *args: loss("scan", *args), argnums=(0, 1))(params, x)
        assert ours[1].sharding.spec[1] == "time", ours[1].sharding
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert rms_error(a, b) < 5e-6
    """
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root, env=os.environ | flags, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
