"""Defects measured in other recurrent libraries, each with the behaviour that ours has instead.

torch 2.13, flax 0.12.8, Keras 3.15 and ONNX 1.23; numbers and issues are cited where there is a thread.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.sequence import PackedSequence, pack_padded_sequence, pad_packed_sequence, unpad_sequence
from tests.jaxrnn.common import draw, fill, mostly_slow, rms_error
from tests.oracles import onnx_lstm

LAYERS = [jaxrnn.RNN, jaxrnn.GRU, jaxrnn.LSTM, jaxrnn.PeepholeLSTM]
CELLS = [jaxrnn.RNNCell, jaxrnn.GRUCell, jaxrnn.LSTMCell, jaxrnn.PeepholeLSTMCell]
B, T, I, H = 3, 6, 4, 5


def layer_of(cls, *args, **kwargs):
    return fill(
        cls(I, H, *args, batch_first=True, rngs=nnx.Rngs(0), **kwargs), kwargs.get("param_dtype", "float32")
    )


def draw32(seed, *shape):
    return jnp.asarray(draw(seed, *shape), jnp.float32)


def states_of(layer, rows, seed=3):
    """Return initial states as the layer takes them."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [draw32(seed + n, count, rows, f) for n, f in enumerate(layer.cell.state_features(H))]
    return states[0] if len(states) == 1 else tuple(states)


# flax: nnx.RNN and linen.RNN ----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_row_of_length_zero_returns_its_initial_state(cls, bidirectional):
    # flax returns the carry of the last padded step
    layer = layer_of(cls, 2, bidirectional=bidirectional)
    hx = states_of(layer, B)
    output, final = layer(draw32(1, B, T, I), hx, lengths=[0, T, 2])
    assert not output[0].any()
    for started, ended in zip(jax.tree.leaves(hx), jax.tree.leaves(final), strict=True):
        assert jnp.array_equal(started[:, 0], ended[:, 0])
        assert not jnp.array_equal(started[:, 1], ended[:, 1])


@pytest.mark.parametrize("cls", LAYERS)
def test_a_length_beyond_the_last_step_is_an_error(cls):
    # flax counts it as T; torch makes an invalid object
    with pytest.raises(ValueError, match=r"lengths\[1\] is 7, but must be from 0 to 6"):
        layer_of(cls)(draw32(1, B, T, I), lengths=[1, 7, 2])


def test_a_length_beyond_the_last_step_counts_as_all_steps_where_it_cannot_be_known():
    layer = layer_of(jaxrnn.GRU)
    x = draw32(1, B, T, I)
    run = jax.jit(lambda lengths: layer(x, lengths=lengths))
    for a, b in zip(run(jnp.array([1, 70, 2])), run(jnp.array([1, T, 2])), strict=True):
        assert jnp.array_equal(a, b)


@pytest.mark.parametrize("cls", mostly_slow(LAYERS, fast=(jaxrnn.LSTM,)))
@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30], ids=str)
def test_what_the_padding_holds_reaches_neither_results_nor_gradients(cls, garbage):
    # flax: the gradients become NaN although the loss is finite
    layer = layer_of(cls, 2, bidirectional=True)
    lengths = np.array([2, 0, T])
    padding = np.arange(T)[None, :, None] >= lengths[:, None, None]
    clean = jnp.where(padding, 0, draw32(1, B, T, I))
    graphdef, params = nnx.split(layer)

    @jax.jit
    def everything(params, x):
        def loss(params, x):
            output, states = nnx.merge(graphdef, params)(x, lengths=lengths)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((output, states)))

        return jax.value_and_grad(loss, argnums=(0, 1))(params, x)

    plain, dirty = everything(params, clean), everything(params, jnp.where(padding, garbage, clean))
    assert all(
        jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(dirty), strict=True)
    )
    assert not jnp.where(padding, dirty[1][1], 0).any()
    assert jnp.isfinite(dirty[0])


@pytest.mark.parametrize("cls", LAYERS)
def test_several_batch_dimensions_with_lengths_work_through_vmap(cls):
    # flax: ValueError with seq_lengths and return_carry
    layer = layer_of(cls)
    x, lengths = draw32(1, 2, B, T, I), jnp.array([[1, 0, T], [T, 3, 2]])
    mapped = jax.vmap(lambda x, n: layer(x, lengths=n))(x, lengths)
    for row in range(2):
        alone = layer(x[row], lengths=lengths[row])
        for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(alone), strict=True):
            assert rms_error(a[row], b) < 1e-6  # float32, products in another order


