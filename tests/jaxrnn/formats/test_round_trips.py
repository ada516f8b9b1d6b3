"""From Keras to a layer here, to ONNX and back to a layer: no bit of a weight is lost on the way."""

import itertools

import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import bits, keras, layer_of, part, saved, sequential
from tests.jaxrnn.formats.keras_2 import old_file
from tests.jaxrnn.formats.onnx_models import run

pytest.importorskip("h5py")
pytest.importorskip("onnx")

CASES = list(itertools.product(("SimpleRNN", "GRU", "LSTM"), (True, False), (True, False)))


def through_onnx(weights, path):
    """Load weights into a layer, write that as a model, and read the model into another layer."""
    ours = layer_of(weights, "rnn")
    formats.to_onnx(ours, path)
    read = formats.read(path)
    kind, sizes, options, _ = weights.layers["rnn"]
    other = getattr(jaxrnn, kind)(*sizes, **options, rngs=nnx.Rngs(1))
    jaxrnn.load_state_dict(other, formats.stack([part(read.arrays, level) for level in read.layers]))
    return ours, other


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bias", "both"), CASES)
def test_weights_of_keras_come_through_onnx_bit_for_bit(name, bias, both, tmp_path):
    layers = keras().layers
    rnn = getattr(layers, name)(5, return_sequences=True, use_bias=bias, name="rnn")
    model = sequential(layers.Bidirectional(rnn, name="rnn") if both else rnn)
    weights = formats.read(saved(model, tmp_path / "model.keras"))
    ours, other = through_onnx(weights, tmp_path / "model.onnx")
    assert (
        bits(jaxrnn.state_dict(other)) == bits(part(weights.arrays, "rnn")) == bits(jaxrnn.state_dict(ours))
    )
    kernels = [array for array in model.get_weights() if array.ndim == 2]
    sent = np.sort(np.concatenate([array.ravel() for array in kernels]))
    two_biases = bias and name == "GRU"  # they are one matrix in Keras
    arrays = jaxrnn.state_dict(other)
    arrived = [array.ravel() for key, array in arrays.items() if two_biases or "weight" in key]
    assert np.sort(np.concatenate(arrived)).tobytes() == sent.tobytes()
    x = draw(50, 2, 7, 3).astype(np.float32)
    expected = np.asarray(model(x))
    # float32, seven steps in each of three libraries; onnxruntime was measured 4.6e-6 from float64.
    np.testing.assert_allclose(run(tmp_path / "model.onnx", {"input": x})[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other(x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_weights_of_cudnn_come_through_onnx_bit_for_bit(kind, gates, tmp_path):
    shapes = {"kernel": (3, 5 * gates), "recurrent_kernel": (5, 5 * gates), "bias": (10 * gates,)}
    arrays = [(f"rnn/{key}:0", draw(n, *s).astype(np.float32)) for n, (key, s) in enumerate(shapes.items())]
    path = old_file(tmp_path / "a.h5", {"rnn": arrays})
    weights = formats.read(path, assume={"go_backwards": False})
    ours, other = through_onnx(weights, tmp_path / "model.onnx")
    assert bits(jaxrnn.state_dict(other)) == bits(part(weights.arrays, "rnn"))
    sent = np.sort(np.concatenate([array.ravel() for _, array in arrays]))
    arrived = np.sort(np.concatenate([array.ravel() for array in jaxrnn.state_dict(ours).values()]))
    assert arrived.tobytes() == sent.tobytes()
