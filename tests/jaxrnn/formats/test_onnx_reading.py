"""Recurrent nodes of ONNX models compute here what they compute in onnxruntime, or they are refused."""

import numpy as np
import pytest

import jaxrnn
from jaxrnn import formats
from tests.jaxrnn.common import draw
from tests.jaxrnn.formats.common import layer_of
from tests.jaxrnn.formats.onnx_models import node_arrays, node_model, run

onnx = pytest.importorskip("onnx")

X = draw(50, 7, 2, 3).astype(np.float32)
# float32, seven steps; onnxruntime itself was measured 4.6e-6 from float64 NumPy.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM"])
def test_a_node_computes_here_what_it_computes_in_onnxruntime(kind, direction, bias, tmp_path):
    operator = kind.removeprefix("Peephole")
    directions = 2 if direction == "bidirectional" else 1
    arrays = node_arrays(operator, directions, bias=bias, peepholes=kind == "PeepholeLSTM")
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    path = node_model(operator, arrays, tmp_path / "a.onnx", direction=direction, **attributes)
    weights = formats.read(path)
    assert list(weights.layers) == ["rnn.node"]
    assert weights.layers["rnn.node"].kind == kind
    output, final = layer_of(weights, "rnn.node")(X)
    states = final if isinstance(final, tuple) else (final,)
    y, *finals = run(path, {"X": X})
    np.testing.assert_allclose(output, y.transpose(0, 2, 1, 3).reshape(7, 2, -1), **CLOSE)
    for ours, theirs in zip(states, finals, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def test_an_rnn_with_relu_is_described_as_one(tmp_path):
    arrays = node_arrays("RNN", 2)
    path = node_model(
        "RNN", arrays, tmp_path / "a.onnx", direction="bidirectional", activations=["Relu", "Relu"]
    )
    weights = formats.read(path)
    assert str(weights.layers["rnn.node"]) == "RNN(3, 5, bidirectional=True, nonlinearity='relu')"
    y = run(path, {"X": X})[0]
    output = layer_of(weights, "rnn.node")(X)[0]
    np.testing.assert_allclose(output, y.transpose(0, 2, 1, 3).reshape(7, 2, -1), **CLOSE)


def test_a_node_that_reads_backwards_is_a_second_direction(tmp_path):
    arrays = node_arrays("LSTM")
    path = node_model("LSTM", arrays, tmp_path / "a.onnx", direction="reverse")
    weights = formats.read(path)
    assert set(weights.arrays) == {
        f"rnn.node.{name}_l0_reverse" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    assert "only backwards" in str(weights.layers["rnn.node"])
    cell = {name.split(".")[-1].removesuffix("_l0_reverse"): a for name, a in weights.arrays.items()}
    zeros = jaxrnn.cells.LSTMState(np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32))
    output, _ = jaxrnn.ops.unroll(jaxrnn.cells.LSTM, cell, X.swapaxes(0, 1), zeros, reverse=True)
    np.testing.assert_allclose(np.swapaxes(output, 0, 1), run(path, {"X": X})[0][:, 0], **CLOSE)


def test_a_batch_that_comes_first_is_described(tmp_path):
    path = node_model("GRU", node_arrays("GRU"), tmp_path / "a.onnx", layout=1, linear_before_reset=1)
    assert str(formats.read(path).layers["rnn.node"]) == "GRU(3, 5, batch_first=True)"


def test_a_reset_before_the_product_is_converted_where_it_is_the_same(tmp_path):
    arrays = node_arrays("GRU")
    path = node_model("GRU", arrays, tmp_path / "a.onnx")
    with pytest.raises(NotImplementedError, match=r"rnn\.node: its reset gate"):
        formats.read(path)
    arrays["R"][0, 10:] = np.diag(np.diag(arrays["R"][0, 10:]))
    path = node_model("GRU", arrays, tmp_path / "b.onnx")
    output = layer_of(formats.read(path), "rnn.node")(X)[0]
    np.testing.assert_allclose(output, run(path, {"X": X})[0][:, 0], **CLOSE)


def test_a_state_that_the_model_starts_from_is_named(tmp_path):
    arrays = node_arrays("LSTM")
    for state, value in (("initial_h", 0), ("initial_c", 1)):
        arrays[state] = np.full((1, 2, 5), value, np.float32)
    path = node_model("LSTM", arrays, tmp_path / "a.onnx")
    assert "starts from the model's initial_c: pass" in str(formats.read(path).layers["rnn.node"])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_numbers_of_other_widths_keep_their_bits(dtype, tmp_path):
    arrays = node_arrays("RNN", dtype=dtype)
    weights = formats.read(node_model("RNN", arrays, tmp_path / "a.onnx"))
    assert weights.arrays["rnn.node.weight_ih_l0"].tobytes() == arrays["W"].tobytes()
    assert weights.arrays["rnn.node.weight_ih_l0"].dtype == dtype


def edited(tmp_path, edit, kind="LSTM", **attributes):
    """A model of one node that was changed."""
    path = node_model(kind, node_arrays(kind), tmp_path / "a.onnx", **attributes)
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_behind_constants_and_identities_are_found(tmp_path):
    def edit(model):
        tensor = next(each for each in model.graph.initializer if each.name == "W")
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["one"], value=tensor))
        model.graph.node.insert(1, onnx.helper.make_node("Identity", ["one"], ["two"]))
        model.graph.node.insert(2, onnx.helper.make_node("Identity", ["two"], ["three"]))
        model.graph.node[3].input[1] = "three"

    weights = formats.read(edited(tmp_path, edit))
    np.testing.assert_array_equal(
        np.sort(weights.arrays["rnn.node.weight_ih_l0"], None), np.sort(node_arrays("LSTM")["W"], None)
    )


