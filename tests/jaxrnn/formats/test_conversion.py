"""`jaxrnn convert` between the files of other libraries and those of torch."""

import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

import jaxrnn
from jaxrnn import checkpoint_files, formats
from jaxrnn.cli import main
from tests.jaxrnn.formats.common import bits, filled
from tests.jaxrnn.formats.keras_2 import arrays_of_lstm, lstm_config, old_file
from tests.jaxrnn.formats.onnx_models import node_arrays, node_model, run

pytest.importorskip("h5py")
pytest.importorskip("onnx")


def convert(source, target, *options):
    """Run the command; on an error, it is one line and nothing was written."""
    result = CliRunner().invoke(main, ["convert", str(source), str(target), *options])
    assert result.exit_code in (0, 2), result.exception
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1
        assert not target.exists()
    return result


def lstm_file(path):
    return old_file(path, {"lstm": arrays_of_lstm("lstm")}, lstm_config())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_a_foreign_file_becomes_one_with_names_of_torch(kind, suffix, tmp_path):
    source = tmp_path / ("in.h5" if kind == "keras" else "in.onnx")
    lstm_file(source) if kind == "keras" else node_model(
        "GRU", node_arrays("GRU"), source, linear_before_reset=1
    )
    target = tmp_path / f"out{suffix}"
    result = convert(source, target)
    assert result.exit_code == 0, result.output
    assert bits(checkpoint_files.read(target)) == bits(formats.read(source).arrays)
    shown = "lstm: LSTM(3, 5, batch_first=True)" if kind == "keras" else "rnn.node: GRU(3, 5)"
    assert shown in result.output


def test_a_file_of_keras_becomes_a_model_of_onnx(tmp_path):
    source, target = lstm_file(tmp_path / "in.h5"), tmp_path / "out.onnx"
    result = convert(source, target)
    assert result.exit_code == 0, result.output
    arrays = formats.read(target).arrays
    expected = formats.read(source).arrays
    assert bits({k.removeprefix("l0."): a for k, a in arrays.items()}) == bits(
        {k.removeprefix("lstm."): a for k, a in expected.items()}
    )


@pytest.mark.parametrize("name", ["GRU", "LSTM", "PeepholeLSTM"])
def test_a_checkpoint_of_one_layer_becomes_a_model_of_onnx(name, tmp_path):
    model = nnx.Dict(rnn=filled(getattr(jaxrnn, name)(3, 5, 2, bidirectional=True, rngs=nnx.Rngs(0))))
    model.fc = nnx.Linear(10, 2, rngs=nnx.Rngs(0))
    jaxrnn.save(model, tmp_path / "in.npz")
    refused = convert(tmp_path / "in.npz", tmp_path / "out.onnx")
    assert "there are ['fc', 'rnn']; choose one with --layer" in refused.stderr
    assert convert(tmp_path / "in.npz", tmp_path / "out.onnx", "--layer", "rnn").exit_code == 0
    x = np.ones((4, 2, 3), np.float32)
    # float32; onnxruntime was measured 4.6e-6 from float64 NumPy
    np.testing.assert_allclose(
        run(tmp_path / "out.onnx", {"input": x})[0], model.rnn(x)[0], rtol=0, atol=1e-5
    )


def test_a_layer_that_is_not_recurrent_becomes_no_model(tmp_path):
    jaxrnn.save(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), tmp_path / "in.npz")
    assert (
        "'weight' is no array of a recurrent layer"
        in convert(tmp_path / "in.npz", tmp_path / "o.onnx").stderr
    )


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("weight_hh_l0", (15, 5, 1), "is not of an RNN, a GRU or an LSTM"),
        ("weight_hh_l0", (10, 5), "is not of an RNN, a GRU or an LSTM"),
        ("weight_ih_l0", (14, 3), "are not those of 3 gates"),
        ("bias_hh_l1", (16,), "are not those of 3 gates"),
        ("weight_ih_l1", (15, 4), "level 1 is not as wide as the others"),
        ("weight_hh_l1", None, "some arrays of a recurrent layer are missing"),
        ("weight_ch_l0", (3, 5), "some arrays of a recurrent layer are missing"),
    ],
)
def test_arrays_that_are_not_of_one_layer_become_no_model(name, shape, says, tmp_path):
    arrays = jaxrnn.state_dict(jaxrnn.GRU(3, 5, 2, rngs=nnx.Rngs(0)))
    arrays.pop(name, None)
    if shape is not None:
        arrays[name] = np.ones(shape, np.float32)
    checkpoint_files.write(arrays, tmp_path / "in.npz")
    assert says in convert(tmp_path / "in.npz", tmp_path / "out.onnx").stderr


def test_peepholes_of_a_gru_become_no_model(tmp_path):
    arrays = jaxrnn.state_dict(jaxrnn.GRU(3, 5, rngs=nnx.Rngs(0)))
    checkpoint_files.write(arrays | {"weight_ch_l0": np.ones((3, 5), np.float32)}, tmp_path / "in.npz")
    assert "does not belong to a GRU" in convert(tmp_path / "in.npz", tmp_path / "out.onnx").stderr


