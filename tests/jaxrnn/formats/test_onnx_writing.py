"""Layers as ONNX models: onnxruntime computes with them what the layer computes, and they come back bit for bit."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw, mostly_slow
from tests.jaxrnn.formats.common import bits, filled, part
from tests.jaxrnn.formats.onnx_models import run

onnx = pytest.importorskip("onnx")

# float32, seven steps of each of two levels; onnxruntime itself was measured 4.6e-6 from float64 NumPy.
CLOSE = {"rtol": 0, "atol": 1e-5}
LENGTHS = np.array([7, 4, 1], np.int32)


def layer(name, **options):
    return filled(getattr(jaxrnn, name)(3, 5, **options, rngs=nnx.Rngs(0)))


def options_of_layers():
    """Levels, directions, bias and the batch's place, all combinations."""
    names = ("num_layers", "bidirectional", "bias", "batch_first")
    return [
        dict(zip(names, values, strict=True)) for values in itertools.product((1, 2), *[(False, True)] * 3)
    ]


FAST = {"num_layers": 2, "bidirectional": True, "bias": True, "batch_first": True}


def called(name):
    """Return a constructor of layers by name; "relu" is an RNN with it."""
    return ("RNN", {"nonlinearity": "relu"}) if name == "relu" else (name, {})


@pytest.mark.parametrize("options", mostly_slow(options_of_layers(), fast=(FAST,)), ids=str)
@pytest.mark.parametrize("name", ["RNN", "relu", "GRU", "LSTM", "PeepholeLSTM"])
def test_onnxruntime_computes_what_the_layer_computes(name, options, tmp_path):
    kind, more = called(name)
    ours = layer(kind, **options, **more)
    path = tmp_path / "a.onnx"
    formats.to_onnx(ours, path, lengths=True, initial_state=True)
    x = draw(50, *((3, 7, 3) if ours.batch_first else (7, 3, 3))).astype(np.float32)
    count = ours.num_layers * (2 if ours.bidirectional else 1)
    start = [draw(60 + n, count, 3, 5).astype(np.float32) for n in range(2 if "LSTM" in kind else 1)]
    output, final = ours(x, tuple(start) if len(start) == 2 else start[0], lengths=LENGTHS)
    given = {"input": x, "lengths": LENGTHS} | {f"{s}_0": a for s, a in zip("hc", start, strict=False)}
    expected = [output, *(final if isinstance(final, tuple) else [final])]
    for theirs, each in zip(run(path, given), expected, strict=True):
        np.testing.assert_allclose(theirs, each, **CLOSE)


@pytest.mark.parametrize("name", ["RNN", "relu", "GRU", "LSTM", "PeepholeLSTM"])
def test_a_model_without_options_takes_the_input_alone(name, tmp_path):
    kind, more = called(name)
    ours = layer(kind, num_layers=2, **more)
    formats.to_onnx(ours, tmp_path / "a.onnx")
    for rows, steps in ((2, 7), (1, 3)):  # neither is fixed in the model
        x = draw(50, steps, rows, 3).astype(np.float32)
        output, final = ours(x)
        results = run(tmp_path / "a.onnx", {"input": x})
        np.testing.assert_allclose(results[0], output, **CLOSE)
        np.testing.assert_allclose(results[1], final[0] if isinstance(final, tuple) else final, **CLOSE)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", ["RNN", "relu", "GRU", "LSTM", "PeepholeLSTM"])
def test_a_written_layer_comes_back_bit_for_bit(name, dtype, x64, tmp_path):
    kind, more = called(name)
    ours = getattr(jaxrnn, kind)(3, 5, 2, bidirectional=True, param_dtype=dtype, rngs=nnx.Rngs(0), **more)
    filled(ours, dtype)
    formats.to_onnx(ours, tmp_path / "a.onnx")
    weights = formats.read(tmp_path / "a.onnx")
    assert list(weights.layers) == ["l0", "l1"]
    assert {each.kind for each in weights.layers.values()} == {kind}
    assert weights.layers["l1"].options.get("nonlinearity", "tanh") == more.get("nonlinearity", "tanh")
    arrays = formats.stack([part(weights.arrays, level) for level in weights.layers])
    assert bits(arrays) == bits(jaxrnn.state_dict(ours))


def test_a_row_of_length_0_ends_where_it_starts_if_that_is_zero(tmp_path):
    """Given another state to start from, onnxruntime returns zeros all the same; the docstring says so."""
    ours = layer("LSTM", bidirectional=True)
    formats.to_onnx(ours, tmp_path / "a.onnx", lengths=True)
    x, lengths = draw(50, 7, 3, 3).astype(np.float32), np.array([7, 0, 2], np.int32)
    output, (h, c) = ours(x, lengths=lengths)
    for theirs, each in zip(
        run(tmp_path / "a.onnx", {"input": x, "lengths": lengths}), (output, h, c), strict=True
    ):
        np.testing.assert_allclose(theirs, each, **CLOSE)


def test_a_layer_that_drops_is_written_as_it_evaluates(tmp_path):
    ours = layer("GRU", num_layers=2, dropout=0.5)
    formats.to_onnx(ours, tmp_path / "a.onnx")
    ours.eval()
    x = draw(50, 7, 2, 3).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "a.onnx", {"input": x})[0], ours(x)[0], **CLOSE)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: layer("LSTM", proj_size=2), NotImplementedError, "no projection"),
        (lambda: layer("MinGRU"), TypeError, "writes RNN, GRU, LSTM and PeepholeLSTM layers, got MinGRU"),
        (lambda: layer("LSTMCell"), TypeError, "got LSTMCell"),
        (lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)), TypeError, "got Linear"),
        (lambda: layer("GRU", dtype=jnp.bfloat16), NotImplementedError, "computes in bfloat16"),
        (
            lambda: jaxrnn.GRU(3, 5, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
            NotImplementedError,
            "have no bfloat16; convert it to float32",
        ),
    ],
)
def test_what_onnx_cannot_say_is_refused_and_nothing_written(make, error, match, tmp_path):
    with pytest.raises(error, match=match):
        formats.to_onnx(make(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("precious")
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        formats.to_onnx(layer("GRU"), tmp_path / "a.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "precious"


def test_a_layer_that_computes_in_its_own_dtype_is_written(tmp_path):
    formats.to_onnx(layer("GRU", dtype=jnp.float32), tmp_path / "a.onnx")
    assert formats.read(tmp_path / "a.onnx").layers
