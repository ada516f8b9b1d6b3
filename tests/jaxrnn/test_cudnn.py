"""LSTMs by cuDNN mean what the reference says, in every transformation.

The calls themselves are emulated here (`cudnn_emulation`), since they need a device; what is around them is ours.
`test_cudnn_on_a_gpu.py` runs the calls, on a machine with an NVIDIA GPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental import rnn

import jaxrnn
from jaxrnn import cells, ops
from jaxrnn.ops import cudnn, scan
from jaxrnn.ops.cudnn import calls
from jaxrnn.ops.planning import Plan
from tests.jaxrnn import cudnn_emulation
from tests.jaxrnn.common import draw, draw_cell, mostly_slow, rms_error, scalar
from tests.jaxrnn.lstm_stacks import draw_stack, layer_by_layer

B, T, I, H = 4, 5, 3, 2
LENGTHS = np.array([T, 0, 2, 1])
SAME = 1e-12  # float64 on both sides, in another order; second derivatives lose a digit


@pytest.fixture
def device(monkeypatch):
    """An emulated device on this platform."""
    with jax.enable_x64(True):
        monkeypatch.setattr(calls, "DEVICE", cudnn_emulation.emulated())
        monkeypatch.setattr(cudnn, "_is_there", lambda: True)
        jax.clear_caches()
        yield
    jax.clear_caches()


def run(implementation, params, x, state, **options):
    return ops.unroll(cells.LSTM, params, x, state, implementation=implementation, **options)


def both(**options):
    return partial(run, "cudnn", **options), partial(run, "reference", **options)


def stack_of(layers, directions, *, bias=True, dtype=jnp.float64):
    return draw_stack(layers, directions, B, T, I, H, scale=lambda n: 1 + n / 7, bias=bias, dtype=dtype)


def assert_close(ours, theirs, tolerance=SAME):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert rms_error(a, b) <= tolerance


def values_and_gradients(f, *args):
    return f(*args), jax.grad(scalar(f), argnums=(0, 1, 2))(*args)


# Values and gradients --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    "lengths", [pytest.param(None, marks=pytest.mark.slow), LENGTHS], ids=["full", "ragged"]
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", mostly_slow([(1, 1), (1, 2), (2, 2), (3, 1)], fast=((2, 2),)), ids=str)
def test_a_stack_is_that_of_the_reference(size, bias, lengths):
    layers, directions = size
    args = stack_of(layers, directions, bias=bias)
    ours = partial(cudnn.unroll_layers, lengths=lengths, bidirectional=directions == 2)
    theirs = partial(layer_by_layer, lengths=lengths, directions=directions)
    assert_close(values_and_gradients(ours, *args), values_and_gradients(theirs, *args))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("size", mostly_slow([(2, 1), (2, 2)], fast=((2, 2),)), ids=str)
def test_the_layers_hand_over_a_whole_stack(size, monkeypatch):
    layers, directions = size
    both_ways = directions == 2
    options = {"batch_first": True, "bidirectional": both_ways, "param_dtype": jnp.float64}
    ours, theirs = (
        jaxrnn.LSTM(I, H, layers, implementation=name, rngs=nnx.Rngs(0), **options)
        for name in ("cudnn", "reference")
    )
    _, x, state = stack_of(layers, directions)

    def of(layer):
        graph, weights = nnx.split(layer)
        return lambda weights, x, state: nnx.merge(graph, weights)(x, tuple(state), lengths=LENGTHS), weights

    (f, weights), (g, _) = of(ours), of(theirs)
    assert_close(values_and_gradients(f, weights, x, state), values_and_gradients(g, weights, x, state))
    assert asked_for(monkeypatch, jax.grad(scalar(f)), weights, x, state) == (1, 1)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_one_layer_is_that_of_the_reference(reverse, lengths):
    args = draw_cell(cells.LSTM, B, T, I, H)
    f, g = both(reverse=reverse, lengths=lengths)
    assert_close(values_and_gradients(f, *args), values_and_gradients(g, *args))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_nothing_in_the_padding_reaches_a_result(reverse):
    params, x, state = draw_cell(cells.LSTM, B, T, I, H)
    padding = np.arange(T)[:, None] >= LENGTHS[:, None, None]
    f, _ = both(reverse=reverse, lengths=LENGTHS)
    clean = values_and_gradients(f, params, x, state)
    assert_close(values_and_gradients(f, params, jnp.where(padding, jnp.nan, x), state), clean, 0)
    assert np.all(np.asarray(clean[1][1])[np.broadcast_to(padding, x.shape)] == 0)
    lengths = jnp.asarray(LENGTHS)
    states = jax.tree.map(lambda s: s[None], state)
    whole = partial(cudnn.unroll_layers, lengths=lengths)
    assert_close(whole([params], jnp.where(padding, jnp.nan, x), states), whole([params], x, states), 0)


@pytest.mark.usefixtures("device")
def test_the_state_of_an_empty_row_reaches_nothing_else():
    params, x, state = draw_cell(cells.LSTM, B, T, I, H)
    f, _ = both(lengths=LENGTHS)
    odd = jax.tree.map(lambda s: s.at[1].set(jnp.nan), state)  # the row of length 0

    def loss(params):
        h, final = f(params, x, odd)
        return jnp.sum(h**2) + sum(jnp.sum(s[0] ** 2) for s in final)

    def clean(params):
        h, final = f(params, x, state)
        return jnp.sum(h**2) + sum(jnp.sum(s[0] ** 2) for s in final)

    assert_close(jax.grad(loss)(params), jax.grad(clean)(params), 0)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("shape", [(B, 0), (0, T)], ids=["no steps", "no rows"])
def test_where_there_is_nothing_to_compute_cudnn_is_not_called(shape):
    rows, steps = shape
    args = draw_cell(cells.LSTM, rows, steps, I, H)
    f, g = both()
    assert_close(values_and_gradients(f, *args), values_and_gradients(g, *args))


def test_parameters_are_packed_as_jax_unpacks_them():
    params, _, _ = stack_of(2, 2, dtype=jnp.float32)
    stack = calls.Stack(I, H, 2, 2, tf32=True, ragged=False)
    packed = calls.pack(stack, params)
    assert packed.shape == (rnn.get_num_params_in_lstm(I, H, 2, True),) == (stack.parameters,)
    for name, theirs in zip(
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
        rnn.unpack_lstm_weights(packed, I, H, 2, True),
        strict=True,
    ):
        for n, each in enumerate(params):
            assert np.array_equal(theirs[n], each[name])
            assert np.array_equal(theirs[n], calls.unpack(stack, packed)[n][name])


# Every transformation --------------------------------------------------------------------------------------


def of_matrix(f, params, x, state):
    return lambda w: scalar(f)({**params, "weight_hh": w}, x, state)


def direction_of(args):
    return jax.tree.map(lambda a: jnp.asarray(draw(3, *a.shape)), args)


def tangents(f, args):
    return jax.jvp(f, args, direction_of(args))


def jacobians(f, args):
    of_input = lambda x: f(args[0], x, args[2])[0]  # noqa: E731
    return jax.jacrev(of_input)(args[1]), jax.jacfwd(of_input)(args[1])


def hessians(f, args):
    g = of_matrix(f, *args)
    w = args[0]["weight_hh"]
    return jax.hessian(g)(w), jax.jacrev(jax.jacrev(g))(w), jax.jacrev(jax.jacfwd(g))(w)


def third_derivative(f, args):
    g = of_matrix(f, *args)
    w = args[0]["weight_hh"]
    along = lambda h: lambda u: jax.jvp(h, (u,), (w,))[1]  # noqa: E731
    return jax.grad(along(along(g)))(w)


def gradient_of_gradient(f, args):
    def norm(*args):
        grads = jax.grad(scalar(f), argnums=(0, 1, 2))(*args)
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

    return jax.grad(norm, argnums=(0, 1, 2))(*args)


def transposed_twice(f, args):
    """The tangents again, as the transpose of the gradients."""
    results, pull = jax.vjp(f, *args)
    return jax.linear_transpose(pull, results)(direction_of(args))


def inputs_batched(f, args):
    params, x, state = args
    many = jnp.stack([x, 2 * x, -x], 1)
    states = jax.tree.map(lambda s: jnp.stack([s, s / 2, -s]), state)

    def batched(params, x, state):
        return jax.vmap(partial(f, params), in_axes=(1, 0))(x, state)

    return values_and_gradients(batched, params, many, states)


def only_states_batched(f, args):
    params, x, state = args
    states = jax.tree.map(lambda s: jnp.stack([s, s / 2]), state)
    return jax.vmap(f, in_axes=(None, None, 0))(params, x, states)


def nothing_but_one_weight_batched(f, args):
    params, x, state = args
    return jax.vmap(of_matrix(f, params, x, state))(jnp.stack([params["weight_hh"]] * 2))


def per_example(f, args):
    params, x, state = args
    many = jnp.stack([x, 2 * x])
    return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(None, 0, None))(params, many, state)


def gradient_of_per_example(f, args):
    return jax.grad(lambda *a: sum(jnp.sum(g**2) for g in jax.tree.leaves(per_example(f, a))))(*args)


def models_batched(f, args):
    params, x, state = args
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    return jax.vmap(jax.grad(scalar(f), argnums=(0, 1)), in_axes=(0, None, None))(many, x, state)


def vmap_in_vmap(f, args):
    params, x, state = args
    many = jnp.stack([jnp.stack([x, 2 * x]), jnp.stack([-x, x + 1])])
    grads = jax.grad(scalar(f), argnums=1)
    return [
        jax.vmap(jax.vmap(g, in_axes=(None, 0, None)), in_axes=(None, 0, None))(params, many, state)
        for g in (f, grads)
    ]


def no_rows_batched(f, args):
    params, x, state = args
    return jax.vmap(jax.value_and_grad(scalar(f)), in_axes=(None, 0, None))(params, x[None][:0], state)


def pulled_one_by_one(f, args):
    """Gradient functions that leave the `vmap` in which they were made."""
    params, x, state = args
    results, pulls = jax.vmap(lambda x: jax.vjp(partial(f, params), x, state))(jnp.stack([x, 2 * x]))
    return [
        jax.tree.map(lambda a, n=n: a[n], pulls)(jax.tree.map(lambda a, n=n: a[n], results)) for n in (0, 1)
    ]


def in_a_loop(f, args):
    def loss(params, x, state):
        def body(state, x):
            h, state = jax.checkpoint(f)(params, x, state)
            return state, jnp.sum(jnp.sin(h))

        state, losses = lax.scan(body, state, jnp.stack([x, x / 2]))
        return jnp.sum(losses) + scalar(lambda s: s)(state)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(*args)


def in_a_branch(f, args):
    def loss(params, x, state):
        return lax.cond(jnp.sum(x) > 0, lambda: scalar(f)(params, x, state), lambda: jnp.sum(x))

    x = jnp.stack([args[1], -args[1]])
    return jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, 0, None))(args[0], x, args[2])


TRANSFORMATIONS = (
    tangents, jacobians, hessians, third_derivative, gradient_of_gradient, transposed_twice, inputs_batched,
    only_states_batched, nothing_but_one_weight_batched, per_example, gradient_of_per_example, models_batched,
    vmap_in_vmap, no_rows_batched, pulled_one_by_one, in_a_loop, in_a_branch,
)  # fmt: skip
QUICK = (tangents, gradient_of_gradient, inputs_batched, per_example)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    "lengths", [pytest.param(None, marks=pytest.mark.slow), LENGTHS], ids=["full", "ragged"]
)
@pytest.mark.parametrize("transformation", mostly_slow(TRANSFORMATIONS, fast=QUICK))
def test_every_transformation_gives_what_the_reference_gives(transformation, lengths):
    args = draw_cell(cells.LSTM, B, T, I, H)
    ours, theirs = both(lengths=lengths)
    assert_close(
        jax.jit(partial(transformation, ours))(args), jax.jit(partial(transformation, theirs))(args), 1e-11
    )


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("transformation", [per_example, pulled_one_by_one, tangents])
def test_transformations_work_without_an_outer_jit(transformation):
    args = draw_cell(cells.LSTM, B, T, I, H)
    ours, theirs = both(lengths=LENGTHS)
    assert_close(transformation(ours, args), transformation(theirs, args), 1e-11)
    with jax.disable_jit():
        assert_close(ours(*args), theirs(*args))


# What the device is asked for ------------------------------------------------------------------------------


def asked_for(monkeypatch, f, *args):
    """Return how often the compiled `f` calls the device forward and backward, as run."""
    counts = {"forward": 0, "backward": 0}

    def counted(name, call):
        def count():
            counts[name] += 1

        def run(*operands):
            jax.debug.callback(count)
            return call(*operands)

        return run

    emulated = cudnn_emulation.emulated()
    spies = {name: counted(name, getattr(emulated, name)) for name in counts}
    monkeypatch.setattr(calls, "DEVICE", emulated._replace(**spies))
    jax.block_until_ready(jax.jit(f)(*args))
    jax.effects_barrier()
    return counts["forward"], counts["backward"]


@pytest.mark.usefixtures("device")
def test_values_and_first_gradients_come_from_the_device(monkeypatch):
    params, x, state = draw_cell(cells.LSTM, B, T, I, H)
    f, _ = both(lengths=LENGTHS)
    assert asked_for(monkeypatch, f, params, x, state) == (1, 0)
    assert asked_for(monkeypatch, jax.grad(scalar(f), argnums=(0, 1, 2)), params, x, state) == (1, 1)
    layers, x, states = stack_of(3, 2)
    whole = partial(cudnn.unroll_layers, bidirectional=True)
    assert asked_for(monkeypatch, jax.grad(scalar(whole)), layers, x, states) == (1, 1)


def loops(f, *args):
    return jax.jit(f).lower(*args).compile().as_text().count(" while(")


@pytest.mark.usefixtures("device")
def test_a_batched_call_stays_one_call():
    """The emulation has no loops: what is left of them would be the scan, or calls one after the other."""
    params, x, state = draw_cell(cells.LSTM, B, T, I, H)
    f, _ = both(lengths=LENGTHS)
    many = jnp.stack([x, 2 * x])
    batched = jax.vmap(f, in_axes=(None, 0, None))
    assert loops(f, params, x, state) == loops(batched, params, many, state) == 0
    assert loops(jax.grad(scalar(batched), argnums=(0, 1)), params, many, state) == 0
    gradients = jax.vmap(jax.grad(scalar(f)), in_axes=(None, 0, None))
    by_scan = jax.vmap(jax.grad(scalar(partial(run, "scan", lengths=LENGTHS))), in_axes=(None, 0, None))
    assert loops(gradients, params, many, state) == loops(by_scan, params, many, state)


@pytest.mark.usefixtures("device")
def test_elsewhere_than_on_cuda_the_scan_computes(monkeypatch):
    """A process with a GPU may compile for its CPU too."""
    args = draw_cell(cells.LSTM, B, T, I, H)
    f, g = both(lengths=LENGTHS)
    expected = values_and_gradients(g, *args)
    monkeypatch.setattr(calls, "DEVICE", cudnn_emulation.emulated("cuda"))
    assert_close(jax.jit(partial(values_and_gradients, f))(*args), expected)
    assert loops(f, *args) == loops(partial(run, "scan", lengths=LENGTHS), *args) > 0


@pytest.mark.usefixtures("device")
def test_an_exported_program_has_no_call():
    """JAX refuses to export them; the scan it exports."""
    args = draw_cell(cells.LSTM, B, T, I, H)
    f, g = both(lengths=LENGTHS)
    exported = jax.export.export(jax.jit(partial(values_and_gradients, f)))(*args)
    assert "while" in exported.mlir_module()
    assert_close(exported.call(*args), values_and_gradients(g, *args))


@pytest.mark.parametrize(
    ("precision", "config", "tf32"),
    [
        (None, None, True),
        ("default", None, True),
        (lax.Precision.HIGH, "highest", True),
        (lax.DotAlgorithmPreset.TF32_TF32_F32, None, True),
        (lax.Precision.HIGHEST, None, False),
        ((lax.Precision.HIGHEST, lax.Precision.DEFAULT), None, False),
        (None, "highest", False),
        (None, "F32_F32_F32", False),
        (lax.DotAlgorithmPreset.F32_F32_F32, None, False),
        (None, "BF16_BF16_F32", None),
        (lax.DotAlgorithmPreset.TF32_TF32_F32_X3, None, None),
    ],
    ids=str,
)
def test_the_precision_decides_between_ieee_and_tensorfloat32(precision, config, tf32):
    with jax.default_matmul_precision(config):
        assert cudnn._allows_tf32(precision) is tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_jax_is_asked_for_that_precision(monkeypatch, tf32):
    """As far as JAX goes without a device: what it would hand to cuDNN."""
    sizes = lambda *_: (8, 12)  # noqa: E731
    monkeypatch.setattr(rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", sizes, raising=False)
    stack = calls.Stack(I, H, 1, 1, tf32=tf32, ragged=False)
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    operands = (array((B, T, I)), array((1, B, H)), array((1, B, H)), array((stack.parameters,)))
    lengths = jax.ShapeDtypeStruct((B,), jnp.int32)
    call = partial(calls.CUDNN.forward, stack)
    program = jax.make_jaxpr(call)(*operands, lengths)
    y, *_, reserve = jax.eval_shape(call, *operands, lengths)
    assert f"cudnn_allow_tf32={tf32}" in str(program)
    assert (y.shape, reserve.shape) == ((B, T, H), (12,))
    back = partial(calls.CUDNN.backward, stack)
    gradients = (y, *operands[1:3])
    program = jax.make_jaxpr(back)(*operands, lengths, y, reserve, *gradients)
    assert f"cudnn_allow_tf32={tf32}" in str(program)
    assert [g.shape for g in program.out_avals] == [o.shape for o in operands]
    assert calls.reserve_bytes(stack, T, B) == 48


# What is refused, and what is chosen -----------------------------------------------------------------------


def refused(cell=cells.LSTM, *, projected=0, resets=None, dtype=jnp.float32, precision=None):
    args = draw_cell(cell, B, T, I, H, projected=projected, dtype=dtype)
    with pytest.raises(
        NotImplementedError, match="Leave it at None to let jaxrnn choose, or take 'scan'"
    ) as error:
        ops.unroll(cell, *args, resets=resets, precision=precision, implementation="cudnn")
    return str(error.value).removeprefix("implementation='cudnn' ").partition(". Leave")[0]


def test_a_process_without_a_gpu_refuses_by_name():
    if jax.default_backend() != "cpu":
        pytest.skip("this process has another device")
    assert refused() == "needs an NVIDIA GPU, and this process runs on 'cpu'"


def test_what_cudnn_cannot_compute_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(cudnn, "_is_there", lambda: True)
    assert refused(cells.GRU) == "computes LSTMs, not <cell GRU>"
    assert refused(projected=1) == "has no projection (proj_size) in JAX"
    assert refused(resets=jnp.zeros((B, T), bool)) == "cannot start anew inside a row (resets)"
    assert refused(dtype=jnp.bfloat16) == "computes in float32, not in bfloat16"
    assert "float32 or TensorFloat32, not with precision=BF16_BF16_F32" in refused(
        precision=lax.DotAlgorithmPreset.BF16_BF16_F32
    )


def test_a_call_that_would_have_to_be_cut_is_refused_and_never_chosen(monkeypatch):
    monkeypatch.setattr(cudnn, "_is_there", lambda: True)
    monkeypatch.setattr(cudnn, "is_faster", lambda *_: True)
    monkeypatch.setattr(calls, "reserve_bytes", lambda *_: 0)
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=auto, devices=jax.devices()[:1])
    rows = jax.sharding.PartitionSpec("rows")

    def shares(implementation):
        def one(x, state):
            return run(implementation, params, x, state)[0]

        return jax.jit(jax.shard_map(one, mesh=mesh, in_specs=rows, out_specs=rows))(x, state)

    assert np.array_equal(shares(None), shares("scan"))
    with pytest.raises(NotImplementedError, match=r"not a part of jax.shard_map or of an explicit sharding"):
        shares("cudnn")


def test_a_symbolic_batch_is_refused_and_left_to_the_scan(monkeypatch):
    monkeypatch.setattr(cudnn, "_is_there", lambda: True)
    monkeypatch.setattr(
        scan, "choose", lambda *_, **options: Plan(T, False)
    )  # as on a GPU, where the batch does not matter
    params, x, state = draw_cell(cells.LSTM, B, T, I, H, dtype=jnp.float32)
    (rows,) = jax.export.symbolic_shape("rows")
    args = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), (x, state))
    exported = jax.export.export(jax.jit(partial(run, None, params)))(*args)
    assert_close(exported.call(x, state), run("scan", params, x, state), 1e-6)
    with pytest.raises(NotImplementedError, match="needs sizes that are numbers, not symbols"):
        jax.export.export(jax.jit(partial(run, "cudnn", params)))(*args)


@pytest.fixture
def chosen(monkeypatch):
    """Whether `None` means cuDNN, on a machine with one emulated GPU of 80 GiB."""
    kept = {}

    def forward(stack, x, *rest):
        return (x, *rest[:2], jnp.zeros(kept.get("floats", 100 * x.size), jnp.float32))

    monkeypatch.setattr(cudnn, "_is_there", lambda: True)
    monkeypatch.setattr(cudnn, "_device_bytes", lambda: 80 * 2**30)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(calls, "DEVICE", calls.CUDNN._replace(forward=forward))

    def ask(rows=16, steps=256, hidden=8, *, floats=None, resets=False, **options):
        kept.update({} if floats is None else {"floats": floats})
        params, x, state = draw_cell(cells.LSTM, rows, steps, I, hidden, dtype=jnp.float32)
        return cudnn.is_chosen(cells.LSTM, [params], x, [state], resets=resets, precision=None, **options)

    return ask


def test_cudnn_is_chosen_for_what_it_serves(chosen, monkeypatch):
    assert chosen()
    assert not chosen(resets=True)
    assert not chosen(rows=0)
    assert not chosen(floats=2 * 2**30)  # 8 GiB for the backward pass
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not chosen()


def test_cudnn_is_not_chosen_where_it_does_not_answer(chosen, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(calls, "DEVICE", calls.CUDNN._replace(forward=fail))
    assert not chosen()


@pytest.mark.parametrize(
    ("size", "faster"),
    [
        ((16, 1024, 768, 768, 1), True),  # the size that was published
        ((16, 1, 768, 768, 1), False),  # one step costs less than a call
        ((16, 64, 768, 768, 1), True),
        ((1, 8, 32, 32, 1), False),
        ((1, 8, 32, 32, 4), True),  # all layers are one call
        ((1024, 100, 4096, 4096, 1), False),  # bound by its products
    ],
)
def test_cudnn_is_faster_where_launches_are_what_a_step_costs(size, faster):
    rows, steps, features, hidden, layers = size
    stack = calls.Stack(features, hidden, layers, 1, tf32=True, ragged=True)
    assert cudnn.is_faster(stack, steps, rows) is faster


def test_none_means_cudnn_where_it_is_chosen(device, monkeypatch):
    args = draw_cell(cells.LSTM, B, T, I, H)
    f = partial(run, None)
    monkeypatch.setattr(cudnn, "is_faster", lambda *_: True)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert loops(f, *args) == 0
    assert_close(f(*args), run("reference", *args))
    jax.clear_caches()
    monkeypatch.setattr(cudnn, "is_faster", lambda *_: False)
    assert loops(f, *args) == 1