def test_an_rnn_becomes_a_model_once_its_nonlinearity_is_said(tmp_path):
    rnn = filled(jaxrnn.RNN(3, 5, nonlinearity="relu", batch_first=True, rngs=nnx.Rngs(0)))
    jaxrnn.save(rnn, tmp_path / "in.npz")
    source, target = tmp_path / "in.npz", tmp_path / "out.onnx"
    assert "pass --assume activation=tanh, or relu" in convert(source, target).stderr
    assert "pass --assume" in convert(source, target, "--assume", "activation=selu").stderr
    options = ["--assume", "activation=relu", "--assume", "batch_first=true"]
    assert convert(source, target, *options).exit_code == 0
    x = np.ones((2, 4, 3), np.float32)
    np.testing.assert_allclose(run(target, {"input": x})[0], rnn(x)[0], rtol=0, atol=1e-5)  # as above


@pytest.mark.parametrize(
    ("suffix", "options", "says"),
    [
        (".pt", ["--assume", "activation=tanh"], "nothing depends on ['activation']"),
        (".onnx", ["--assume", "activation=tanh"], "only an RNN has a choice of activation"),
        (".onnx", ["--assume", "axis=-1"], "nothing depends on ['axis']"),
        (".pt", ["--assume", "tanh"], "expected KEY=VALUE"),
        (".pt", ["--layer", "fc"], "there is no layer 'fc', of ['']"),
        (".pt", ["--strip-prefix", "module."], "'weight_ih_l0' does not start with 'module.'"),
    ],
)
def test_an_option_that_changes_nothing_is_an_error(suffix, options, says, tmp_path):
    jaxrnn.save(jaxrnn.GRU(3, 5, rngs=nnx.Rngs(0)), tmp_path / "in.npz")
    assert says in convert(tmp_path / "in.npz", tmp_path / f"out{suffix}", *options).stderr


def test_a_key_is_of_checkpoints_only(tmp_path):
    result = convert(lstm_file(tmp_path / "in.h5"), tmp_path / "out.pt", "--key", "lstm")
    assert "only a checkpoint has a key" in result.stderr


def test_weights_alone_are_converted_once_the_rest_is_said(tmp_path):
    source = old_file(tmp_path / "in.h5", {"lstm": arrays_of_lstm("lstm")})
    result = convert(source, tmp_path / "out.pt")
    assert "--assume recurrent_activation=sigmoid" in result.stderr
    words = result.stderr.replace(",", " ").split()
    options = [word for n, word in enumerate(words) if "--assume" in (word, words[n - 1])]
    assert convert(source, tmp_path / "out.pt", *options).exit_code == 0


def test_a_prefix_of_a_wrapper_is_suggested_and_stripped(tmp_path):
    arrays = {"module.rnn.weight": np.ones(2), "module.fc.weight": np.ones(3)}
    checkpoint_files.write(arrays, tmp_path / "in.npz")
    result = convert(tmp_path / "in.npz", tmp_path / "out.npz")
    assert "every name starts with 'module.'; --strip-prefix module. removes it" in result.output
    result = convert(tmp_path / "in.npz", tmp_path / "out.pt", "--strip-prefix", "module.")
    assert "strip" not in result.output
    assert set(checkpoint_files.read(tmp_path / "out.pt")) == {"rnn.weight", "fc.weight"}


def test_a_model_of_onnx_is_not_overwritten_unless_told_to(tmp_path):
    source, target = lstm_file(tmp_path / "in.h5"), tmp_path / "out.onnx"
    target.write_text("precious")
    result = CliRunner().invoke(main, ["convert", str(source), str(target)])
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert target.read_text() == "precious"
    assert convert(source, target, "--overwrite").exit_code == 0
    assert formats.read(target).layers


def test_what_is_left_out_of_a_model_is_shown(tmp_path):
    onnx = pytest.importorskip("onnx")
    source = node_model("LSTM", node_arrays("LSTM"), tmp_path / "in.onnx")
    model = onnx.load(source)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "fc\x1b[0m"))
    source.write_bytes(model.SerializeToString())
    result = convert(source, tmp_path / "out.pt")
    assert "not converted: 'fc\\x1b[0m'" in result.output


def test_a_name_in_an_error_brings_no_control_characters_to_the_terminal(tmp_path):
    source = node_model("LSTM", node_arrays("LSTM"), tmp_path / "in.onnx", name="a\x1b[2Jb", clip=1.0)
    assert "a\\x1b[2Jb: clip=1.0" in convert(source, tmp_path / "out.pt").stderr


def test_chosen_layers_are_converted_without_the_others(tmp_path):
    arrays = {"rnn.weight": np.ones(2), "rnn_2.weight": np.ones(3), "fc.weight": np.ones(4)}
    checkpoint_files.write(arrays, tmp_path / "in.npz")
    convert(tmp_path / "in.npz", tmp_path / "out.npz", "--layer", "rnn", "--layer", "fc")
    assert set(checkpoint_files.read(tmp_path / "out.npz")) == {"rnn.weight", "fc.weight"}
