"""Files that Keras writes: read without it, each layer computes here what it computes there."""

import zipfile

import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import AS_TORCH, bits, keras, layer_of, part, randomised, saved, sequential
from tests.jaxrnn.formats.keras_2 import arrays_of_lstm, lstm_config, old_file

h5py = pytest.importorskip("h5py")

KINDS = (".keras", ".h5", ".weights.h5")


# float32, in which Keras computes on JAX even where it is told float64. Seven steps: the largest difference
# that was measured is 2.4e-7, and gates in the wrong place make one of 1e-1.
CLOSE = {"rtol": 0, "atol": 2e-6}


def built(name, **options):
    """A recurrent layer of Keras, whole sequences out."""
    return getattr(keras().layers, name)(5, return_sequences=True, name="rnn", **options)


def cells(name, count):
    cell = getattr(keras().layers, f"{name}Cell")
    layers = [cell(5) for _ in range(count)]
    return keras().layers.RNN(layers if count > 1 else layers[0], return_sequences=True, name="rnn")


def both(name, **options):
    inner = getattr(keras().layers, name)(5, return_sequences=True, **options)
    return keras().layers.Bidirectional(inner, name="rnn")


LAYERS = {
    "lstm": (lambda: built("LSTM"), "LSTM(3, 5, batch_first=True)"),
    "lstm without bias": (lambda: built("LSTM", use_bias=False), "LSTM(3, 5, bias=False, batch_first=True)"),
    "gru": (lambda: built("GRU"), "GRU(3, 5, batch_first=True)"),
    "gru without bias": (lambda: built("GRU", use_bias=False), "GRU(3, 5, bias=False, batch_first=True)"),
    "rnn": (lambda: built("SimpleRNN"), "RNN(3, 5, batch_first=True)"),
    "rnn with relu": (
        lambda: built("SimpleRNN", activation="relu"),
        "RNN(3, 5, nonlinearity='relu', batch_first=True)",
    ),
    "both lstms": (lambda: both("LSTM"), "LSTM(3, 5, bidirectional=True, batch_first=True)"),
    "both grus": (lambda: both("GRU"), "GRU(3, 5, bidirectional=True, batch_first=True)"),
    "both rnns": (
        lambda: both("SimpleRNN", use_bias=False),
        "RNN(3, 5, bias=False, bidirectional=True, batch_first=True)",
    ),
    "one cell": (lambda: cells("GRU", 1), "GRU(3, 5, batch_first=True)"),
    "three cells": (lambda: cells("LSTM", 3), "LSTM(3, 5, num_layers=3, batch_first=True)"),
}


def assumed(name):
    """What weights alone do not say of these layers, and no more, since what nothing needs is an error."""
    known = dict(AS_TORCH)
    if "rnn" in name:
        del known["recurrent_activation"]
    if name == "rnn with relu":
        known["activation"] = "relu"
    if name.startswith("both"):
        known["merge_mode"] = "concat"
    if name == "gru without bias":
        known["reset_after"] = True
    return known


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_here_what_it_computes_in_keras(name, tmp_path):
    make, text = LAYERS[name]
    model = sequential(make())
    files = [saved(model, tmp_path / f"model{kind}") for kind in KINDS]
    read = [formats.read(file) for file in files[:2]] + [formats.read(files[2], assume=assumed(name))]
    assert [list(weights.layers) for weights in read] == [["rnn"]] * 3
    assert {str(weights.layers["rnn"]) for weights in read} == {text}
    assert bits(read[0].arrays) == bits(read[1].arrays) == bits(read[2].arrays)
    x = draw(50, 2, 7, 3).astype(np.float32)
    output = layer_of(read[0], "rnn")(x)[0]
    np.testing.assert_allclose(output, np.asarray(model(x)), **CLOSE)


@pytest.mark.slow
def test_a_last_output_is_that_of_both_directions_at_their_ends(tmp_path):
    inner = keras().layers.LSTM(5)
    model = sequential(keras().layers.Bidirectional(inner, name="rnn"))
    weights = formats.read(saved(model, tmp_path / "model.keras"))
    x = draw(50, 2, 7, 3).astype(np.float32)
    _, (h, _) = layer_of(weights, "rnn")(x)
    np.testing.assert_allclose(np.concatenate(list(h), axis=-1), np.asarray(model(x)), **CLOSE)


