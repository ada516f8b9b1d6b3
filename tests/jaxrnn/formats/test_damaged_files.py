"""Damaged files of every kind: weights or a clear error, never a crash, a hang or a half-written result."""

import json
import struct
import time
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrnn import checkpoint_files, formats
from jaxrnn.cli import main
from jaxrnn.formats import hdf5
from tests.jaxrnn.common import draw
from tests.jaxrnn.damage import damage
from tests.jaxrnn.formats.keras_2 import arrays_of_lstm, lstm_config, old_file
from tests.jaxrnn.formats.onnx_models import node_arrays, node_model

h5py = pytest.importorskip("h5py")
pytest.importorskip("onnx")

ASSUMPTIONS = ("activation=tanh", "recurrent_activation=sigmoid", "go_backwards=false")
SECONDS = 30  # each case takes a third of one, where the machine has time


def fuzz(cases):
    fixtures = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=cases, deadline=None, suppress_health_check=fixtures)


def keras_3_weights(path):
    with h5py.File(path, "w") as file:
        variables = file.create_group("layers/lstm/cell/vars")
        for number, (_, array) in enumerate(arrays_of_lstm("lstm")):
            variables[str(number)] = array
    return path


def keras_file(path, weights=None, config=None):
    """A .keras file around weights and a configuration that may be damaged, with checksums that are right."""
    if weights is None:
        weights = keras_3_weights(path.with_suffix(".h5")).read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(lstm_config()) if config is None else config)
        archive.writestr("model.weights.h5", weights)
    return path


def native(path):
    checkpoint_files.write(node_arrays("GRU"), path)
    return path


KINDS = {
    "whole.h5": lambda path: old_file(path, {"lstm": arrays_of_lstm("lstm")}, lstm_config()),
    "old.hdf5": lambda path: old_file(path, {"lstm": arrays_of_lstm("lstm")}),
    "new.h5": keras_3_weights,
    "model.keras": keras_file,
    "model.onnx": lambda path: node_model("LSTM", node_arrays("LSTM", peepholes=True), path),
    "a.npz": native,
    "a.safetensors": native,
    "a.pt": native,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of an undamaged file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: make(folder / name).read_bytes() for name, make in KINDS.items()}


def convert(source, *options):
    """Run the command; it has to end soon, with a whole result or with an error of one line and none."""
    target = source.with_name("out.npz")
    target.unlink(missing_ok=True)
    start = time.monotonic()
    result = CliRunner().invoke(main, ["convert", str(source), str(target), *options])
    assert time.monotonic() - start < SECONDS
    assert result.exit_code in (0, 2), result.exception
    if result.exit_code == 0:
        assert checkpoint_files.read(target)
    else:
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in source.parent.iterdir()} <= {source.name, target.name}
    assert target.exists() == (result.exit_code == 0)
    return result


def options_for(name):
    known = ASSUMPTIONS if name in ("old.hdf5", "new.h5") else ()
    return [word for each in known for word in ("--assume", each)]


def convert_damaged(whole, folder, name, data):
    """Damage a file of a kind, and convert it."""
    (folder / name).write_bytes(damage(data, whole[name]))
    convert(folder / name, *options_for(name))


@pytest.mark.parametrize("name", KINDS)
def test_the_undamaged_file_of_each_kind_is_converted(whole, name, tmp_path):
    (tmp_path / name).write_bytes(whole[name])
    assert convert(tmp_path / name, *options_for(name)).exit_code == 0


# HDF5 is read by a process of its own, which takes a third of a second to start; the others take milliseconds.
QUICK = [name for name in KINDS if not name.endswith(("h5", "hdf5"))]


@pytest.mark.essential
@pytest.mark.parametrize("name", QUICK)
@fuzz(60)
@given(data=st.data())
def test_a_damaged_file_is_converted_whole_or_refused(whole, tmp_path, name, data):
    convert_damaged(whole, tmp_path, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
@fuzz(1000)
@given(data=st.data())
def test_thousands_of_damaged_files_are_converted_whole_or_refused(whole, tmp_path, name, data):
    convert_damaged(whole, tmp_path, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name not in QUICK])
@fuzz(80)
@given(data=st.data())
def test_a_damaged_file_of_hdf5_is_converted_whole_or_refused(whole, tmp_path, name, data):
    convert_damaged(whole, tmp_path, name, data)


@pytest.mark.slow
@fuzz(80)
@given(data=st.data(), inside=st.sampled_from(["weights", "config"]))
def test_damage_within_a_file_of_keras_is_found_behind_its_checksum(whole, tmp_path, data, inside):
    content = whole["new.h5"] if inside == "weights" else json.dumps(lstm_config()).encode()
    convert(keras_file(tmp_path / "a.keras", **{"weights": whole["new.h5"], inside: damage(data, content)}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "layers", "name", "layer", "cell", "cells", "use_bias"]),
            inner
            | st.sampled_from(["Sequential", "LSTM", "Bidirectional", "RNN", "TimeDistributed", "Dense"]),
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@fuzz(40)
@given(config=JSON, settings=JSON)
def test_any_configuration_at_all_is_converted_or_refused(whole, tmp_path, config, settings):
    layer = {"class_name": "LSTM", "config": settings}
    for each in (config, {"class_name": "Sequential", "config": {"layers": [layer, config]}}):
        convert(keras_file(tmp_path / "a.keras", whole["new.h5"], json.dumps(each)))


