"""Wrong arguments raise what torch raises, with torch's text, followed by what to do about it."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

LAYERS = ["RNN", "GRU", "LSTM"]
CELLS = ["RNNCell", "GRUCell", "LSTMCell"]
CONSTRUCTORS = [
    ("RNN", (3, 4), {"dropout": 1.5}),
    ("RNN", (3, 4), {"dropout": -0.1}),
    ("RNN", (3, 4), {"dropout": float("nan")}),
    ("GRU", (3, 4), {"dropout": True}),
    ("LSTM", (3, 4), {"dropout": "x"}),
    ("RNN", (3, 4), {"bias": 1}),
    ("LSTM", (3, 4, 1, 1), {}),
    ("GRU", (3, 4), {"batch_first": 1}),
    ("RNN", (3.0, 4), {}),
    ("LSTM", (0, 4), {}),
    ("LSTM", (3, 4.0), {}),
    ("GRU", (3, 0), {}),
    ("GRU", (3, -1), {}),
    ("RNN", (3, 4, 0), {}),
    ("LSTM", (3, 4, 1.5), {}),
    ("LSTM", (3, 4), {"proj_size": -1}),
    ("LSTM", (3, 4), {"proj_size": 4}),
    ("RNN", (3, 4), {"proj_size": 0}),
    ("GRU", (3, 4), {"proj_size": 2}),
    ("RNN", (3, 4), {"nonlinearity": "sigmoid"}),
    ("RNN", (3, 4), {"foo": 1}),
    ("LSTM", (3, 4), {"foo": 1}),
    ("RNNCell", (3, 4), {"foo": 1}),
    ("LSTMCell", (3, 4), {"foo": 1}),
]
# (layers, input shape, initial states); LSTMs get a state of each shape, the others the first.
STATES = {
    "batched input, state without batch": ((5, 2, 3), (2, 4)),
    "unbatched input, state with batch": ((5, 3), (2, 2, 4)),
    "wrong batch": ((5, 2, 3), (2, 3, 4)),
    "wrong number of layers": ((5, 2, 3), (1, 2, 4)),
    "wrong features": ((5, 2, 3), (2, 2, 5)),
}
INPUTS = {
    "one axis": (3,),
    "four axes": (1, 5, 2, 3),
    "wrong features": (5, 2, 7),
    "no steps": (0, 2, 3),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def raised(call):
    """Return the exception that `call` raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


def assert_torchs_text_and_a_remedy(ours, theirs):
    """Assert the same class, and a text that begins with torch's and goes on."""
    assert isinstance(ours, type(theirs)), (ours, theirs)
    text, expected = str(ours), str(theirs).rstrip(". ")
    assert text.startswith(expected), (text, expected)
    assert len(text) > len(expected) + 10, "no remedy"


def ours_of(name, *args, **kwargs):
    return getattr(jaxrnn, name)(*args, **kwargs, rngs=nnx.Rngs(0))