class Twin(nnx.Module):
    """What `network` is, here; its parts have Keras' names."""

    def __init__(self, rngs):
        self.words = nnx.Embed(11, 4, rngs=rngs)
        self.first = jaxrnn.LSTM(4, 3, batch_first=True, rngs=rngs)
        self.both = jaxrnn.GRU(3, 2, bidirectional=True, batch_first=True, rngs=rngs)
        self.inner = nnx.Dict(norm=nnx.LayerNorm(4, epsilon=1e-3, use_fast_variance=False, rngs=rngs))
        self.each = nnx.Linear(4, 3, rngs=rngs)
        self.last = jaxrnn.RNN(3, 2, batch_first=True, rngs=rngs)
        self.out = nnx.Linear(2, 6, rngs=rngs)

    def __call__(self, tokens):
        x = self.both(self.first(self.words(tokens))[0])[0]
        return jax_softmax(self.out(self.last(self.each(self.inner.norm(x)))[1][-1]))


def jax_softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def network():
    """A network of Keras of all that is known, with a model within."""
    layers = keras().layers
    inner = keras().Sequential(
        [layers.Input((7, 4)), layers.Dropout(0.5), layers.LayerNormalization(name="norm")], name="inner"
    )
    return sequential(
        layers.Embedding(11, 4, name="words"),
        layers.LSTM(3, return_sequences=True, name="first"),
        layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both"),
        inner,
        layers.TimeDistributed(layers.Dense(3), name="each"),
        layers.SimpleRNN(2, name="last"),
        layers.Dense(6, activation="softmax", name="out"),
        features=(7,),
        dtype="int32",
    )


@pytest.mark.slow
def test_a_whole_network_goes_by_the_names_of_its_layers(tmp_path):
    model = network()
    x = np.random.default_rng(0).integers(0, 11, (3, 7))
    known = AS_TORCH | {"merge_mode": "concat", "axis": -1}
    for kind, assume in zip(KINDS, ({}, {}, known), strict=True):
        weights = formats.read(saved(model, tmp_path / f"model{kind}"), assume=assume)
        twin = Twin(nnx.Rngs(0))
        jaxrnn.load_state_dict(twin, weights.arrays)
        np.testing.assert_allclose(twin(x), np.asarray(model(x)), **CLOSE)
    assert str(weights.layers["each"]) == "Linear(4, 3), then its activation, which the file does not say"
    weights = formats.read(tmp_path / "model.keras")
    assert str(weights.layers["out"]) == "Linear(2, 6), then 'softmax'"
    assert str(weights.layers["inner.norm"]) == "LayerNorm(4, eps=0.001)"


@pytest.mark.slow
def test_layers_of_one_class_are_not_mixed_up(tmp_path):
    """Keras 3 numbers the groups of a class; twelve of them, since group 10 sorts before group 2."""
    layers = [keras().layers.Dense(3, name=f"dense_called_{n}") for n in range(12)]
    model = sequential(*layers)
    inputs = keras().Input((7, 3))
    functional = keras().Model(inputs, layers[1](layers[0](inputs)))
    for path, whole in (("a.keras", model), ("b.keras", functional)):
        weights = formats.read(saved(whole, tmp_path / path))
        assert list(weights.layers) == [f"dense_called_{n}" for n in range(12 if path == "a.keras" else 2)]
        for n, name in enumerate(weights.layers):
            np.testing.assert_array_equal(weights.arrays[f"{name}.weight"].T, layers[n].get_weights()[0])


