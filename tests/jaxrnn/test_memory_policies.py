"""What the backward pass keeps changes no value and no gradient, and it keeps what its policy says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.ops import scan
from jaxrnn.ops.memory import Memory, Size, best_length, kept_bytes, resolve
from jaxrnn.ops.planning import Plan
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

B, T, I, H = 3, 7, 5, 4
LENGTHS = jnp.array([T, 0, 4])
MARKS = jnp.zeros((B, T), bool).at[0, 2].set(True).at[2, 3].set(True)
POLICIES = {
    "gates": "gates",
    "carry": "carry",
    "h": "h",
    "segments": "segments",
    "sqrt": "sqrt",
    "3": 3,
    "two levels": (4, 2),
    "carry in segments": Memory("carry", (3,)),
    "h in segments": Memory("h", (4, 2)),
    "budget": "1 GiB",
    "little budget": "4 KiB",
}
OPTIONS = {
    "plain": {},
    "ragged": {"lengths": LENGTHS},
    "resets": {"resets": MARKS},
    "ragged, resets, reverse": {"lengths": LENGTHS, "resets": MARKS, "reverse": True},
    "bidirectional": {"lengths": LENGTHS, "resets": MARKS, "bidirectional": True},
}
SAME = 1e-13  # the same operations in another order, in float64


def problem(cell, options, *, layers=2, projected=0, dtype=jnp.float64):
    """Return parameters, input and initial states of a stack."""
    directions = 2 if options.get("bidirectional") else 1
    width = (projected or H) * directions
    drawn = [
        draw_cell(cell, B, T, f, H, projected=projected, dtype=dtype)
        for f in [I] * directions + [width] * directions * (layers - 1)
    ]
    params = [jax.tree.map(lambda a, n=n: a * (1 - 0.2 * n), one[0]) for n, one in enumerate(drawn)]
    return params, drawn[0][1], [one[2] for one in drawn]


def values_and_gradients(cell, options, args, **how):
    def run(params, x, states):
        return ops.unroll_layers(cell, params, x, states, **options, **how)

    return run(*args), jax.grad(scalar(run), argnums=(0, 1, 2))(*args)


def assert_trees_close(ours, theirs, tolerance=SAME):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


EVERYWHERE = ("carry", "h", "two levels")  # the other policies say the same in other words
WITH_ALL = ("ragged, resets, reverse", "bidirectional")
TRIED = [
    (cell, options, policy)
    for cell in CELLS.values()
    for options in OPTIONS
    for policy in POLICIES
    if (policy in EVERYWHERE and (cell is cells.LSTM or options in WITH_ALL))
    or (cell is cells.LSTM and options == "bidirectional")
]
FAST = [(cells.LSTM, options, policy) for options in WITH_ALL for policy in ("carry", "h")]


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "options", "policy"),
    [pytest.param(*one, marks=() if one in FAST else pytest.mark.slow) for one in TRIED],
)
def test_no_policy_changes_a_value_or_a_gradient(cell, options, policy):
    options = OPTIONS[options]

    @jax.jit
    def both(args):
        ours = values_and_gradients(cell, options, args, memory=POLICIES[policy])
        return ours, values_and_gradients(cell, options, args, implementation="reference")

    assert_trees_close(*both(problem(cell, options)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("policy", mostly_slow(["carry", "h", 3], fast=("h",)))
def test_a_projected_lstm_holds_under_every_policy(policy):
    @jax.jit
    def both(args):
        ours = values_and_gradients(cells.LSTM, {"lengths": LENGTHS}, args, memory=policy)
        return ours, values_and_gradients(cells.LSTM, {"lengths": LENGTHS}, args, implementation="reference")

    assert_trees_close(*both(problem(cells.LSTM, {}, projected=2)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("keep", mostly_slow(["carry", "h"], fast=("h",)))
@pytest.mark.parametrize("together", mostly_slow([False, True], fast=(True,)), ids=["apart", "together"])
@pytest.mark.parametrize(
    "cell", mostly_slow([cells.LSTM, cells.GRU, cells.PEEPHOLE_LSTM], fast=(cells.LSTM,)), ids=str
)
def test_no_chunk_changes_what_is_computed_again(cell, together, keep):
    """Chunks of three of the seven steps and a remainder; layers and directions in one loop."""
    plan = Plan(3, together and cell.joinable, together=together, beside=together, keep=keep)
    marks = {"resets": MARKS.T[..., None], "valid": (jnp.arange(T)[:, None] < LENGTHS)[..., None]}
    marks["resets"] = marks["resets"] & marks["valid"]

    @jax.jit
    def both(args):
        def run(params, x, states, plan):
            x = x.swapaxes(0, 1)
            h, finals = scan.unroll(
                cell,
                params,
                x,
                states,
                **marks,
                **options,
                precision=None,
                plan=plan,
                memory=Memory(plan.keep),
            )
            return jnp.where(marks["valid"], h, 0), finals

        kept, plain = (partial(run, plan=p) for p in (plan, Plan(7, joined=False)))
        gradient = lambda f: (f(*args), jax.grad(scalar(f), argnums=(0, 1, 2))(*args))  # noqa: E731
        return gradient(kept), gradient(plain)

    for options in ({"reverse": True}, {"bidirectional": True}):
        assert_trees_close(*both(problem(cell, options)))


@pytest.mark.parametrize("policy", mostly_slow(["carry", "h", (4, 2)], fast=("h",)))
@pytest.mark.parametrize(
    "cell", mostly_slow([cells.LSTM, cells.GRU, cells.TANH], fast=(cells.LSTM,)), ids=str
)
def test_a_padded_nan_reaches_nothing(cell, policy):
    params, x, states = problem(cell, {}, dtype=jnp.float32)
    x = jnp.where(jnp.arange(T)[None, :, None] < LENGTHS[:, None, None], x, jnp.nan)
    found = values_and_gradients(cell, {"lengths": LENGTHS}, (params, x, states), memory=policy)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("policy", mostly_slow(["carry", "h", (4, 2)], fast=("h",)))
def test_forward_mode_vmap_and_second_derivatives_work(policy):
    args = problem(cells.LSTM, {}, layers=1)

    def run(params, x, states, **how):
        return ops.unroll_layers(cells.LSTM, params, x, states, lengths=LENGTHS, **how)

    ours, theirs = partial(run, memory=policy), partial(run, implementation="reference")
    direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape)), args)

    def tangent(f):
        return jax.jvp(f, args, direction)[1]

    def second(f):
        def norm(*args):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(scalar(f), argnums=(0, 1, 2))(*args)))

        return jax.grad(norm, argnums=(0, 1, 2))(*args)

    def per_example(f):
        rows = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), args[0])
        return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None, None))(rows, *args[1:])

    for transform in (tangent, second, per_example):
        assert_trees_close(
            *jax.jit(lambda transform=transform: (transform(ours), transform(theirs)))(), 1e-12
        )


@pytest.mark.parametrize("policy", ["gates", "carry", "h", 3])
def test_in_bfloat16_no_policy_is_further_from_the_truth(policy):
    """Errors against float64, in units of those of the reference; `carry` rounds the cell state it keeps."""
    exact_args = problem(cells.LSTM, {}, dtype=jnp.float32)
    args = jax.tree.map(lambda a: a.astype(jnp.bfloat16), exact_args)
    with jax.enable_x64(True):
        truth = values_and_gradients(
            cells.LSTM, {}, jax.tree.map(lambda a: a.astype(jnp.float64), args), implementation="reference"
        )
    found, plain = (
        values_and_gradients(cells.LSTM, {}, args, **how)
        for how in ({"memory": policy}, {"implementation": "reference"})
    )
    leaves = (jax.tree.leaves(tree) for tree in (found, plain, truth))
    for ours, theirs, exact in zip(*leaves, strict=True):
        assert ours.dtype == theirs.dtype
        assert rms_error(ours, exact) <= 1.5 * rms_error(theirs, exact) + 2e-3


@pytest.mark.parametrize(
    ("make", "memory"),
    [
        (jaxrnn.LSTM, "6 KiB"),
        pytest.param(jaxrnn.PeepholeLSTM, "h", marks=pytest.mark.slow),
        pytest.param(jaxrnn.GRU, "carry", marks=pytest.mark.slow),
        pytest.param(jaxrnn.RNN, [4, 2], marks=pytest.mark.slow),
    ],
)
def test_every_layer_takes_a_policy(make, memory):
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "batch_first": True}
    masks = [jnp.asarray(draw(5, B, T, 2 * H) > 0)]
    found = [
        trace(
            fill(make(I, H, **options, rngs=nnx.Rngs(0), memory=given), jnp.float32),
            jnp.asarray(draw(1, B, T, I), jnp.float32), lengths=LENGTHS, dropout_masks=masks,
        )
        for given in (memory, None)
    ]  # fmt: skip
    assert_same(*found, 1e-5)


def test_memory_is_taken_where_the_policy_says():
    """Of a training step on a CPU, in arrays [T, B, H]; the outputs and their cotangents are two of them."""
    steps, rows, features, hidden = 16384, 4, 8, 64
    params = {n: jnp.zeros(s) for n, s in cells.LSTM.parameter_shapes(features, hidden).items()}
    state = cells.LSTMState(jnp.zeros((rows, hidden)), jnp.zeros((rows, hidden)))

    def arrays(memory):
        def loss(params, x):
            return jnp.square(ops.unroll(cells.LSTM, params, x, state, memory=memory)[0]).mean()

        compiled = jax.jit(jax.grad(loss)).lower(params, jnp.zeros((rows, steps, features))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * steps * rows * hidden)

    taken = {memory: arrays(memory) for memory in ("gates", "carry", "h", "sqrt")}
    assert taken["gates"] > 6
    assert taken["carry"] < 5
    assert taken["h"] < 4
    assert taken["sqrt"] < taken["h"]


# What is asked for -----------------------------------------------------------------------------------------

SIZE = Size(cells.LSTM, 10_000, 8, 512)


def test_names_and_numbers_mean_policies():
    assert resolve(None, SIZE) == Memory("gates")
    assert resolve("sqrt", SIZE) == Memory(segments=(100,))
    assert resolve([512, np.int64(16)], SIZE) == Memory(segments=(512, 16))
    assert resolve("segments", SIZE).segments == (best_length(SIZE),)
    assert resolve("offload", SIZE).offload
    assert resolve(Memory("h", (64,)), SIZE) == Memory("h", (64,))


@pytest.mark.parametrize(
    ("cell", "dtype", "gates", "carry", "h"),
    [
        (cells.LSTM, jnp.float32, 24, 8, 4 + 4 / 128),
        (cells.LSTM, jnp.bfloat16, 22, 4, 2 + 4 / 128),
        (cells.GRU, jnp.float32, 20, 4, 4),
        (cells.GRU, jnp.bfloat16, 22, 6, 6),
        (cells.TANH, jnp.float32, 4, 4, 4),
    ],
)
def test_bytes_of_a_step(cell, dtype, gates, carry, h):
    size = Size(cell, 1000, 8, 512, dtype=dtype)
    for keep, each in (("gates", gates), ("carry", carry), ("h", h)):
        assert kept_bytes(Memory(keep), size) == 1000 * 8 * 512 * each


def test_a_budget_takes_the_fastest_policy_within_it():
    def chosen(bytes_):
        return resolve(f"{bytes_} B", SIZE)

    needed = {keep: kept_bytes(Memory(keep), SIZE) for keep in ("gates", "carry", "h")}
    for keep, bytes_ in needed.items():
        assert chosen(bytes_) == Memory(keep)
        assert chosen(bytes_ - 1) != Memory(keep)
    segments = chosen(needed["h"] - 1)
    assert segments == Memory(segments=(best_length(SIZE),))
    two = chosen(kept_bytes(segments, SIZE) - 1)
    assert len(two.segments) == 2
    assert kept_bytes(two, SIZE) < kept_bytes(segments, SIZE)


def test_the_best_length_is_the_best():
    best = kept_bytes(Memory(segments=(best_length(SIZE),)), SIZE)
    for length in (1, 10, 50, 70, 100, 200, 1000):
        assert kept_bytes(Memory(segments=(length,)), SIZE) >= 0.98 * best


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ("gatse", r"memory='gatse' is not one of 'gates', .* nor a number of bytes like '2 GiB'"),
        ("2 GB", "nor a number of bytes like '2 GiB'"),
        (0, "positive number of steps"),
        (True, "positive number of steps"),
        (2.5, "positive number of steps"),
        ((), "positive number of steps"),
        ((8, 8), "outermost first"),
        (Memory("h", (), True), "Give segments="),
        (Memory("all"), "keep='all' is not one of 'gates', 'carry', 'h'"),
    ],
)
def test_what_means_nothing_is_refused_when_the_layer_is_made(memory, says):
    with pytest.raises(ValueError, match=says):
        jaxrnn.LSTM(I, H, memory=memory, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=says):
        resolve(memory, SIZE)


def test_a_budget_too_small_says_what_the_leanest_policy_needs():
    layer = jaxrnn.LSTM(I, H, memory="16 B", rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"too little for 7 steps of a batch of 3: 'h', the leanest policy, keeps 399 bytes"
    ):
        layer(jnp.zeros((T, B, I)))


@pytest.mark.parametrize("implementation", ["reference", "cudnn", "pallas"])
def test_other_implementations_refuse_a_policy(implementation):
    layer = jaxrnn.LSTM(I, H, memory="h", implementation=implementation, rngs=nnx.Rngs(0))
    with pytest.raises(
        NotImplementedError,
        match="there in implementation='scan', in 'native' and in 'pallas' on a TPU, not in",
    ):
        layer(jnp.zeros((T, B, I)))