@pytest.mark.torch
@pytest.mark.parametrize(("name", "args", "kwargs"), CONSTRUCTORS, ids=str)
def test_a_constructor_refuses_what_torch_refuses(torch, name, args, kwargs):
    theirs = raised(lambda: getattr(torch.nn, name)(*args, **kwargs))
    ours = raised(lambda: ours_of(name, *args, **kwargs))
    if kwargs.get("dropout") == "x":
        assert str(ours) == str(theirs)  # Python's own text for a string that is no number
    else:
        assert_torchs_text_and_a_remedy(ours, theirs)


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_dropout_with_one_layer_warns_as_torch_does(torch, name):
    with pytest.warns(UserWarning, match="dropout option") as theirs:
        getattr(torch.nn, name)(3, 4, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option") as ours:
        ours_of(name, 3, 4, dropout=0.5)
    assert str(ours[0].message).startswith(str(theirs[0].message))
    assert ours[0].filename == __file__  # it points at the caller


@pytest.mark.torch
@pytest.mark.parametrize("case", INPUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_an_input_of_the_wrong_shape_is_refused(torch, name, case):
    shape = INPUTS[case]
    theirs = raised(lambda: getattr(torch.nn, name)(3, 4)(torch.zeros(shape)))
    assert_torchs_text_and_a_remedy(raised(lambda: ours_of(name, 3, 4)(jnp.zeros(shape))), theirs)


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_an_input_of_another_dtype_is_refused(torch, name, dtype):
    theirs = raised(lambda: getattr(torch.nn, name)(3, 4)(torch.zeros(5, 2, 3, dtype=getattr(torch, dtype))))
    ours = raised(lambda: ours_of(name, 3, 4)(jnp.zeros((5, 2, 3), dtype)))
    assert_torchs_text_and_a_remedy(ours, theirs)


@pytest.mark.torch
@pytest.mark.usefixtures("x64")
def test_a_float64_input_to_float32_weights_is_refused(torch):
    theirs = raised(lambda: torch.nn.GRU(3, 4)(torch.zeros(5, 2, 3).double()))
    assert_torchs_text_and_a_remedy(raised(lambda: ours_of("GRU", 3, 4)(np.zeros((5, 2, 3)))), theirs)


@pytest.mark.torch
@pytest.mark.parametrize("case", STATES)
@pytest.mark.parametrize("name", LAYERS)
def test_an_initial_state_of_the_wrong_shape_is_refused(torch, name, case):
    shape, state = STATES[case]
    count = 2 if name == "LSTM" else 1
    good = (2, 2, 4) if len(shape) == len(state) == 3 else state
    for wrong in range(count):
        sizes = [state if index == wrong else good for index in range(count)]
        tensors, arrays = [torch.zeros(s) for s in sizes], [jnp.zeros(s) for s in sizes]
        hx = (tuple(tensors), tuple(arrays)) if count == 2 else (tensors[0], arrays[0])
        theirs = raised(lambda hx=hx: getattr(torch.nn, name)(3, 4, 2)(torch.zeros(shape), hx[0]))
        ours = raised(lambda hx=hx: ours_of(name, 3, 4, 2)(jnp.zeros(shape), hx[1]))
        assert_torchs_text_and_a_remedy(ours, theirs)


@pytest.mark.torch
def test_an_lstm_refuses_three_states_and_a_lone_one(torch):
    x, h = (5, 2, 3), (1, 2, 4)
    theirs = raised(lambda: torch.nn.LSTM(3, 4)(torch.zeros(x), (torch.zeros(h),) * 3))
    lstm = ours_of("LSTM", 3, 4)
    for hx in ((jnp.zeros(h),) * 3, (jnp.zeros(h),), jnp.zeros(h)):
        assert_torchs_text_and_a_remedy(raised(lambda hx=hx: lstm(jnp.zeros(x), hx)), theirs)


@pytest.mark.parametrize("name", ["RNN", "GRU"])
def test_a_pair_of_states_for_a_layer_with_one_is_named(name):
    # torch: AttributeError: 'tuple' object has no attribute 'dim'
    states = (jnp.zeros((1, 2, 4)),) * 2
    with pytest.raises(TypeError, match=r"expects one initial state h_0, got a tuple of 2.*is for LSTM"):
        ours_of(name, 3, 4)(jnp.zeros((5, 2, 3)), states)


def test_a_state_of_another_dtype_is_refused():
    with pytest.raises(RuntimeError, match=r"must have the same dtype.*Convert the state"):
        ours_of("GRU", 3, 4)(jnp.zeros((5, 2, 3)), jnp.zeros((1, 2, 4), jnp.bfloat16))


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_packed_input_is_checked_as_padded_input_is(torch, name):
    from torch.nn.utils import rnn as packing

    layer, theirs = ours_of(name, 3, 4), getattr(torch.nn, name)(3, 4)
    lengths = [5, 3]

    def both(shape, states=None, *, ordered=True):
        order = lengths if ordered else lengths[::-1]
        pair = name == "LSTM" and states is not None
        hx = [None if states is None else f(states) for f in (torch.zeros, jnp.zeros)]
        hx = [(s, s) if pair else s for s in hx]
        packed = packing.pack_padded_sequence(torch.zeros(shape), order, enforce_sorted=ordered)
        ours = jaxrnn.sequence.pack_padded_sequence(jnp.zeros(shape), order, enforce_sorted=ordered)
        return raised(lambda: layer(ours, hx[1])), raised(lambda: theirs(packed, hx[0]))

    if name == "LSTM":  # torch does not check it: "mat1 and mat2 shapes cannot be multiplied"
        assert "input.size(-1) must be equal to input_size. Expected 3, got 7" in str(both((5, 2, 7))[0])
        assert "Expected hidden[0] size (1, 2, 4), got [1, 3, 4]" in str(both((5, 2, 3), (1, 3, 4))[0])
    else:
        assert_torchs_text_and_a_remedy(*both((5, 2, 7)))
        assert_torchs_text_and_a_remedy(*both((5, 2)))
        assert_torchs_text_and_a_remedy(*both((5, 2, 3), (1, 3, 4)))
    assert_torchs_text_and_a_remedy(*both((5, 2, 3), (1, 1, 4), ordered=False))


def test_lengths_and_resets_beside_a_packed_sequence_are_refused():
    packed = jaxrnn.sequence.pack_padded_sequence(jnp.zeros((5, 2, 3)), [5, 3])
    with pytest.raises(ValueError, match=r"lengths= was given with a PackedSequence"):
        ours_of("GRU", 3, 4)(packed, lengths=[5, 3])
    with pytest.raises(ValueError, match=r"resets= was given with a PackedSequence"):
        ours_of("GRU", 3, 4)(packed, resets=jnp.zeros((5, 2), bool))


@pytest.mark.torch
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_refuses_what_torchs_cell_refuses(torch, name):
    ours, theirs = ours_of(name, 3, 4), getattr(torch.nn, name)(3, 4)
    pair = name == "LSTMCell"

    def both(x, h=None):
        tensors, arrays = (None if h is None else f(h) for f in (torch.zeros, jnp.zeros))
        if pair and h is not None:
            tensors, arrays = (tensors, tensors), (arrays, arrays)
        return raised(lambda: ours(jnp.zeros(x), arrays)), raised(lambda: theirs(torch.zeros(x), tensors))

    assert_torchs_text_and_a_remedy(*both((1, 2, 3)))
    assert_torchs_text_and_a_remedy(*both((2, 3), (1, 2, 4)))
    assert_torchs_text_and_a_remedy(*both((2, 5)))
    assert_torchs_text_and_a_remedy(*both((2, 3), (2, 5)))
    assert_torchs_text_and_a_remedy(*both((2, 3), (3, 4)))
    if pair:
        states = [torch.zeros(2, 4), torch.zeros(3, 4)], [jnp.zeros((2, 4)), jnp.zeros((3, 4))]
        calls = (lambda: ours(jnp.zeros((2, 3)), states[1])), (lambda: theirs(torch.zeros(2, 3), states[0]))
        assert_torchs_text_and_a_remedy(*map(raised, calls))


@pytest.mark.torch
def test_an_unknown_nonlinearity_of_a_cell_is_refused_when_it_is_built(torch):
    theirs = raised(lambda: torch.nn.RNNCell(3, 4, nonlinearity="xx")(torch.zeros(2, 3)))
    assert_torchs_text_and_a_remedy(raised(lambda: ours_of("RNNCell", 3, 4, nonlinearity="xx")), theirs)


def test_a_cell_and_its_state_have_a_batch_axis_both_or_neither():
    with pytest.raises(ValueError, match=r"GRUCell: Expected hidden to be 1D as the input is, got 2D"):
        ours_of("GRUCell", 3, 4)(jnp.zeros(3), jnp.zeros((1, 4)))


@pytest.mark.parametrize(
    ("resets", "error", "text"),
    [
        (np.zeros((5, 2)), TypeError, "dtype bool"),
        (np.zeros((2, 5), bool), ValueError, r"\(5, 2\), got \(2, 5\)"),
        ([[False] * 2] * 5, TypeError, "JAX or NumPy array, got list"),
    ],
)
def test_resets_of_the_wrong_kind_are_refused(resets, error, text):
    with pytest.raises(error, match=text):
        ours_of("GRU", 3, 4)(jnp.zeros((5, 2, 3)), resets=resets)


@pytest.mark.parametrize("masks", [[], [np.ones((5, 2, 5), bool)], [np.ones((2, 5, 4), bool)]], ids=len)
def test_dropout_masks_must_fit_the_output(masks):
    layer = ours_of("GRU", 3, 4, 2, dropout=0.5)
    with pytest.raises(ValueError, match=r"dropout_masks should be 1 arrays shaped like .* \(5, 2, 4\)"):
        layer(jnp.zeros((5, 2, 3)), dropout_masks=masks)


def test_dropout_masks_are_refused_where_nothing_is_dropped():
    layer = ours_of("GRU", 3, 4, 2, dropout=0.5)
    layer.eval()
    with pytest.raises(ValueError, match="this layer drops nothing"):
        layer(jnp.zeros((5, 2, 3)), dropout_masks=[np.ones((5, 2, 4), bool)])


def test_torch_tensors_and_lists_are_refused_with_the_conversion():
    with pytest.raises(TypeError, match=r"input should be a JAX or NumPy array, got list. Convert it first"):
        ours_of("GRU", 3, 4)([[1.0, 2.0, 3.0]])


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.1, "bidirectional": True}],
    ids=["defaults", "all"],
)
def test_a_layer_prints_as_torchs_does(torch, name, options):
    theirs = getattr(torch.nn, name)(3, 4, **options)
    assert repr(ours_of(name, 3, 4, **options)) == repr(theirs) == str(ours_of(name, 3, 4, **options))