def test_identities_in_a_circle_come_to_an_end(tmp_path):
    def edit(model):
        model.graph.node[0].input[1] = "one"
        model.graph.node.append(onnx.helper.make_node("Identity", ["two"], ["one"]))
        model.graph.node.append(onnx.helper.make_node("Identity", ["one"], ["two"]))

    with pytest.raises(NotImplementedError, match="its W is computed when the model runs"):
        formats.read(edited(tmp_path, edit))


def test_weights_of_other_nodes_are_listed_as_left_out(tmp_path):
    def edit(model):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "fc.weight"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.int64), "shape"))

    assert list(formats.read(edited(tmp_path, edit)).left_out) == ["fc.weight"]


def test_nodes_can_be_chosen_by_their_names(tmp_path):
    def edit(model):
        second = model.graph.node.add()
        second.CopyFrom(model.graph.node[0])
        second.name = "clipped"
        second.attribute.append(onnx.helper.make_attribute("clip", 1.0))

    path = edited(tmp_path, edit)
    with pytest.raises(NotImplementedError, match="clipped: clip=1"):
        formats.read(path)
    assert list(formats.read(path, layers=["rnn.node"]).layers) == ["rnn.node"]
    with pytest.raises(ValueError, match="there is no recurrent node 'lstm'"):
        formats.read(path, layers=["lstm"])


def test_nodes_without_names_are_numbered_and_equal_names_refused(tmp_path):
    def unnamed(model):
        model.graph.node[0].name = ""

    def twice(model):
        model.graph.node.add().CopyFrom(model.graph.node[0])

    assert list(formats.read(edited(tmp_path, unnamed)).layers) == ["lstm_0"]
    with pytest.raises(ValueError, match=r"two nodes are called 'rnn\.node'"):
        formats.read(edited(tmp_path, twice))


def test_a_node_in_the_body_of_a_branch_is_named(tmp_path):
    def edit(model):
        body = onnx.helper.make_graph([model.graph.node[0]], "body", [], [])
        model.graph.node.append(
            onnx.helper.make_node("If", ["X"], ["out"], then_branch=body, else_branch=body)
        )

    with pytest.raises(NotImplementedError, match="/rnn/node: it stands in a function"):
        formats.read(edited(tmp_path, edit))


