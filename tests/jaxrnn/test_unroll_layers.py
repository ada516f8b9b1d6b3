"""Layers and directions unrolled in one loop mean what they mean one after the other."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxrnn import cells, ops
from jaxrnn.ops import reference, scan
from jaxrnn.ops.planning import Plan, choose
from jaxrnn.plan.loops import loops
from tests.jaxrnn.common import CELLS, draw, draw_cell, mostly_slow, rms_error, scalar

B, T, I, H, L = 3, 6, 5, 4, 3
LENGTHS = jnp.array([T, 0, 3])
MARKS = jnp.zeros((B, T), bool).at[0, 2].set(True).at[2, 1].set(True)
SAME = 1e-13  # both sides take the same operations in another order, in float64
PLANS = {
    "step by step": Plan(1, joined=False, together=True),
    "chunks": Plan(3, joined=True, together=True),
    "a remainder": Plan(4, joined=False, together=True),
    "packed and unrolled": Plan(6, joined=False, packed=True, unroll=2, together=True),
    "apart": Plan(4, joined=False),
}
DIRECTIONS = {
    "forward": {"reverse": False},
    "reverse": {"reverse": True},
    "both": {"bidirectional": True},
}


def stack(cell, layers=L, directions=1, **shape):
    """Draw layers of one cell; each but the first takes what the one below returns."""
    width = (shape.get("projected") or H) * directions
    features = [f for f in (I, *[width] * (layers - 1)) for _ in range(directions)]
    drawn = [draw_cell(cell, B, T, f, H, **shape) for f in features]
    scaled = [jax.tree.map(lambda a, n=n: a * (1 - 0.2 * n), layer) for n, layer in enumerate(drawn)]
    return [params for params, _, _ in scaled], drawn[0][1], [state for _, _, state in scaled]


def values_and_gradients(run, args):
    return run(*args), jax.grad(scalar(run), argnums=(0, 1, 2))(*args)


def assert_trees_close(ours, theirs, tolerance=SAME):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


# Each plan in each direction for a cell of each kind; of the others, what is their own.
TRIED = [
    (cell, way, plan) for cell in (cells.LSTM, cells.GRU) for way in ("forward", "both") for plan in PLANS
]
TRIED += [(cell, "reverse", "chunks") for cell in (cells.LSTM, cells.GRU)]
TRIED += [
    (cell, "both", plan)
    for cell in (cells.TANH, cells.PEEPHOLE_LSTM)
    for plan in ("chunks", "packed and unrolled")
]
FAST = [
    (cells.LSTM, "both", "chunks"),
    (cells.GRU, "both", "step by step"),
    (cells.LSTM, "forward", "chunks"),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "way", "plan"),
    [pytest.param(*one, marks=() if one in FAST else pytest.mark.slow, id=str(one)) for one in TRIED],
)
def test_no_plan_changes_a_value_or_a_gradient(cell, way, plan):
    plan = PLANS[plan]
    plan = plan._replace(joined=plan.joined and cell.joinable, beside=plan.together)
    valid = (jnp.arange(T)[:, None] < LENGTHS)[..., None]
    resets = MARKS.T[..., None] & valid

    def run(unroll, args, **given):
        def steps_first(layers, x, states):
            x = jnp.where(valid, x.swapaxes(0, 1), 0)
            h, finals = unroll(
                cell, layers, x, states, valid, resets, precision=None, **DIRECTIONS[way], **given
            )
            return jnp.where(valid, h, 0), tuple(finals)

        return values_and_gradients(steps_first, args)

    @jax.jit
    def both(args):
        return run(scan.unroll, args, plan=plan), run(reference.unroll, args)

    shape = {"layers": 2, "directions": 2} if way == "both" else {}
    for projected in (0, 2) if cell is cells.LSTM else (0,):
        assert_trees_close(*both(stack(cell, projected=projected, **shape)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "bidirectional", mostly_slow([False, True], fast=(True,)), ids=["together", "beside"]
)
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.GRU,)), ids=str)
def test_forward_mode_vmap_and_second_derivatives_work(cell, bidirectional):
    plan = Plan(2, joined=False, together=True, beside=True)
    layers, x, states = stack(cell, layers=1, directions=2) if bidirectional else stack(cell, layers=2)
    valid = (jnp.arange(T)[:, None] < LENGTHS)[..., None]

    def run(unroll, layers, x, states):
        options = {"bidirectional": bidirectional, "precision": None}
        resets = MARKS.T[..., None] & valid
        h, finals = unroll(cell, layers, x.swapaxes(0, 1), states, valid, resets, **options)
        return jnp.where(valid, h, 0), finals

    ours, theirs = partial(run, partial(scan.unroll, plan=plan)), partial(run, reference.unroll)

    def tangent(f):
        direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape)), (layers, x, states))
        return jax.jvp(f, (layers, x, states), direction)[1]

    def gradient_of_gradient(f):
        def norm(layers, x, states):
            gradients = jax.grad(scalar(f), argnums=(0, 1, 2))(layers, x, states)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients))

        return jax.grad(norm, argnums=(0, 1, 2))(layers, x, states)

    def per_example(f):
        rows = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), layers)
        return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None, None))(rows, x, states)

    for transform in (tangent, gradient_of_gradient, per_example):
        assert_trees_close(*jax.jit(lambda transform=transform: (transform(ours), transform(theirs)))())


@pytest.mark.usefixtures("x64")
def test_layers_together_are_what_they_are_one_by_one():
    layers, x, states = stack(cells.PEEPHOLE_LSTM)
    options = {"lengths": LENGTHS, "resets": MARKS, "reverse": True}
    h, finals = ops.unroll_layers(cells.PEEPHOLE_LSTM, layers, x, states, **options)
    for params, state, final in zip(layers, states, finals, strict=True):
        x, alone = ops.unroll(cells.PEEPHOLE_LSTM, params, x, state, **options)
        assert_trees_close(final, alone)
    assert_trees_close(h, x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", ["scan", "reference"])
def test_two_directions_are_each_one_side_by_side(implementation):
    (below, *_), x, states = stack(cells.LSTM)
    above = draw_cell(cells.LSTM, B, T, 2 * H, H)[0]
    negated = partial(jax.tree.map, jnp.negative)
    layers, states = [below, negated(below), above, negated(above)], [*states, states[0]]
    options = {"lengths": LENGTHS, "resets": MARKS, "implementation": implementation}
    h, finals = ops.unroll_layers(cells.LSTM, layers, x, states, bidirectional=True, **options)
    expected = []
    for first in (0, 2):
        sides = [
            ops.unroll(
                cells.LSTM, layers[first + side], x, states[first + side], reverse=side == 1, **options
            )
            for side in (0, 1)
        ]
        x = jnp.concatenate([side for side, _ in sides], axis=-1)
        expected += [final for _, final in sides]
    assert_trees_close((h, finals), (x, tuple(expected)))


@pytest.mark.parametrize("way", mostly_slow(DIRECTIONS, fast=("reverse",)))
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("cell", mostly_slow([cells.LSTM, cells.GRU], fast=(cells.LSTM,)), ids=str)
def test_a_padded_nan_reaches_no_layer(cell, plan, way):
    plan = plan._replace(joined=plan.joined and cell.joinable, beside=plan.together)
    shape = {"layers": 2, "directions": 2} if way == "both" else {}
    layers, x, states = stack(cell, dtype=jnp.float32, **shape)
    padding = jnp.arange(T)[None, :, None] >= LENGTHS[:, None, None]

    def run(layers, x, states):
        x, valid = jnp.where(padding, jnp.nan, x).swapaxes(0, 1), ~padding.swapaxes(0, 1)
        options = {"precision": None, "plan": plan} | DIRECTIONS[way]
        h, finals = scan.unroll(cell, layers, x, states, valid, None, **options)
        return jnp.where(valid, h, 0), finals

    values, gradients = jax.jit(values_and_gradients, static_argnums=0)(run, (layers, x, states))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((values, gradients)))


def test_directions_advance_beside_each_other_where_that_pays():
    def beside(cell, rows, platform="cpu", directions=2):
        return choose(cell, 100, rows, 60, 200, platform, directions=directions).beside

    assert beside(cells.GRU, 32)
    assert not beside(cells.GRU, 16)
    assert beside(cells.LSTM, 64)
    assert not beside(cells.LSTM, 32)
    assert not beside(cells.TANH, 64)
    assert not beside(cells.GRU, 32, directions=1)
    assert not beside(cells.GRU, 32, "gpu")


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU], ids=str)
def test_directions_beside_each_other_are_one_loop_of_two_products(cell):
    (params, _), x, states = stack(cell, layers=1, directions=2, dtype=jnp.float32)

    def innermost(plan):
        def loss(layers, x):
            options = {"bidirectional": True, "precision": None, "plan": plan}
            h, _ = scan.unroll(cell, layers, x.swapaxes(0, 1), states, None, None, **options)
            return jnp.square(h).mean()

        program = jax.jit(jax.grad(loss)).lower([params, params], x).compile()
        return [loop.products for loop in loops(program.as_text()) if loop.products]

    beside, apart = (innermost(Plan(T, joined=cell.joinable, beside=both)) for both in (True, False))
    assert apart == [1, 1, 1, 1]
    assert beside == [2, 2]


def test_layers_advance_together_where_that_pays():
    lecture, small = (19, 1026, 1, 32), (100, 4, 64, 128)
    for cell in (cells.LSTM, cells.GRU, cells.TANH, cells.PEEPHOLE_LSTM):
        assert choose(cell, *lecture, "cpu", layers=2).together
        assert not choose(cell, *lecture, "cpu", layers=1).together
        assert not choose(cell, *small, "cpu", layers=2).together
        assert not choose(cell, *lecture, "gpu", layers=2).together
    assert choose(cells.GRU, 100, 64, 128, 256, "cpu", layers=2).together


@pytest.mark.parametrize("cell", [cells.LSTM, cells.GRU, cells.TANH], ids=str)
def test_what_passes_between_layers_that_advance_together_is_not_stored(cell):
    steps, rows, hidden = 19, 256, 32
    array = 4 * steps * rows * hidden

    def compiled(plan):
        layers = [{n: jnp.zeros(s) for n, s in cell.parameter_shapes(hidden, hidden).items()}] * 2
        states = [cell.state(*(jnp.zeros((rows, hidden)) for _ in cell.state._fields))] * 2

        def loss(layers, x):
            options = {"reverse": False, "precision": None, "plan": plan}
            return jnp.square(scan.unroll(cell, layers, x, states, None, None, **options)[0]).mean()

        return (
            jax.jit(jax.grad(loss, argnums=(0, 1))).lower(layers, jnp.zeros((steps, rows, hidden))).compile()
        )

    together, apart = (compiled(Plan(1, joined=False, together=both)) for both in (True, False))
    taken, would_take = (p.memory_analysis().temp_size_in_bytes for p in (together, apart))
    # Its cotangent, and of an LSTM the array itself, less what the products with W_ih take in each step.
    assert would_take - taken > 0.5 * array
    assert len(loops(together.as_text())) < len(loops(apart.as_text()))
