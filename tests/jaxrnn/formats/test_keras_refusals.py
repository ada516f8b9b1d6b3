"""What torch's equations cannot say, or a file of Keras does not say at all: refused, with the reason."""

import json
import re
import zipfile

import numpy as np
import pytest

from jaxrnn import formats
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import AS_TORCH, keras, saved, sequential
from tests.jaxrnn.formats.keras_2 import arrays_of_lstm, lstm_config, old_file

h5py = pytest.importorskip("h5py")


def both(**options):
    return keras().layers.Bidirectional(keras().layers.LSTM(2), name="rnn", **options)


REFUSED = {
    "hard sigmoid": (
        lambda l: l.LSTM(2, recurrent_activation="hard_sigmoid", name="rnn"),
        "rnn: recurrent_activation='hard_sigmoid'",
    ),
    "another activation": (lambda l: l.GRU(2, activation="relu", name="rnn"), "rnn: activation='relu'"),
    "an rnn with sigmoid": (
        lambda l: l.SimpleRNN(2, activation="sigmoid", name="rnn"),
        "rnn: activation='sigmoid'",
    ),
    "reset before": (
        lambda l: l.GRU(2, reset_after=False, name="rnn"),
        "rnn: its reset gate multiplies h before",
    ),
    "backwards": (lambda l: l.LSTM(2, go_backwards=True, name="rnn"), "rnn: go_backwards=True"),
    "summed directions": (lambda l: both(merge_mode="sum"), "rnn: merge_mode='sum'"),
    "swapped directions": (
        lambda l: l.Bidirectional(l.LSTM(2, go_backwards=True), backward_layer=l.LSTM(2), name="rnn"),
        "rnn: go_backwards=True",
    ),
    "unequal directions": (
        lambda l: both(backward_layer=l.LSTM(2, go_backwards=True, activation="relu")),
        "rnn: activation='relu'",
    ),
    "unequal units": (
        lambda l: both(backward_layer=l.LSTM(3, go_backwards=True)),
        "rnn: its cells differ in class, units",
    ),
    "directions without a cell": (
        lambda l: l.Bidirectional(l.ConvLSTM1D(2, 2, return_sequences=True), name="rnn"),
        "rnn: a direction of class ConvLSTM1D",
    ),
    "cells of two kinds": (
        lambda l: l.RNN([l.LSTMCell(2), l.GRUCell(2)], name="rnn"),
        "rnn: its cells differ in class",
    ),
    "cells of two sizes": (
        lambda l: l.RNN([l.LSTMCell(2), l.LSTMCell(3)], name="rnn"),
        "rnn: its cells differ in class, units",
    ),
    "a convolution": (lambda l: l.Conv1D(2, 2, name="rnn"), "rnn: Conv1D is not converted"),
    "another axis": (lambda l: l.LayerNormalization(axis=1, name="rnn"), "rnn: axis=1"),
    "only an offset": (lambda l: l.LayerNormalization(scale=False, name="rnn"), "rnn: scale=False"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kind", [".keras", ".h5"])
def test_what_torch_cannot_say_is_refused_with_the_layer_and_the_reason(case, kind, tmp_path):
    make, reason = REFUSED[case]
    features = (7, 4, 3) if "without a cell" in case else (7, 3)
    model = sequential(make(keras().layers), features=features)
    with pytest.raises((NotImplementedError, ValueError)) as raised:
        formats.read(saved(model, tmp_path / f"model{kind}"))
    # Without build_config an .h5 file does not say how many axes there are.
    expected = "the file does not say axis of rnn" if (case, kind) == ("another axis", ".h5") else reason
    assert expected in str(raised.value)


@pytest.mark.slow
def test_every_layer_that_is_refused_is_named_at_once(tmp_path):
    layers = keras().layers
    model = sequential(
        layers.Conv1D(3, 2, name="conv"),
        layers.LSTM(2, recurrent_activation="hard_sigmoid", return_sequences=True, name="hard"),
        layers.Dense(1, name="out"),
    )
    path = saved(model, tmp_path / "model.keras")
    with pytest.raises(NotImplementedError, match=r"conv: .*hard: .*To leave out what cannot be converted"):
        formats.read(path)
    assert list(formats.read(path, layers=["out"]).layers) == ["out"]
    with pytest.raises(ValueError, match="there is no layer 'fc'"):
        formats.read(path, layers=["fc"])


@pytest.mark.slow
def test_what_weights_alone_do_not_say_is_asked_for_and_never_guessed(tmp_path):
    model = sequential(keras().layers.LSTM(2, name="rnn"), keras().layers.LayerNormalization(name="norm"))
    path = saved(model, tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="does not say") as raised:
        formats.read(path)
    options = re.findall(r"--assume ([^\s,]+)", str(raised.value))
    assert sorted(options) == [
        "activation=tanh",
        "axis=-1",
        "go_backwards=false",
        "recurrent_activation=sigmoid",
    ]
    with pytest.raises(NotImplementedError, match="recurrent_activation='hard_sigmoid'"):
        formats.read(path, assume=AS_TORCH | {"recurrent_activation": "hard_sigmoid", "axis": -1})
    assert len(formats.read(path, assume=AS_TORCH | {"axis": -1}).arrays) == 6


def test_a_gru_without_bias_does_not_show_where_its_reset_gate_is(tmp_path):
    arrays = [("gru/kernel:0", draw(0, 3, 15)), ("gru/recurrent_kernel:0", draw(1, 5, 15))]
    path = old_file(tmp_path / "a.h5", {"gru": arrays})
    with pytest.raises(ValueError, match="reset_after of gru"):
        formats.read(path, assume=AS_TORCH)
    with pytest.raises(NotImplementedError, match="gru: its reset gate"):
        formats.read(path, assume=AS_TORCH | {"reset_after": False})


def test_an_assumption_that_is_wrong_or_not_needed_is_an_error(tmp_path):
    path = old_file(tmp_path / "a.h5", {"lstm": arrays_of_lstm("lstm")}, lstm_config())
    with pytest.raises(
        ValueError, match="lstm: the file says activation='tanh', so activation='relu' is wrong"
    ):
        formats.read(path, assume={"activation": "relu"})
    with pytest.raises(ValueError, match=r"nothing in the file depends on \['merge_mode'\]"):
        formats.read(path, assume={"merge_mode": "concat"})
    with pytest.raises(ValueError, match=r"\['units'\] cannot be assumed"):
        formats.read(path, assume={"units": 5})
    assert formats.read(path, assume={"activation": "tanh"}).layers


def test_an_old_configuration_without_the_activation_is_asked_for(tmp_path):
    """Keras 1 called it inner_activation, and its default was another."""
    config = lstm_config()
    del config["config"]["layers"][0]["config"]["recurrent_activation"]
    path = old_file(tmp_path / "a.h5", {"lstm": arrays_of_lstm("lstm")}, config)
    with pytest.raises(ValueError, match="does not say recurrent_activation of lstm"):
        formats.read(path)


def test_a_function_of_ones_own_as_activation_is_refused(tmp_path):
    config = lstm_config(activation={"class_name": "function", "config": "mine", "module": "builtins"})
    path = old_file(tmp_path / "a.h5", {"lstm": arrays_of_lstm("lstm")}, config)
    with pytest.raises(NotImplementedError, match="lstm: activation='function'"):
        formats.read(path)


@pytest.mark.parametrize(
    ("settings", "bias", "match"),
    [
        ({"use_bias": False}, 20, "lstm: use_bias=False, but it has 3 arrays"),
        ({}, 19, "lstm: its arrays have shapes"),
        ({}, 40, "lstm: its arrays have shapes"),
    ],
)
def test_arrays_that_contradict_the_configuration_are_refused(settings, bias, match, tmp_path):
    path = old_file(tmp_path / "a.h5", {"lstm": arrays_of_lstm("lstm", bias)}, lstm_config(**settings))
    with pytest.raises(ValueError, match=match):
        formats.read(path)


def test_integers_of_a_quantized_layer_are_refused(tmp_path):
    arrays = [(name, array.astype(np.int8)) for name, array in arrays_of_lstm("lstm")]
    path = old_file(tmp_path / "a.h5", {"lstm": arrays}, lstm_config())
    with pytest.raises(NotImplementedError, match=r"lstm: arrays of .*int8.*quantized"):
        formats.read(path)


@pytest.mark.slow
def test_a_model_whose_layers_are_not_listed_is_refused(tmp_path):
    class Own(keras().Model):
        def __init__(self):
            super().__init__()
            self.rnn = keras().layers.LSTM(2)

        def call(self, x):
            return self.rnn(x)

    model = Own()
    model(np.ones((1, 7, 3), np.float32))
    with pytest.raises(
        ValueError, match=r"the model is a \S+\.Own, whose configuration does not list layers"
    ):
        formats.read(saved(model, tmp_path / "model.keras"))
    weights = formats.read(saved(model, tmp_path / "model.weights.h5"), assume=AS_TORCH)
    assert str(*weights.layers.values()) == "LSTM(3, 2, batch_first=True)"


@pytest.mark.slow
def test_a_layer_of_ones_own_is_not_taken_for_one_of_keras(tmp_path):
    @keras().saving.register_keras_serializable("mine")
    class LSTM(keras().layers.LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return -super().call(sequences, initial_state, mask, training)

    path = saved(sequential(LSTM(2, name="rnn")), tmp_path / "model.keras")
    with pytest.raises(NotImplementedError, match=r"rnn: \S+\.LSTM is not converted"):
        formats.read(path)


def test_arrays_that_no_layer_accounts_for_make_its_class_unknown(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number, (_, array) in enumerate(arrays_of_lstm("lstm")):
            file[f"layers/lstm/cell/vars/{number}"] = array
        file["layers/lstm/cell/norm/vars/0"] = np.ones(5)
    with pytest.raises(NotImplementedError, match="lstm: a layer of unknown class"):
        formats.read(tmp_path / "a.h5", assume=AS_TORCH)


def test_arrays_of_layers_that_the_configuration_does_not_list_are_refused(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for name in ("lstm", "dense"):
            for number, (_, array) in enumerate(arrays_of_lstm("lstm")):
                file[f"layers/{name}/{'cell/' if name == 'lstm' else ''}vars/{number}"] = array
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(lstm_config()))
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    with pytest.raises(ValueError, match="of its 6 arrays 3 are of layers that its configuration lists"):
        formats.read(tmp_path / "a.keras")


def test_two_layers_of_one_name_are_not_one(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for group in ("dense", "dense_1"):
            file[f"layers/{group}/vars/0"] = np.ones((2, 3))
            file[f"layers/{group}/vars"].attrs["name"] = "same"
    with pytest.raises(ValueError, match="two layers are called 'same'"):
        formats.read(tmp_path / "a.h5")


# What HDF5 can do beyond holding numbers


def hostile(path, make):
    """An old file whose LSTM has its kernel made in another way."""
    old_file(path, {"lstm": arrays_of_lstm("lstm")}, lstm_config())
    with h5py.File(path, "a") as file:
        group = file["model_weights/lstm/lstm"]
        del group["kernel:0"]
        make(group)
    return path


def virtual(group):
    layout = h5py.VirtualLayout((3, 20), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "kernel", (3, 20))
    group.create_virtual_dataset("kernel:0", layout)


EVIL = {
    "a link to another file": (
        lambda g: g.__setitem__("kernel:0", h5py.ExternalLink("/etc/passwd", "/")),
        "a link to elsewhere",
    ),
    "a soft link": (lambda g: g.__setitem__("kernel:0", h5py.SoftLink("/")), "a link to elsewhere"),
    "numbers in another file": (
        lambda g: g.create_dataset("kernel:0", (3, 20), "f8", external=[("/etc/passwd", 0, 480)]),
        "in other files",
    ),
    "a virtual dataset": (virtual, "in other files"),
    "a filter": (lambda g: g.create_dataset("kernel:0", (3, 20), "f8", compression="gzip"), "compressed"),
    "a terabyte that is not there": (
        lambda g: g.create_dataset("kernel:0", (2**20, 2**20), "f8", chunks=(64, 64)),
        "more bytes than the file",
    ),
    "text": (lambda g: g.create_dataset("kernel:0", (3,), h5py.string_dtype()), "holds no numbers"),
    "nothing": (lambda g: g.__setitem__("kernel:0", h5py.Empty("f8")), "holds no numbers"),
    "no kernel": (lambda g: None, "no such array"),
    "a group": (lambda g: g.create_group("kernel:0"), "no such array"),
}


@pytest.mark.parametrize("case", EVIL)
def test_nothing_outside_of_the_file_is_ever_read(case, tmp_path):
    make, reason = EVIL[case]
    with pytest.raises(ValueError, match=reason):
        formats.read(hostile(tmp_path / "a.h5", make))


def test_groups_that_contain_themselves_come_to_an_end(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        inner = file.create_group("layers/sequential")
        inner["layers"] = file["layers"]
        file.create_group("layers/other")["again"] = file["layers"]
    with pytest.raises(ValueError, match="without an end"):
        formats.read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        inner = file.create_group("layers/other")
        for name in "abc":
            inner[name] = file["layers"]
    with pytest.raises(ValueError, match="without an end"):
        formats.read(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.h5", b"hello", "damaged or of another kind"),
        ("a.keras", b"hello", "damaged or of another kind"),
        ("a.h5", None, "no layer of the file has weights"),
        ("a.bin", b"", "suffix '.bin' is not one of"),
    ],
)
def test_files_of_another_kind_are_named(name, content, match, tmp_path):
    path = tmp_path / name
    if content is None:
        h5py.File(path, "w").close()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as raised:
        formats.read(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_zip_file_that_is_not_of_keras_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential"}))
    with pytest.raises(ValueError, match=r"it has no model\.weights\.h5"):
        formats.read(tmp_path / "a.keras")


def test_a_missing_package_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r"needs the package h5py: pip install 'jaxrnn\[formats\]'"):
        formats.read(tmp_path / "a.h5")
