"""MinGRU and MinLSTM: what they compute in parallel is what a loop over their equations computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import linear_cells, ops
from jaxrnn.cells import HiddenState
from jaxrnn.ops.affine import linear_recurrence
from tests.jaxrnn.common import assert_same, draw, fill, mostly_slow, rms_error, scalar, trace

B, T, I, H = 3, 9, 5, 4
LAYERS = {"min_gru": jaxrnn.MinGRU, "min_lstm": jaxrnn.MinLSTM}
CELLS = {"min_gru": linear_cells.MIN_GRU, "min_lstm": linear_cells.MIN_LSTM}
LENGTHS = np.array([T, 0, 5])
RESETS = np.random.default_rng(1).random((B, T)) < 0.3


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def step(name, params, x, h):
    """One step as the paper writes it, in NumPy."""
    blocks = np.split(x @ params["weight_ih"].T + params.get("bias_ih", 0), 2 if name == "min_gru" else 3, -1)
    if name == "min_gru":
        z = sigmoid(blocks[0])
        return (1 - z) * h + z * blocks[1]
    f, i = sigmoid(blocks[0]), sigmoid(blocks[1])
    return f / (f + i) * h + i / (f + i) * blocks[2]


def loop(name, params, x, h0, reverse):
    """Return the outputs [B, T, H] and final states of ragged rows with resets, row after row."""
    outputs, finals = np.zeros((B, T, H)), h0.copy()
    for row in range(B):
        h, valid = h0[row], range(LENGTHS[row])
        for t in reversed(valid) if reverse else valid:
            mark = t + 1 if reverse else t
            if mark < LENGTHS[row] and RESETS[row, mark]:
                h = np.zeros(H)
            h = outputs[row, t] = step(name, params, x[row, t], h)
        finals[row] = h
    return outputs, finals


def drawn(name, dtype=np.float64, bias=True):
    shapes = CELLS[name].parameter_shapes(I, H, bias=bias)
    params = {n: draw(k, *shape).astype(dtype) for k, (n, shape) in enumerate(shapes.items())}
    return params, draw(30, B, T, I).astype(dtype), draw(20, B, H).astype(dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_unroll_is_a_loop_over_the_papers_equations(name, reverse):
    params, x, h0 = drawn(name)
    x[np.arange(T)[None] >= LENGTHS[:, None]] = np.nan  # the padding
    h, final = ops.unroll(
        CELLS[name], jax.tree.map(jnp.asarray, params), jnp.asarray(x), HiddenState(jnp.asarray(h0)),
        lengths=jnp.asarray(LENGTHS), resets=jnp.asarray(RESETS), reverse=reverse,
    )  # fmt: skip
    outputs, finals = loop(name, params, x, h0, reverse)
    assert rms_error(h, outputs) < 1e-14
    assert rms_error(final.h, finals) < 1e-14


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", mostly_slow(LAYERS, fast=("min_lstm",)))
def test_gradients_are_those_of_a_loop(name):
    """Through two layers in both directions with garbage in the padding, and with dropout masks."""
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "batch_first": True}
    layer = fill(LAYERS[name](I, H, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64))
    x, masks = draw(1, B, T, I), [jnp.asarray(draw(5, B, T, 2 * H) > 0)]
    x[np.arange(T)[None] >= LENGTHS[:, None]] = np.nan
    call = {"lengths": LENGTHS, "resets": jnp.asarray(RESETS), "dropout_masks": masks}
    ours = trace(layer, x, draw(2, 4, B, H), **call)
    assert all(np.isfinite(array).all() for array in ours.values())

    def by_a_loop(keep, add):
        def step(s, ab):
            s = ab[0] * s + ab[1]
            return s, s

        return jax.lax.scan(step, jnp.zeros_like(add[0]), (keep, add))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops.linear, "linear_recurrence", by_a_loop)
        jax.clear_caches()
        expected = trace(layer, x, draw(2, 4, B, H), **call)
    jax.clear_caches()
    assert_same(ours, expected, 1e-13)


@pytest.mark.usefixtures("x64")
def test_a_linear_recurrence_is_differentiable_in_every_way():
    a, b = jnp.asarray(draw(1, T, H)), jnp.asarray(draw(2, T, H))

    def by_a_loop(a, b):
        s, found = jnp.zeros(H), []
        for t in range(T):
            s = a[t] * s + b[t]
            found.append(s)
        return jnp.stack(found)

    def tangent(f):
        return jax.jvp(f, (a, b), (b, a))[1]

    def second(f):
        def norm(*args):
            return sum(jnp.sum(g**2) for g in jax.grad(scalar(f), argnums=(0, 1))(*args))

        return jax.grad(norm, argnums=(0, 1))(a, b)

    def mapped(f):
        return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None))(jnp.stack([a, 0.5 * a]), b)

    for transform in (tangent, second, mapped):
        ours, theirs = (jax.jit(lambda f=f, t=transform: t(f))() for f in (linear_recurrence, by_a_loop))
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert rms_error(one, other) < 1e-13


@pytest.mark.parametrize("name", mostly_slow(LAYERS, fast=("min_gru",)))
def test_in_float32_long_sequences_lose_nothing(name):
    """The scan's errors are those of the loop, a few roundings, and do not grow with time."""
    errors = {}
    for steps in (256, 8192):
        layer = fill(LAYERS[name](I, H, rngs=nnx.Rngs(0)), jnp.float32)
        x = draw(1, steps, 1, I).astype(np.float32)
        params = {
            n.removesuffix("_l0"): np.asarray(v, np.float64) for n, v in jaxrnn.state_dict(layer).items()
        }
        h, exact = np.zeros((1, H)), []
        for each in x.astype(np.float64):
            h = step(name, params, each, h)
            exact.append(h)
        errors[steps] = rms_error(layer(jnp.asarray(x))[0], np.stack(exact))
    assert errors[256] < 4 * 2.0**-23
    assert errors[8192] < 1.5 * errors[256]


