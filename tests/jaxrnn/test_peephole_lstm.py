"""The peephole LSTM, which torch lacks, against ONNX Runtime, long-hand NumPy and the PyTorch mirror."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from tests.jaxrnn.common import assert_same, draw, fill, mostly_slow, rms_error, trace
from tests.oracles import numpy_peephole_lstm, onnx_lstm

B, T, I, H = 3, 6, 4, 5
LENGTHS = [4, T, 1]


def layer_of(dtype, **options):
    return fill(jaxrnn.PeepholeLSTM(I, H, rngs=nnx.Rngs(0), param_dtype=dtype, **options), dtype)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_agrees_with_onnx_runtime(lengths, bidirectional, bias):
    pytest.importorskip("onnxruntime")
    layer = layer_of(jnp.float32, bidirectional=bidirectional, bias=bias)
    directions = 2 if bidirectional else 1
    x, h0, c0 = (
        np.float32(draw(n, *s)) for n, s in enumerate([(T, B, I), (directions, B, H), (directions, B, H)])
    )
    output, (h, c) = layer(x, (h0, c0), lengths=lengths)
    expected = onnx_lstm(jaxrnn.state_dict(layer), x, h0, c0, lengths=lengths)
    for ours, theirs in zip((output, h, c), expected, strict=True):
        # ONNX Runtime approximates its activations: up to 5e-6 off float64 on cases of this size
        assert rms_error(ours, theirs) < 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 3, T]], ids=str)
def test_it_agrees_with_long_hand_numpy_in_float64(lengths, bias):
    layer = layer_of(jnp.float64, num_layers=2, bidirectional=True, bias=bias)
    x, h0, c0 = draw(0, T, B, I), draw(1, 4, B, H), draw(2, 4, B, H)
    output, (h, c) = layer(x, (jnp.asarray(h0), jnp.asarray(c0)), lengths=lengths)
    expected = numpy_peephole_lstm(jaxrnn.state_dict(layer), x, h0, c0, lengths=lengths)
    for ours, theirs in zip((output, h, c), expected, strict=True):
        assert rms_error(ours, theirs) < 1e-14  # some hundred float64 roundings


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("lengths", mostly_slow([None, LENGTHS], fast=(LENGTHS,)), ids=str)
def test_its_gradients_are_those_of_the_mirror(lengths):
    torch = pytest.importorskip("torch")
    import torch_ref
    from tests.torch_ref import common as torch_side

    layer = layer_of(jnp.float64, num_layers=2, bidirectional=True)
    mirror = torch_ref.PeepholeLSTM(I, H, 2, bidirectional=True).double()
    mirror.load_state_dict(
        {name: torch.from_numpy(value) for name, value in jaxrnn.state_dict(layer).items()}
    )
    x, states = draw(0, T, B, I), [draw(1, 4, B, H), draw(2, 4, B, H)]
    expected = torch_side.trace(
        mirror,
        torch.from_numpy(x),
        [torch.from_numpy(s) for s in states],
        lambda x, hx: mirror(x, hx, lengths=lengths),
    )
    found = trace(layer, x, tuple(states), lengths=lengths)
    assert_same(found, {name: value.numpy() for name, value in expected.items()}, 1e-12)


def test_without_peepholes_it_is_an_lstm():
    peephole = layer_of(jnp.float32)
    peephole.weight_ch_l0[...] = jnp.zeros((3, H))
    lstm = jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0))
    jaxrnn.load_state_dict(lstm, jaxrnn.state_dict(peephole), strict=False)
    x = np.float32(draw(0, T, B, I))
    assert rms_error(peephole(x)[0], lstm(x)[0]) < 1e-6  # float32
