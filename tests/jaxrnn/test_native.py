"""The compiled kernels for a CPU: what they compute, with each instruction set, and which requests they serve."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.cells import Cell, HiddenState
from jaxrnn.ops import native
from jaxrnn.ops.memory import Memory, kept_arrays
from jaxrnn.ops.native import call, library
from jaxrnn.ops.planning import Target, planning_for, target
from jaxrnn.plan.counting import count
from tests.jaxrnn.common import CELLS, draw, draw_cell, mostly_slow, rms_error, scalar
from tests.jaxrnn.kernel_checks import assert_transformed_alike, errors, in_float64, values_and_gradients

SETS = library.instruction_sets()
HAVE_THEM = pytest.mark.skipif(library.why_missing() is not None, reason=f"native {library.why_missing()}")
B, T, I, H, R = 5, 9, 6, 19, 7
LENGTHS = np.array([T, 5, 0, 1, 8])
RESETS = np.random.default_rng(1).random((B, T)) < 0.3
ULP = 2.0**-23


def test_the_kernels_were_built_where_there_is_a_compiler():
    if sys.platform == "win32" or not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no compiler")
    assert library.why_missing() is None


@pytest.fixture(params=mostly_slow(SETS, fast=tuple(SETS[:1])) if SETS else [])
def instruction_set(request):
    """Compute with the kernels for one instruction set, in programs that this test compiles."""
    jax.clear_caches()
    with library.using(request.param):
        yield request.param
    jax.clear_caches()


def unroller(cell, implementation, **options):
    return partial(ops.unroll, cell, implementation=implementation, **options)


def draw_calm(cell, rows, steps, features, hidden, **options):
    """Return arguments of an unroll in float32 whose errors do not grow from step to step, or luck would decide."""
    params, x, state = draw_cell(cell, rows, steps, features, hidden, dtype=jnp.float32, **options)
    return params | {"weight_hh": params["weight_hh"] / np.sqrt(hidden)}, x, state


def assert_as_good_as_the_scan(cell, args, memory=None, **options):
    """Hold errors against float64 to those of JAX's loops in float32: on average, and each to twice the larger one.

    Of few numbers the error is a matter of luck: for one it may be five units of the last place larger.
    """
    exact = in_float64(unroller(cell, "reference", **options), args)
    ours = errors(unroller(cell, "native", memory=memory, **options), args, exact)
    theirs = np.maximum(
        *(errors(unroller(cell, name, **options), args, exact) for name in ("scan", "reference"))
    )
    luck = ULP * (1 + 4 / np.sqrt([leaf.size for leaf in jax.tree.leaves(exact)]))
    assert (ours <= 2 * theirs + luck).all(), (ours, theirs)
    assert ours.mean() <= 1.25 * theirs.mean() + luck.mean() / 8, (ours, theirs)


# What they compute -----------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "ragged": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "both": {"lengths": LENGTHS, "resets": RESETS},
}


@HAVE_THEM
@pytest.mark.essential
@pytest.mark.parametrize("reverse", mostly_slow([False, True], fast=(True,)), ids=["forward", "reverse"])
@pytest.mark.parametrize("options", mostly_slow(OPTIONS, fast=("both",)))
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_values_and_gradients_are_those_of_the_reference(instruction_set, cell, options, reverse):
    options = {name: jnp.asarray(value) for name, value in OPTIONS[options].items()}
    for projected in (0, R) if cell.state is cells.LSTMState else (0,):
        args = draw_calm(cell, B, T, I, H, projected=projected)
        assert_as_good_as_the_scan(cell, args, reverse=reverse, **options)


# B, T, I, H: single numbers, one more than whole vectors, several groups of rows, more rows than a tile holds,
# several chunks of steps, several parts of a panel's depth, several panels, one row with many weights.
SIZES = [(7, 16, 1, 1), (1, 40, 17, 33), (23, 9, 3, 16), (24, 5, 2, 65), (50, 3, 1, 8), (100, 9, 33, 17),
         (3, 300, 2, 5), (8, 4, 130, 140), (2, 8, 70, 200), (300, 2, 4, 3), (1, 29, 270, 140)]  # fmt: skip


@HAVE_THEM
@pytest.mark.essential
@pytest.mark.parametrize("size", mostly_slow(SIZES, fast=(SIZES[1], SIZES[5], SIZES[8], SIZES[10])), ids=str)
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.TANH, cells.GRU)), ids=str)
def test_any_size_is_served_as_well_as_by_the_scan(instruction_set, cell, size):
    rows, steps, features, hidden = size
    args = draw_calm(cell, rows, steps, features, hidden)
    lengths = jnp.asarray(np.random.default_rng(2).integers(0, steps + 1, rows))
    assert_as_good_as_the_scan(cell, args, lengths=lengths)


@HAVE_THEM
@pytest.mark.parametrize("projected", mostly_slow([1, 16, 17, 70, 140], fast=(70,)))
@pytest.mark.parametrize("size", mostly_slow([(100, 9, 33, 170), (2, 70, 20, 80)], fast=()), ids=str)
@pytest.mark.parametrize("cell", [cells.LSTM, cells.PEEPHOLE_LSTM], ids=str)
def test_any_projection_is_served_as_well_as_by_the_scan(instruction_set, cell, size, projected):
    rows, steps, features, hidden = size
    projected = min(projected, hidden - 1)
    args = draw_calm(cell, rows, steps, features, hidden, projected=projected)
    lengths = jnp.asarray(np.random.default_rng(2).integers(0, steps + 1, rows))
    assert_as_good_as_the_scan(cell, args, lengths=lengths)


@HAVE_THEM
@pytest.mark.parametrize("memory", [4, (4, 2)], ids=str)
def test_segments_are_around_the_kernels(memory):
    args = draw_calm(cells.LSTM, B, T, I, H)
    assert_as_good_as_the_scan(cells.LSTM, args, memory=memory, lengths=jnp.asarray(LENGTHS))


@HAVE_THEM
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_without_biases_there_are_none_to_differentiate(cell):
    assert_as_good_as_the_scan(cell, draw_calm(cell, B, T, I, H, bias=False))


@HAVE_THEM
def test_layers_and_directions_are_those_of_the_scan():
    x = jnp.asarray(draw(1, B, T, I), jnp.float32)

    def numbers(implementation):
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
        layer = jaxrnn.GRU(I, H, **options, implementation=implementation, rngs=nnx.Rngs(0))

        def loss(layer, x):
            output, h_n = layer(x, lengths=jnp.asarray(LENGTHS))
            return (output**2).sum() + (h_n**3).sum(), (output, h_n)

        gradients, results = nnx.grad(loss, argnums=(0, 1), has_aux=True)(layer, x)
        return jax.tree.leaves((results, gradients))

    for ours, theirs in zip(numbers("native"), numbers("scan"), strict=True):
        assert rms_error(ours, theirs) < 4 * ULP


@HAVE_THEM
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_not_a_number_in_the_padding_reaches_nothing(cell):
    params, x, state = draw_cell(cell, B, T, I, H, dtype=jnp.float32)
    beyond = np.arange(T) >= LENGTHS[:, None]
    run = unroller(cell, "native", lengths=jnp.asarray(LENGTHS))
    clean = values_and_gradients(run, (params, jnp.where(beyond[..., None], 0, x), state))
    found = values_and_gradients(run, (params, jnp.where(beyond[..., None], jnp.nan, x), state))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(clean), strict=True):
        assert np.array_equal(ours, theirs)


@HAVE_THEM
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_not_a_number_elsewhere_stays_in_its_row_and_is_not_lost(cell):
    params, x, state = draw_cell(cell, B, T, I, H, dtype=jnp.float32)
    h, _ = unroller(cell, "native")(params, x.at[1, 3].set(jnp.nan), state)
    lost = np.isnan(h)
    assert lost[1, 3:].all()
    assert not lost[1, :3].any()
    assert not lost[[0, 2, 3, 4]].any()


def alone(cell: Cell, inputs, h=0.0, **weights):
    """Return h after one step on each of many numbers, each a row; weights are 0 unless given."""
    shapes = cell.parameter_shapes(1, 1)
    params = {
        n: jnp.zeros(s).at[:, 0].set(jnp.asarray(weights.get(n, 0.0))) for n, s in shapes.items() if "w" in n
    }
    x = jnp.asarray(inputs, jnp.float32).reshape(-1, 1, 1)
    state = HiddenState(jnp.full((x.shape[0], 1), h))
    return np.asarray(unroller(cell, "native")(params, x, state)[0]).ravel()


def worst_ulps(found, exact):
    """Return the greatest error in units of the last place of the exact result, as a float32."""
    unit = np.spacing(np.maximum(np.abs(exact), np.finfo(np.float32).tiny).astype(np.float32))
    return float(np.max(np.abs(found - exact) / unit))


NUMBERS = np.concatenate(
    [
        np.linspace(-30, 30, 60_001),
        np.geomspace(1e-30, 1, 20_001),
        -np.geomspace(1e-30, 1, 20_001),
        [0.625, -0.625],
    ]
).astype(np.float32)


@HAVE_THEM
def test_the_hyperbolic_tangent_is_right_to_two_units_in_the_last_place(instruction_set):
    found = alone(cells.TANH, NUMBERS, weight_ih=1.0)
    assert worst_ulps(found, np.tanh(NUMBERS.astype(np.float64))) < 2.5
    assert np.array_equal(alone(cells.TANH, [np.inf, -np.inf, 1e30, -1e30], weight_ih=1.0), [1, -1, 1, -1])


@HAVE_THEM
def test_the_logistic_function_is_right_to_three_units_in_the_last_place(instruction_set):
    found = alone(cells.GRU, NUMBERS, h=1.0, weight_ih=[0.0, 1.0, 0.0])  # h' = σ(x)
    assert worst_ulps(found, 1 / (1 + np.exp(-NUMBERS.astype(np.float64)))) < 3.5
    extremes = alone(cells.GRU, [-1e30, 1e30], h=1.0, weight_ih=[0.0, 1.0, 0.0])
    assert np.allclose(extremes, [0, 1], rtol=0, atol=1e-37)


@HAVE_THEM
def test_forward_mode_vmap_and_second_derivatives_work():
    args = draw_cell(cells.GRU, B, 4, I, 7, dtype=jnp.float32)
    marks = {"lengths": jnp.array([4, 2, 0, 3, 1])}
    assert_transformed_alike(*(unroller(cells.GRU, name, **marks) for name in ("native", "reference")), args)


@HAVE_THEM
def test_rows_of_many_calls_with_the_same_weights_are_one_call():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    run = unroller(cells.LSTM, "native", lengths=jnp.asarray(LENGTHS))

    def together(xs):
        return jax.vmap(lambda x: run(params, x, state)[0])(xs)

    xs = jnp.stack([x, -x, 2 * x])
    compiled = jax.jit(together).lower(xs).compile()
    assert compiled.as_text().count('custom_call_target="jaxrnn_forward"') == 1
    for one, found in zip(xs, compiled(xs), strict=True):
        assert np.array_equal(found, run(params, one, state)[0])


# Threads ---------------------------------------------------------------------------------------------------


def digest():
    """Return what a few training steps' numbers hash to, on as many threads as this process has."""
    found = hashlib.sha256()
    for cell, size in (
        (cells.LSTM, (40, 12, 5, 70)),
        (cells.GRU, (2, 90, 3, 40)),
        (cells.PEEPHOLE_LSTM, (70, 3, 4, 9)),
        (cells.GRU, (1, 29, 270, 140)),
        (cells.LSTM, (5, 9, 70, 90)),
    ):
        args = draw_cell(cell, *size, dtype=jnp.float32)
        for leaf in jax.tree.leaves(values_and_gradients(unroller(cell, "native"), args)):
            found.update(np.asarray(leaf).tobytes())
    return {"digest": found.hexdigest(), "processors": len(os.sched_getaffinity(0))}