@pytest.mark.parametrize("cls", LAYERS + CELLS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_half_precision_works_as_dtype_and_as_param_dtype(cls, dtype):
    # flax: dtype=bfloat16 returns float32 or raises; param_dtype=bfloat16 raises
    shape = (T, B, I) if cls in LAYERS else (B, I)
    computed = cls(I, H, dtype=dtype, rngs=nnx.Rngs(0))
    stored = cls(I, H, param_dtype=dtype, rngs=nnx.Rngs(0))
    x = draw32(1, *shape)
    results = computed(x), stored(x.astype(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype(dtype)}
    exact = cls(I, H, rngs=nnx.Rngs(0))(x)
    unit = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-11
    for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(exact), strict=True):
        assert rms_error(a, b) < 4 * unit  # weights, input and result rounded once each
    gradient = jax.grad(lambda x: sum(jnp.sum(leaf.astype("float32")) for leaf in jax.tree.leaves(stored(x))))
    assert gradient(x.astype(dtype)).dtype == dtype


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cls", LAYERS + CELLS)
def test_float64_works_in_every_layer(cls):
    layer = cls(I, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    x = jnp.asarray(draw(1, *((T, B, I) if cls in LAYERS else (B, I))))
    assert {leaf.dtype for leaf in jax.tree.leaves(layer(x))} == {jnp.dtype("float64")}


@pytest.mark.parametrize("cls", mostly_slow(LAYERS, fast=(jaxrnn.GRU,)))
def test_a_zero_state_needs_no_random_numbers_and_no_nnx_transform(cls):
    # flax: closing over nnx.RNN in plain jax.jit, grad or vmap raises TraceContextError (google/flax#4713)
    layer = layer_of(cls, 2, bidirectional=True)
    assert not jax.tree.leaves(nnx.state(layer, nnx.RngState))
    x = draw32(1, B, T, I)

    def loss(x):
        return jnp.sum(layer(x)[0] ** 2)

    assert jnp.isfinite(jax.jit(loss)(x))
    assert jax.grad(loss)(x).shape == x.shape
    assert jax.vmap(loss)(jnp.stack([x, x])).shape == (2,)
    assert jnp.isfinite(jax.jvp(loss, (x,), (x,))[1])


@pytest.mark.parametrize("cls", LAYERS)
def test_padded_outputs_are_zero(cls):
    # flax leaves what the padded steps computed; Keras repeats the last output
    output, _ = layer_of(cls)(draw32(1, B, T, I), lengths=[2, T, 1])
    assert not output[0, 2:].any()
    assert not output[2, 1:].any()
    assert output[0, :2].all()


def test_the_gru_has_the_bias_that_flax_leaves_out():
    # nnx.GRUCell has no b_hn (google/flax#5594)
    layer = layer_of(jaxrnn.GRU)
    x = draw32(1, B, T, I)
    before = layer(x)[0]
    layer.bias_hh_l0[...] = layer.bias_hh_l0[...].at[2 * H :].add(0.5)
    assert rms_error(layer(x)[0], before) > 1e-2


# torch --------------------------------------------------------------------------------------------------


def test_packing_a_length_beyond_the_input_is_an_error():
    # torch returns data of 7 rows with batch sizes that sum to 8, and dies in the layer
    with pytest.raises(ValueError, match=r"must be from 0 to 6"):
        pack_padded_sequence(draw32(1, T, 2, I), [T + 2, 1])


def test_packing_float_lengths_is_an_error():
    # torch truncates 5.7 to 5
    with pytest.raises(TypeError, match="lengths must be integers"):
        pack_padded_sequence(draw32(1, T, 2, I), np.array([5.7, 2.0]))


def test_unpadding_leaves_the_callers_array_alone():
    # torch transposes it in place (pytorch/pytorch#98499)
    x = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    kept = x.copy()
    unpad_sequence(x, np.array([4, 1, 2]))
    assert x.shape == kept.shape
    assert np.array_equal(x, kept)


@pytest.mark.parametrize("cls", LAYERS)
def test_packed_input_of_the_wrong_size_has_a_clear_error(cls):
    # torch's LSTM: "mat1 and mat2 shapes cannot be multiplied"
    packed = pack_padded_sequence(draw32(1, T, B, I + 1), [T, 3, 1])
    with pytest.raises(
        RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 4, got 5"
    ):
        cls(I, H, rngs=nnx.Rngs(0))(packed)


def test_a_gru_takes_no_projection_by_position():
    # torch builds weight_hr_l0 and fails at every call
    with pytest.raises(TypeError):
        jaxrnn.GRU(3, 4, 1, True, False, 0.0, False, 2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError):
        jaxrnn.RNN(3, 4, 1, "tanh", True, False, 0.0, False, 2, rngs=nnx.Rngs(0))


def test_an_unknown_nonlinearity_never_builds_a_cell():
    # torch's RNNCell fails in the first step only
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: xx"):
        jaxrnn.RNNCell(3, 4, nonlinearity="xx", rngs=nnx.Rngs(0))


def test_two_layers_that_differ_in_their_nonlinearity_print_differently():
    # torch prints RNN(3, 4) for both
    assert repr(jaxrnn.RNN(3, 4, nonlinearity="relu", rngs=nnx.Rngs(0))) == "RNN(3, 4, nonlinearity=relu)"


@pytest.mark.parametrize("cls", mostly_slow(LAYERS, fast=(jaxrnn.GRU,)))
def test_higher_order_and_per_example_gradients_exist(cls):
    # torch: no batching rule for lstm and gru, no jvp on the CPU, no double backward under cuDNN
    layer = layer_of(cls)
    graphdef, params = nnx.split(layer)
    x = draw32(1, B, T, I)

    def loss(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x[None])[0] ** 2)

    per_example = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, x)
    total = jax.jit(jax.grad(lambda p: sum(loss(p, row) for row in x)))(params)
    for rows, whole in zip(jax.tree.leaves(per_example), jax.tree.leaves(total), strict=True):
        assert rms_error(rows.sum(0), whole) < 1e-5  # float32 sums of a few terms in another order
    curvature = jax.jit(lambda v: jax.jvp(jax.grad(loss, argnums=1), (params, x[0]), (params, v)))(x[0])[1]
    assert jnp.isfinite(curvature).all()
    assert curvature.any()