def test_saturated_gates_of_a_minlstm_divide_no_zeros():
    """σ underflows to zero for both gates: f / (f + i), as written, is NaN."""
    pre = (jnp.array([-200.0, -200.0, 200.0]), jnp.array([-200.0, -190.0, 200.0]), jnp.ones(3))
    keep, add = linear_cells.min_lstm_coefficients(pre)
    assert np.allclose(keep, [0.5, sigmoid(-10.0), 0.5], rtol=1e-5)
    assert np.allclose(keep + add, 1, rtol=1e-6)


def test_half_precision_is_carried_in_float32():
    layer = fill(jaxrnn.MinGRU(I, H, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16), jnp.bfloat16)
    x = jnp.asarray(draw(1, 500, B, I), jnp.bfloat16)
    output, final = layer(x)
    assert output.dtype == final.dtype == jnp.bfloat16
    exact = fill(jaxrnn.MinGRU(I, H, rngs=nnx.Rngs(0)), jnp.bfloat16)  # the same rounded weights
    nnx.update(exact, jax.tree.map(lambda a: a.astype(jnp.float32), nnx.state(exact, nnx.Param)))
    assert rms_error(output, exact(x.astype(jnp.float32))[0]) < 2.0**-8  # rounded once, at the end


def test_there_is_one_way_to_compute_them():
    with pytest.raises(TypeError, match="unexpected keyword argument 'implementation'"):
        jaxrnn.MinGRU(I, H, implementation="scan", rngs=nnx.Rngs(0))
    params, x, h0 = drawn("min_gru", np.float32)
    for option in ({"implementation": "scan"}, {"memory": "carry"}):
        with pytest.raises(NotImplementedError, match="MIN_GRU is computed in one way"):
            ops.unroll(linear_cells.MIN_GRU, params, jnp.asarray(x), HiddenState(jnp.asarray(h0)), **option)
    h, final = ops.unroll(linear_cells.MIN_GRU, params, jnp.asarray(x[:, :0]), HiddenState(jnp.asarray(h0)))
    assert h.shape == (B, 0, H)
    assert np.array_equal(final.h, h0)


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_weights_go_to_the_mirror_in_torch_by_name(name, torch):
    import torch_ref

    layer = LAYERS[name](I, H, 2, bidirectional=True, rngs=nnx.Rngs(0))
    mirror = getattr(torch_ref, type(layer).__name__)(I, H, 2, bidirectional=True)
    ours = jaxrnn.state_dict(layer)
    assert list(ours) == list(mirror.state_dict())
    mirror.load_state_dict({n: torch.tensor(v) for n, v in ours.items()})
    x = draw(1, T, B, I).astype(np.float32)
    output, _ = mirror(torch.tensor(x))
    assert rms_error(layer(jnp.asarray(x))[0], output.detach()) < 1e-6
    torch.manual_seed(3)
    drawn_by_torch = getattr(torch_ref, type(layer).__name__)(I, H, 2, bidirectional=True).state_dict()
    jaxrnn.init.like_torch(layer, 3)
    for n, v in jaxrnn.state_dict(layer).items():
        assert np.array_equal(v, drawn_by_torch[n].numpy())