def in_a_process(function, *, processors):
    """Return what a function of this module returns in a process bound to so many processors."""
    code = (
        f"import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:{processors}])\n"
        f"import json; from {__name__} import {function.__name__}\n"
        f"print(json.dumps({function.__name__}()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@HAVE_THEM
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to processors here"
)
def test_results_are_the_same_bits_on_any_number_of_threads():
    one = in_a_process(digest, processors=1)
    assert one["processors"] == 1
    assert one["digest"] == digest()["digest"]


def processors_of_threads():
    """Return the processors of this process, and those of each thread that has others, after a call."""
    digest()
    own, others = os.sched_getaffinity(0), []
    for name in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it ended
            others.append(os.sched_getaffinity(int(name)))
    return {"own": sorted(own), "others": [sorted(found) for found in others if found != own]}


@HAVE_THEM
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors, and Linux",
)
def test_a_helper_leaves_one_processor_to_the_caller_and_nobody_else_is_bound():
    found = in_a_process(processors_of_threads, processors=2)
    (left,) = found["others"]  # of the only helper
    assert len(left) == 1
    assert set(left) < set(found["own"])


@HAVE_THEM
def test_calls_at_the_same_time_disturb_each_other_in_nothing():
    args = draw_cell(cells.LSTM, 40, 60, I, 40, dtype=jnp.float32)
    run = jax.jit(partial(values_and_gradients, unroller(cells.LSTM, "native")))
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(run(args))]
    found = {}

    def work(number):
        found[number] = [jax.tree.map(np.asarray, jax.tree.leaves(run(args))) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for results in found.values():
        for leaves in results:
            for ours, theirs in zip(leaves, expected, strict=True):
                assert np.array_equal(ours, theirs)


# What they serve -------------------------------------------------------------------------------------------


def program_of(layer, x):
    return jax.jit(lambda x: layer(x)[0]).lower(x).as_text()


def is_native(layer, x):
    return "jaxrnn_forward" in program_of(layer, x)


@HAVE_THEM
@pytest.mark.parametrize("make", [jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM])
def test_every_layer_in_float32_is_theirs_by_default(make):
    layer = make(I, H, batch_first=True, rngs=nnx.Rngs(0))
    assert is_native(layer, jnp.zeros((B, T, I)))
    assert not is_native(layer, jnp.zeros((1, 1, I)))  # a single step is not worth packing weights for
    narrow = make(I, 7, batch_first=True, rngs=nnx.Rngs(0))
    assert not is_native(narrow, jnp.zeros((B, T, I)))  # nor are vectors that are half empty


@HAVE_THEM
def test_what_they_cannot_serve_is_left_to_the_scan_or_refused_by_name():
    x = jnp.zeros((B, T, I))

    def layer(make=jaxrnn.LSTM, **options):
        return make(I, H, batch_first=True, rngs=nnx.Rngs(0), **options)

    refused = {
        "computes in float32, not in bfloat16": layer(dtype=jnp.bfloat16),
        "keeps the gates of each step, not 'carry'": layer(memory="carry"),
    }
    for reason, left in refused.items():
        assert not is_native(left, x)
        left.implementation = "native"
        with pytest.raises(NotImplementedError, match=rf"implementation='native' {reason}.* take 'scan'"):
            left(x)
    with pytest.raises(NotImplementedError, match="is for CPUs, not for a tpu"), planning_for("tpu"):
        layer(implementation="native")(x)
    another = Cell("ANOTHER", ("a",), ("a",), HiddenState, cells.tanh_step)
    params, x, state = draw_cell(another, B, T, I, H, dtype=jnp.float32)
    with pytest.raises(NotImplementedError, match="has no kernel for <cell ANOTHER>"):
        unroller(another, "native")(params, x, state)
    theirs, ours = unroller(another, None)(params, x, state), unroller(cells.TANH, "native")(params, x, state)
    assert rms_error(theirs[0], ours[0]) < 4 * ULP


def test_without_a_compiler_all_is_the_scans_and_asking_says_what_to_do(monkeypatch):
    monkeypatch.setattr(library, "_kernels", None)
    jax.clear_caches()
    layer, x = jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0)), jnp.zeros((T, B, I))
    assert not is_native(layer, x)
    layer.implementation = "native"
    with pytest.raises(NotImplementedError, match=r"was not compiled when jaxrnn was installed.*pip install"):
        layer(x)
    jax.clear_caches()