@fuzz(100)
@given(
    name=st.sampled_from(["W", "R", "B", "P"]),
    shape=st.lists(st.integers(0, 7), max_size=4),
    dtype=st.sampled_from(["f4", "f8", "f2", "i4", "?", "c8", "i8"]),
)
def test_a_node_of_any_shapes_and_dtypes_is_converted_or_refused(tmp_path, name, shape, dtype):
    arrays = node_arrays("LSTM", peepholes=True) | {name: np.ones(shape, dtype)}
    convert(node_model("LSTM", arrays, tmp_path / "a.onnx"))


@pytest.mark.slow
@fuzz(40)
@given(
    number=st.integers(0, 2),
    shape=st.lists(st.integers(0, 21), max_size=3),
    dtype=st.sampled_from(["f4", "f8", "f2", "i4", "?", "c8", "S3"]),
)
def test_a_layer_of_any_shapes_and_dtypes_is_converted_or_refused(tmp_path, number, shape, dtype):
    arrays = arrays_of_lstm("lstm")
    arrays[number] = (arrays[number][0], np.ones(shape, dtype))
    for config in (None, lstm_config()):
        known = options_for("old.hdf5") if config is None else []
        convert(old_file(tmp_path / "a.h5", {"lstm": arrays}, config), *known)


def npz_that_claims(path):
    """An array of a terabyte, of which there are a few bytes."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,)}".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def safetensors_that_claims(path):
    header = json.dumps({"w": {"dtype": "F64", "shape": [2**37], "data_offsets": [0, 2**40]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


def safetensors_with_a_long_header(path):
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def onnx_that_claims(path):
    """A field of a protocol buffer that says it is 2**34 bytes long."""
    path.write_bytes(b"\x3a\x80\x80\x80\x80\x40" + bytes(64))


def keras_of_deep_brackets(path):
    keras_file(path, b"", "[" * 100_000)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.npz", npz_that_claims),
        ("a.safetensors", safetensors_that_claims),
        ("b.safetensors", safetensors_with_a_long_header),
        ("a.onnx", onnx_that_claims),
        ("a.keras", keras_of_deep_brackets),
    ],
)
def test_a_file_that_claims_to_be_huge_is_refused_at_once(name, make, tmp_path):
    make(tmp_path / name)
    assert convert(tmp_path / name).exit_code == 2


def test_a_heap_of_hdf5_that_claims_a_terabyte_is_refused(whole, tmp_path):
    """libhdf5 believes it, and would ask for the memory."""
    content = bytearray(whole["whole.h5"])
    heap = content.index(b"GCOL")
    content[heap + 8 : heap + 16] = (2**40).to_bytes(8, "little")
    (tmp_path / "a.h5").write_bytes(content)
    assert "damaged or of another kind" in convert(tmp_path / "a.h5").stderr


def test_a_reader_that_hangs_or_crashes_is_an_error(whole, tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(whole["whole.h5"])
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_SECONDS", 0.001)
        assert "h5py did not read it within" in convert(tmp_path / "a.h5").stderr
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(hdf5, "_PROGRAM", ["-c", crash])
    assert "h5py crashed" in convert(tmp_path / "a.h5").stderr


def test_code_in_a_configuration_of_keras_is_never_run(tmp_path):
    """A Lambda of Keras holds code; it has no weights, so it is passed over."""
    trace = tmp_path / "ran"
    config = lstm_config()
    code = f"__import__('os').mkdir({str(trace)!r})"
    config["config"]["layers"].append({"class_name": "Lambda", "config": {"name": "code", "function": code}})
    weights = keras_3_weights(tmp_path / "w.h5").read_bytes()
    read = formats.read(keras_file(tmp_path / "a.keras", weights, json.dumps(config)))
    assert list(read.layers) == ["lstm"]
    assert not trace.exists()


def test_a_fill_value_does_not_stand_for_numbers_that_are_missing(tmp_path):
    """A dataset that was never written has no bytes in the file, and reads as zeros of any size."""
    with h5py.File(keras_3_weights(tmp_path / "a.h5"), "a") as file:
        variables = file["layers/lstm/cell/vars"]
        del variables["0"]
        variables.create_dataset("0", (2**16, 20), "f8")
        variables["3"] = draw(0, 3)
    with pytest.raises(ValueError, match="more bytes than the file has"):
        formats.read(tmp_path / "a.h5")
