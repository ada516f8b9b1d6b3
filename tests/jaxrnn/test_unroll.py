"""Every implementation of the unroll means what `ops.reference` says, in every mode of differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import cells, ops
from jaxrnn.ops import reference, scan
from jaxrnn.ops.planning import Plan
from tests.jaxrnn.common import CELLS, draw, draw_cell, mostly_slow, rms_error, scalar

B, T, I, H, R = 3, 6, 5, 4, 2
ANYWHERE = list(ops.ANYWHERE)
# Not "quasi_deer", whose solvers compile for long: test_quasi_deer.py says the same of it, in fewer combinations.
FAST = [name for name in ANYWHERE if name not in ("reference", "quasi_deer")]
RESETS = np.random.default_rng(1).random((B, T)) < 0.3
# Both sides take the same few hundred float64 operations in another order.
SAME = 1e-13


def unroller(cell, implementation, **options):
    return partial(_unroll, cell, implementation, options)


def _unroll(cell, implementation, options, params, x, state):
    return ops.unroll(cell, params, x, state, implementation=implementation, **options)


def values_and_gradients(run, args):
    return run(*args), jax.grad(scalar(run), argnums=(0, 1, 2))(*args)


def assert_trees_close(ours, theirs, tolerance=SAME):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


def plain(cell, **shape):
    return draw_cell(cell, B, T, I, H, **shape)


EVERYTHING = {"lengths": jnp.array([T, 0, 3]), "resets": jnp.asarray(RESETS)}
FEATURES = [
    pytest.param({}, marks=pytest.mark.slow, id="full"),
    pytest.param({"lengths": EVERYTHING["lengths"]}, marks=pytest.mark.slow, id="ragged"),
    pytest.param({"resets": EVERYTHING["resets"]}, marks=pytest.mark.slow, id="resets"),
    pytest.param(EVERYTHING, id="ragged-resets"),
]


@pytest.mark.essential
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("reverse", mostly_slow([False, True], fast=(True,)), ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
@pytest.mark.parametrize("implementation", FAST)
def test_values_and_gradients_are_those_of_the_reference(implementation, cell, reverse, features):
    shapes = [{}, {"bias": False}] + ([{"projected": R}] if cell.state is cells.LSTMState else [])

    def everything(name, args):
        return values_and_gradients(unroller(cell, name, reverse=reverse, **features), args)

    @jax.jit
    def both(args):
        return everything(implementation, args), everything("reference", args)

    for shape in shapes:
        assert_trees_close(*both(plain(cell, **shape)))


PLANS = [
    *(Plan(*p) for p in ((1, False), (2, True), (2, False), (3, True), (4, False), (4, True), (5, False))),
    Plan(6, joined=False, packed=True, unroll=4),
    Plan(3, joined=True, packed=True, unroll=3),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("plan", mostly_slow(PLANS, fast=(Plan(2, True), Plan(4, True), PLANS[-2])), ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.LSTM,)), ids=str)
def test_no_plan_changes_a_value_or_a_gradient(cell, reverse, plan):
    """Chunks of 1 to 5 of the 6 steps, with a remainder and without, and both ways to come by the sums."""
    plan = plan._replace(joined=plan.joined and cell.joinable)
    valid = (jnp.arange(T)[:, None] < EVERYTHING["lengths"])[..., None]
    resets = EVERYTHING["resets"].T[..., None] & valid
    options = {"reverse": reverse, "precision": None}

    def run(unroll, args, **given):
        def steps_first(params, x, state):
            x = jnp.where(valid, x.swapaxes(0, 1), 0)
            h, final = unroll(cell, [params], x, [state], valid, resets, **options, **given)
            return jnp.where(valid, h, 0), final

        return values_and_gradients(steps_first, args)

    @jax.jit
    def both(args):
        return run(scan.unroll, args, plan=plan), run(reference.unroll, args)

    for projected in (0, R) if cell is cells.LSTM else (0,):
        assert_trees_close(*both(plain(cell, projected=projected)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", mostly_slow(CELLS.values(), fast=(cells.GRU, cells.RELU)), ids=str)
@pytest.mark.parametrize("implementation", FAST)
def test_forward_mode_vmap_and_second_derivatives_work(implementation, cell):
    projected = R if cell is cells.LSTM else 0
    params, x, state = plain(cell, projected=projected)
    options = {"lengths": jnp.array([T, 2, 3]), "resets": jnp.asarray(RESETS)}
    ours, theirs = (unroller(cell, name, **options) for name in (implementation, "reference"))

    def tangent(f):
        direction = jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape)), (params, x, state))
        return jax.jvp(f, (params, x, state), direction)[1]

    def hessian(f):
        def of_weight(weight):
            return scalar(f)({**params, "weight_hh": weight}, x, state)

        return jax.hessian(of_weight)(params["weight_hh"])

    def gradient_of_gradient(f):
        def norm(params, x, state):
            return sum(
                jnp.sum(g**2)
                for g in jax.tree.leaves(jax.grad(scalar(f), argnums=(0, 1, 2))(params, x, state))
            )

        return jax.grad(norm, argnums=(0, 1, 2))(params, x, state)

    def per_example(f):
        rows = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
        return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None, None))(rows, x, state)

    for transform in (tangent, hessian, gradient_of_gradient, per_example):
        assert_trees_close(*jax.jit(lambda transform=transform: (transform(ours), transform(theirs)))())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_mark_in_the_padding_begins_nothing(implementation, reverse):
    params, x, state = plain(cells.GRU)
    lengths = jnp.array([3, 4, 6])
    marks = jnp.arange(T)[None] == lengths[:, None]
    run = unroller(cells.GRU, implementation, reverse=reverse, lengths=lengths)
    marked = unroller(cells.GRU, implementation, reverse=reverse, lengths=lengths, resets=marks)
    assert_trees_close(marked(params, x, state), run(params, x, state))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_separates_two_sequences_in_one_row(implementation, reverse):
    params, x, state = plain(cells.LSTM)
    marks = jnp.zeros((B, T), bool).at[:, 4].set(True)
    run = unroller(cells.LSTM, implementation, reverse=reverse)
    both, final = unroller(cells.LSTM, implementation, reverse=reverse, resets=marks)(params, x, state)
    zeros = jax.tree.map(jnp.zeros_like, state)
    starts = (zeros, state) if reverse else (state, zeros)
    first, first_final = run(params, x[:, :4], starts[0])
    second, second_final = run(params, x[:, 4:], starts[1])
    assert_trees_close(both, jnp.concatenate([first, second], axis=1))
    assert_trees_close(final, first_final if reverse else second_final)


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_implementation_writes_outputs_at_their_own_time(implementation, reverse):
    params, x, state = plain(cells.GRU, dtype=jnp.float32)
    h, final = unroller(cells.GRU, implementation, reverse=reverse)(params, x, state)
    assert rms_error(h[:, 0 if reverse else -1], final.h) == 0


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_no_steps_leave_the_state_alone(implementation, cell):
    params, x, state = plain(cell, dtype=jnp.float32)
    run = unroller(cell, implementation)
    h, final = run(params, x[:, :0], state)
    assert h.shape == (B, 0, H)
    assert_trees_close(final, state, 0)
    gradients = jax.grad(lambda *args: run(*args)[1].h.sum(), argnums=(0, 2))(params, x[:, :0], state)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients[0]))
    assert (gradients[1].h == 1).all()


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("shape", [(), (2, 3), (0,)], ids=str)
def test_any_number_of_batch_dimensions_may_stand_before_time(implementation, shape):
    params, x, state = draw_cell(cells.LSTM, max(1, int(np.prod(shape))), T, I, H, dtype=jnp.float32)
    lengths = jnp.arange(x.shape[0]) % T
    count = int(np.prod(shape))
    reshape = lambda a: a[:count].reshape(*shape, *a.shape[1:])  # noqa: E731
    args = params, reshape(x), jax.tree.map(reshape, state)
    h, final = unroller(cells.LSTM, implementation, lengths=reshape(lengths))(*args)
    flat, flat_final = unroller(cells.LSTM, implementation, lengths=lengths)(params, x, state)
    assert_trees_close(h, reshape(flat), 1e-6)
    assert_trees_close(final, jax.tree.map(reshape, flat_final), 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_half_precision_keeps_its_dtype_and_carries_the_state_in_float32(cell, dtype):
    args = plain(cell, dtype=dtype)
    results = {}
    for name in ANYWHERE:
        results[name] = jax.jit(values_and_gradients, static_argnums=0)(unroller(cell, name), args)
        assert {leaf.dtype for leaf in jax.tree.leaves(results[name])} == {jnp.dtype(dtype)}
    exact = jax.tree.map(lambda a: a.astype(jnp.float32), args)
    expected = jax.jit(values_and_gradients, static_argnums=0)(unroller(cell, "reference"), exact)
    unit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-11
    for name in ANYWHERE:
        # Rounding h for each product and each result once; a bfloat16 carry would cost T roundings more.
        assert_trees_close(results[name], expected, 3 * unit)


def loops(jaxpr):
    """Return the bodies of all scans, at any depth."""
    found = []
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += [inner] if equation.primitive.name == "scan" else []
                found += loops(inner)
    return found


def count(jaxpr, primitive):
    """Return how many equations of a primitive there are, at any depth."""
    inner = [getattr(v, "jaxpr", v) for e in jaxpr.eqns for v in e.params.values()]
    return sum(e.primitive.name == primitive for e in jaxpr.eqns) + sum(
        count(j, primitive) for j in inner if hasattr(j, "eqns")
    )


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_training_leaves_one_product_per_step_in_each_loop(cell):
    args = plain(cell, dtype=jnp.float32)
    loss = jax.grad(scalar(unroller(cell, "scan")), argnums=(0, 1, 2))
    bodies = loops(jax.make_jaxpr(loss)(*args).jaxpr)
    assert [count(body, "dot_general") for body in bodies] == [1, 1]
    naive = jax.grad(scalar(unroller(cell, "reference")), argnums=(0, 1, 2))
    assert max(count(body, "dot_general") for body in loops(jax.make_jaxpr(naive)(*args).jaxpr)) == 4


@pytest.mark.parametrize(("cell", "stacked"), [(cells.LSTM, 6), (cells.GRU, 5), (cells.TANH, 1)], ids=str)
def test_the_forward_loop_saves_only_the_chosen_residuals(cell, stacked):
    args = plain(cell, dtype=jnp.float32)
    jaxpr = jax.make_jaxpr(jax.grad(scalar(unroller(cell, "scan")), argnums=(0, 1, 2)))(*args).jaxpr
    forward = loops(jaxpr)[0]
    carried = len(cell.state._fields)
    assert len(set(forward.outvars[carried:])) == stacked  # h, and what the derivative keeps


def test_an_input_gradient_alone_computes_no_weight_gradients():
    args = plain(cells.LSTM, dtype=jnp.float32)
    gradient = jax.grad(scalar(unroller(cells.LSTM, "scan")), argnums=1)
    assert count(jax.make_jaxpr(gradient)(*args).jaxpr, "dot_general") == 4, (
        "W_ih x, W_hh h and their transposes"
    )


def test_an_unknown_implementation_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"'fast' is not one of \['cudnn', 'native', 'pallas', 'quasi_deer', 'reference', 'scan'\]",
    ):
        ops.unroll(cells.LSTM, *plain(cells.LSTM, dtype=jnp.float32), implementation="fast")