@pytest.mark.torch
def test_projections_and_nonlinearities_are_printed(torch):
    assert repr(ours_of("LSTM", 3, 4, proj_size=2)) == repr(torch.nn.LSTM(3, 4, proj_size=2))
    assert repr(ours_of("RNNCell", 3, 4, nonlinearity="relu")) == repr(
        torch.nn.RNNCell(3, 4, nonlinearity="relu")
    )
    assert repr(ours_of("GRUCell", 3, 4, bias=False)) == repr(torch.nn.GRUCell(3, 4, bias=False))


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_attributes_and_positional_arguments_are_torchs(torch, name):
    positional = {
        "RNN": (3, 4, 2, "relu", False, True, 0.5, True),
        "GRU": (3, 4, 2, False, True, 0.5, True),
        "LSTM": (3, 4, 2, False, True, 0.5, True, 2),
        "RNNCell": (3, 4, False, "relu"),
    }.get(name, (3, 4, False))
    ours, theirs = ours_of(name, *positional), getattr(torch.nn, name)(*positional)
    sizes, flags = "input_size hidden_size num_layers proj_size", "bias batch_first bidirectional training"
    for attribute in f"mode {sizes} {flags} dropout nonlinearity".split():
        if hasattr(theirs, attribute) and not (attribute == "training" and "Cell" in name):
            assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert {k: v.shape for k, v in jaxrnn.state_dict(ours).items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert list(jaxrnn.state_dict(ours)) == list(theirs.state_dict())
    if "Cell" not in name:
        shapes = [[tuple(w.shape) for w in weights] for weights in theirs.all_weights]
        assert [[w.shape for w in weights] for weights in ours.all_weights] == shapes


def test_an_error_inside_jit_is_the_same_error():
    layer = ours_of("GRU", 3, 4)
    with pytest.raises(
        RuntimeError, match=re.escape("input.size(-1) must be equal to input_size. Expected 3, got 7")
    ):
        jax.jit(lambda x: layer(x)[0])(jnp.zeros((5, 2, 7)))