@HAVE_THEM
def test_devices_that_share_an_array_are_not_given_a_call_to_divide():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    chosen = partial(native.is_chosen, cells.LSTM, [params], x.swapaxes(0, 1), [state], memory=Memory())
    assert chosen(target=target())
    assert not chosen(target=Target("cpu", devices=2))


@HAVE_THEM
@pytest.mark.parametrize(
    ("cell", "steps", "rows", "hidden", "chosen"),
    [
        (cells.LSTM, 5, 3, 32, False),  # packing takes longer than what follows
        (cells.LSTM, 4, 4, 32, True),
        (cells.GRU, 16, 1, 512, False),  # weights that come from memory
        (cells.GRU, 40, 1, 512, True),
        (cells.TANH, 20, 1, 32, False),
        (cells.TANH, 40, 1, 32, True),
        (cells.GRU, 100, 4, 7, False),
        (cells.LSTM, 1, 100, 32, False),  # no loop
    ],
    ids=str,
)
def test_they_are_chosen_where_there_is_enough_to_do(cell, steps, rows, hidden, chosen):
    params, x, state = draw_cell(cell, rows, steps, I, hidden, dtype=jnp.float32)
    request = (cell, [params], x.swapaxes(0, 1), [state])
    assert native.is_chosen(*request, memory=Memory(), target=target()) == chosen