# Keras, ONNX --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", LAYERS)
def test_every_implementation_returns_the_reverse_direction_in_the_same_order(cls):
    # Keras flips it on its cuDNN path and not on the other
    outputs = []
    for implementation in (None, "reference", "scan"):
        layer = layer_of(cls, bidirectional=True, implementation=implementation)
        output, final = layer(draw32(1, B, T, I))
        h = final[0] if isinstance(final, tuple) else final
        assert jnp.array_equal(output[:, 0, H:], h[1])
        assert jnp.array_equal(output[:, -1, :H], h[0])
        outputs.append(output)
    assert all(rms_error(a, b) < 1e-6 for a, b in itertools.pairwise(outputs))  # float32, other order


def test_the_onnx_oracle_looks_at_lengths():
    # onnx's ReferenceEvaluator ignores sequence_lens in silence, so it is no oracle for ragged input
    pytest.importorskip("onnxruntime")
    layer = layer_of(jaxrnn.PeepholeLSTM)
    params = jaxrnn.state_dict(layer)
    x = np.asarray(draw32(1, T, B, I))
    full, *_ = onnx_lstm(params, x)
    ragged, *_ = onnx_lstm(params, x, lengths=[T, 2, 1])
    assert np.array_equal(full[:, 0], ragged[:, 0])
    assert not ragged[2:, 1].any()
    assert full[2:, 1].all()


def test_a_packed_sequence_is_a_pytree_of_one_shape_for_all_lengths():
    # torch's data has one row per valid step: a new program for every batch (pytorch/xla#1522)
    layer = layer_of(jaxrnn.GRU)
    traced = []

    @jax.jit
    def run(packed: PackedSequence):
        traced.append(packed)
        return pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=T)[0]

    for lengths in ([T, 3, 1], [2, 2, 2], [T, T, T]):
        packed = pack_padded_sequence(draw32(1, B, T, I), lengths, batch_first=True)
        output, _ = layer(draw32(1, B, T, I), lengths=lengths)
        assert rms_error(run(packed), output) < 1e-6
    assert len(traced) == 1