@pytest.mark.parametrize(
    ("kind", "attributes", "match"),
    [
        ("LSTM", {"clip": 3.0}, "clip=3.0 bounds"),
        ("LSTM", {"input_forget": 1}, "input_forget=1 couples"),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activations="),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"]}, "activations="),
        ("GRU", {"activations": ["Sigmoid", "Relu"], "linear_before_reset": 1}, "activations="),
        ("RNN", {"activations": ["Affine"]}, "torch's RNN has Tanh or Relu"),
    ],
)
def test_what_torch_cannot_say_is_refused_with_the_node(kind, attributes, match, tmp_path):
    path = node_model(kind, node_arrays(kind), tmp_path / "a.onnx", **attributes)
    with pytest.raises(NotImplementedError, match=rf"rnn\.node: .*{match}"):
        formats.read(path)


def test_directions_that_differ_in_activation_are_refused(tmp_path):
    path = node_model(
        "RNN",
        node_arrays("RNN", 2),
        tmp_path / "a.onnx",
        direction="bidirectional",
        activations=["Tanh", "Relu"],
    )
    with pytest.raises(NotImplementedError, match="the same in both directions"):
        formats.read(path)


def set_external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def shape_of(name, *dims):
    def edit(model):
        tensor = next(each for each in model.graph.initializer if each.name == name)
        array = np.ones(dims, np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))

    return edit


def claims(model):
    model.graph.initializer[0].dims[:] = [2**40, 2**20, 2**20]


def negative(model):
    model.graph.initializer[0].dims[:] = [1, -1, 3]


def empty(model):
    del model.graph.node[:]


def direction(model):
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("direction", "sideways"))


def hidden(model):
    model.graph.node[0].attribute[0].i = 6


def without_weights(model):
    model.graph.node[0].input[2] = ""


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (set_external, "in another file, which is not read"),
        (shape_of("W", 2, 20, 3), "reads in 1 directions"),
        (shape_of("W", 1, 20), "are not those of 4 gates"),
        (shape_of("R", 1, 20, 4), "are not those of 4 gates"),
        (shape_of("B", 1, 39), "not two biases"),
        (claims, "has not the size"),
        (negative, "has not the size"),
        (empty, "no RNN, GRU or LSTM node"),
        (direction, "direction='sideways'"),
        (hidden, "hidden_size=6 does not fit"),
        (without_weights, "no W or no R"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_model_that_is_wrong_in_itself_is_refused(edit, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        formats.read(edited(tmp_path, edit))


@pytest.mark.parametrize(("kind", "shape"), [("LSTM", (1, 14)), ("GRU", (1, 15))])
def test_peepholes_that_do_not_fit_are_refused(kind, shape, tmp_path):
    arrays = node_arrays(kind) | {"P": np.ones(shape, np.float32)}
    path = node_model(kind, arrays, tmp_path / "a.onnx", linear_before_reset=1) if kind == "GRU" else (
        node_model(kind, arrays, tmp_path / "a.onnx")
    )  # fmt: skip
    with pytest.raises(ValueError, match="its P has shape"):
        formats.read(path)


def test_a_model_of_onnx_leaves_nothing_to_assume(tmp_path):
    path = node_model("LSTM", node_arrays("LSTM"), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="leave out the assumptions"):
        formats.read(path, assume={"activation": "tanh"})


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's older exporter warns that it is one
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_model_that_torch_exported_comes_back_to_the_same_layer(torch, name, tmp_path):
    layer = getattr(torch.nn, name)(3, 5, num_layers=2, bidirectional=True)
    path = tmp_path / "a.onnx"
    torch.onnx.export(layer, (torch.ones(7, 2, 3),), path, dynamo=False)
    weights = formats.read(path)
    assert len(weights.layers) == 2
    levels = [
        {key.rpartition(".")[2]: array for key, array in weights.arrays.items() if key.startswith(f"{each}.")}
        for each in weights.layers
    ]
    arrays = formats.stack(levels)
    for key, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(arrays[key], tensor.numpy())