@HAVE_THEM
def test_memory_is_not_spent_on_padding():
    params, _, state = draw_cell(cells.LSTM, B, T, I, 17, dtype=jnp.float32)

    def is_chosen(rows):
        many = jax.ShapeDtypeStruct((1000, rows, I), jnp.float32)
        return native.is_chosen(cells.LSTM, [params], many, [state], memory=Memory(), target=target())

    assert is_chosen(100)
    assert not is_chosen(1000)  # of 17 units in 32 lanes: 300 MB


@HAVE_THEM
@pytest.mark.parametrize("projected", [0, R])
@pytest.mark.parametrize("cell", [cells.GRU, cells.LSTM], ids=str)
def test_their_products_are_counted_like_those_of_the_scan(cell, projected):
    projected = projected if cell is cells.LSTM else 0
    params, x, state = draw_cell(cell, B, T, I, H, projected=projected, dtype=jnp.float32)

    def flops(implementation, argnums):
        loss = jax.grad(scalar(unroller(cell, implementation)), argnums=argnums)
        return count(jax.make_jaxpr(loss)(params, x, state), on_chip_bytes=1).flops

    for argnums in (0, (0, 1)):
        assert flops("native", argnums) == flops("scan", argnums) > 0


@HAVE_THEM
def test_an_exported_program_holds_no_call_and_means_the_same():
    params, x, state = draw_cell(cells.GRU, B, T, I, H, dtype=jnp.float32)

    def loss(params, x):
        return (unroller(cells.GRU, "native")(params, x, state)[0] ** 2).sum()

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    exported = jax.export.export(gradient)(params, x)
    assert "jaxrnn_" not in exported.mlir_module()
    for ours, theirs in zip(
        *map(jax.tree.leaves, (exported.call(params, x), gradient(params, x))), strict=True
    ):
        assert rms_error(ours, theirs) < 4 * ULP


@HAVE_THEM
def test_a_gradient_of_x_is_computed_only_if_somebody_asks_for_it():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    loss = scalar(unroller(cells.LSTM, "native"))

    def program(argnums):
        return jax.jit(jax.grad(loss, argnums=argnums)).lower(params, x, state).as_text()

    def results_of_the_call(text):
        (line,) = (line for line in text.splitlines() if "@jaxrnn_backward" in line)
        return line.split("->")[-1]

    assert f"tensor<{T}x{B}x{I}xf32>" in results_of_the_call(program((0, 1)))
    assert f"tensor<{T}x{B}x{I}xf32>" not in results_of_the_call(program(0))


def test_the_tables_of_python_and_of_the_kernels_agree():
    for cell in CELLS.values():
        kernel = call.KERNELS[cell]
        assert sorted(kernel.order) == sorted(cell.pre_activations)
        assert kernel.kept == kept_arrays(cell)