def test_bfloat16_weights_keep_their_bits(tmp_path):
    model = sequential(keras().layers.Dense(2, dtype="bfloat16", name="out"))
    weights = formats.read(saved(model, tmp_path / "model.keras"))
    assert weights.arrays["out.weight"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(weights.arrays["out.weight"].T, model.get_weights()[0])


@pytest.mark.slow
def test_a_trained_model_brings_neither_its_optimizer_nor_its_masks(tmp_path):
    """Beside the weights of layers there are moments, metrics, and the states of random numbers."""
    layers = keras().layers
    model = sequential(
        layers.LSTM(3, return_sequences=True, dropout=0.1, recurrent_dropout=0.2, name="rnn"),
        layers.Dropout(0.3),
        layers.Dense(2, name="out"),
    )
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 7, 3)), np.ones((4, 7, 2)), verbose=0)
    known = dict(zip(KINDS, ({}, {}, AS_TORCH), strict=True))
    read = [formats.read(saved(model, tmp_path / f"m{kind}"), assume=known[kind]) for kind in KINDS]
    assert bits(read[0].arrays) == bits(read[1].arrays) == bits(read[2].arrays)
    assert {name.partition(".")[0] for name in read[0].arrays} == {"rnn", "out"}
    np.testing.assert_array_equal(read[0].arrays["out.bias"], model.get_weights()[-1])


# Files of older Keras, written by hand as it wrote them


def test_a_file_of_keras_2_is_read_with_and_without_configuration(tmp_path):
    layers = {"input_1": [], "lstm_1": arrays_of_lstm("lstm_1"), "drop": []}
    entry = {"name": "lstm_1", "units": 5, "use_bias": True, **AS_TORCH}
    config = [
        {"class_name": "LSTM", "config": entry},
        {"class_name": "Dropout", "config": {"name": "drop", "rate": 0.5}},
    ]
    whole = old_file(tmp_path / "a.h5", layers, {"class_name": "Sequential", "config": config})
    alone = old_file(tmp_path / "b.hdf5", layers)
    read = formats.read(whole), formats.read(alone, assume=AS_TORCH)
    assert bits(read[0].arrays) == bits(read[1].arrays)
    assert read[0].layers == read[1].layers
    np.testing.assert_array_equal(read[0].arrays["lstm_1.weight_ih_l0"].T, layers["lstm_1"][0][1])


def test_cells_of_a_file_of_keras_2_are_not_taken_for_directions(tmp_path):
    """Two cells of one RNN have as many arrays as two directions, under other names."""
    halves = arrays_of_lstm("rnn/lstm_cell"), arrays_of_lstm("rnn/lstm_cell_1", seed=5)
    path = old_file(tmp_path / "a.h5", {"rnn": [*halves[0], *halves[1]]})
    with pytest.raises(NotImplementedError, match="rnn: a layer of unknown class"):
        formats.read(path)


def test_a_model_within_a_model_of_keras_2_is_found_by_its_names(tmp_path):
    inner = lstm_config()
    inner["config"]["name"] = "inner"
    config = {"class_name": "Sequential", "config": {"name": "outer", "layers": [inner]}}
    arrays = arrays_of_lstm("lstm/lstm_cell")
    weights = formats.read(old_file(tmp_path / "a.h5", {"inner": arrays}, config))
    assert list(weights.layers) == ["inner.lstm"]
    np.testing.assert_array_equal(weights.arrays["inner.lstm.weight_hh_l0"].T, arrays[1][1])
    other = [(f"other/{name}", array) for name, array in arrays_of_lstm("gru")]
    with pytest.raises(ValueError, match="of its 6 arrays 3 are of layers"):
        formats.read(old_file(tmp_path / "b.h5", {"inner": [*arrays, *other]}, config))


def test_both_directions_of_a_file_of_keras_2_are_kept_apart(tmp_path):
    halves = arrays_of_lstm("bi/forward_lstm"), arrays_of_lstm("bi/backward_lstm", seed=5)
    path = old_file(tmp_path / "a.h5", {"bi": [*halves[0], *halves[1]]})
    weights = formats.read(path, assume=AS_TORCH | {"merge_mode": "concat"})
    for suffix, half in zip(("", "_reverse"), halves, strict=True):
        np.testing.assert_array_equal(weights.arrays[f"bi.weight_hh_l0{suffix}"].T, half[1][1])
        np.testing.assert_array_equal(weights.arrays[f"bi.bias_ih_l0{suffix}"], half[2][1])
        assert not weights.arrays[f"bi.bias_hh_l0{suffix}"].any()


def test_layers_of_cudnn_say_their_activations_by_their_shape(tmp_path):
    """A bias of eight blocks is CuDNNLSTM's, which has sigmoid and tanh and nothing else."""
    arrays = arrays_of_lstm("lstm", bias=40)
    path = old_file(tmp_path / "a.hdf5", {"lstm": arrays})
    weights = formats.read(path, assume={"go_backwards": False})
    _, recurrent, bias = (array for _, array in arrays)
    np.testing.assert_array_equal(weights.arrays["lstm.bias_ih_l0"], bias[:20])
    np.testing.assert_array_equal(weights.arrays["lstm.bias_hh_l0"], bias[20:])
    np.testing.assert_array_equal(weights.arrays["lstm.weight_hh_l0"][:5], recurrent[:, :5])
    config = {"class_name": "CuDNNLSTM", "config": {"name": "lstm", "go_backwards": False}}
    whole = {"class_name": "Sequential", "config": {"name": "m", "layers": [config]}}
    again = formats.read(old_file(tmp_path / "b.h5", {"lstm": arrays}, whole))
    assert bits(again.arrays) == bits(weights.arrays)


def test_a_gru_of_cudnn_has_its_gates_in_keras_order(tmp_path):
    shapes = {"kernel": (3, 15), "recurrent_kernel": (5, 15), "bias": (30,)}
    arrays = [(f"gru/{key}:0", draw(n, *shape)) for n, (key, shape) in enumerate(shapes.items())]
    weights = formats.read(old_file(tmp_path / "a.h5", {"gru": arrays}), assume={"go_backwards": False})
    bias = arrays[2][1]
    np.testing.assert_array_equal(weights.arrays["gru.bias_ih_l0"][:5], bias[5:10])  # r is Keras' second
    np.testing.assert_array_equal(weights.arrays["gru.bias_hh_l0"][5:10], bias[15:20])  # z is its first


@pytest.mark.slow
def test_a_reset_before_the_product_is_converted_where_it_is_the_same(tmp_path):
    model = sequential(built("GRU", reset_after=False))
    kernel, recurrent, bias = model.get_weights()
    recurrent[:, 10:] = np.diag(np.diag(recurrent[:, 10:]))
    model.set_weights([kernel, recurrent, bias])
    weights = formats.read(saved(model, tmp_path / "model.keras"))
    x = draw(50, 2, 7, 3).astype(np.float32)
    output = layer_of(weights, "rnn")(x)[0]
    np.testing.assert_allclose(output, np.asarray(model(x)), **CLOSE)


def test_chosen_layers_leave_the_others_alone(tmp_path):
    model = sequential(keras().layers.Conv1D(3, 2, name="conv"), keras().layers.Dense(2, name="out"))
    path = saved(model, tmp_path / "model.keras")
    weights = formats.read(path, layers=["out"])
    assert set(weights.arrays) == {"out.weight", "out.bias"}
    np.testing.assert_array_equal(part(weights.arrays, "out")["bias"], model.get_weights()[-1])


def test_nothing_of_keras_is_imported_to_read_its_files(tmp_path, monkeypatch):
    path = saved(sequential(keras().layers.Dense(2, name="out")), tmp_path / "model.keras")
    monkeypatch.setitem(__import__("sys").modules, "keras", None)  # importing it raises
    assert set(formats.read(path).arrays) == {"out.weight", "out.bias"}


def test_a_shared_layer_is_converted_where_it_is_first(tmp_path):
    inputs = keras().Input((7, 3))
    shared = keras().layers.Dense(3, name="shared")
    model = randomised(keras().Model(inputs, shared(shared(inputs))))
    weights = formats.read(saved(model, tmp_path / "model.keras"))
    assert list(weights.layers) == ["shared"]


def test_the_records_of_a_zip_file_cannot_claim_more_than_the_file(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 2**24)
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ValueError, match="more bytes than a file of Keras"):
        formats.read(path)
