"""The layers and cells give `torch.nn`'s numbers, forwards and backwards, in every form of input it takes."""

import itertools
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils import rnn as packing  # noqa: E402

import torch_ref  # noqa: E402
from tests.torch_ref.common import PROJ, B, H, I, T, assert_same, draw, draw_states, fill, trace  # noqa: E402

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN tanh": ("RNN", {"nonlinearity": "tanh"}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "GRU": ("GRU", {}),
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": PROJ}),
}
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNNCell tanh": ("RNNCell", {"nonlinearity": "tanh"}),
    "RNNCell relu": ("RNNCell", {"nonlinearity": "relu"}),
    "GRUCell": ("GRUCell", {}),
    "LSTMCell": ("LSTMCell", {}),
}
POSITIONAL = {
    "RNN": (I, H, 2, "relu", False, True, 0.5, True),
    "GRU": (I, H, 2, False, True, 0.5, True),
    "LSTM": (I, H, 2, False, True, 0.5, True, PROJ),
    "RNNCell": (I, H, False, "relu"),
    "GRUCell": (I, H, False),
    "LSTMCell": (I, H, False),
}
ATTRIBUTES = (
    "input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "batch_first", "dropout",
    "bidirectional", "proj_size", "bias_ih", "bias_hh",
)  # fmt: skip
LENGTHS = [3, 5, 1]  # unsorted, one row full
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def pair(kind, **options):
    """Return our layer and torch's with the same parameters."""
    name, own = (KINDS | CELLS)[kind]
    theirs = fill(getattr(torch.nn, name)(I, H, **own, **options))
    ours = getattr(torch_ref, name)(I, H, **own, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def packed(layer, lengths, batch_first):
    """Return a call of torch's layer on a padded batch that goes through a PackedSequence."""

    def call(x, hx):
        sequence = packing.pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
        output, state = layer(sequence, hx)
        return packing.pad_packed_sequence(output, batch_first, total_length=T)[0], state

    return call


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["batched", "unbatched", "ragged"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_outputs_states_and_gradients_are_those_of_torch_nn(kind, form, batch_first, num_layers):
    for bidirectional, bias, given in itertools.product([False, True], repeat=3):
        ours, theirs = pair(
            kind, num_layers=num_layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
        )
        x = draw(7, T, I) if form == "unbatched" else draw(7, *((B, T) if batch_first else (T, B)), I)
        states = draw_states(theirs, None if form == "unbatched" else B) if given else None
        if form == "ragged":
            actual = trace(ours, x, states, lambda x, hx, layer=ours: layer(x, hx, lengths=LENGTHS))
            expected = trace(theirs, x, states, packed(theirs, LENGTHS, batch_first))
        else:
            actual, expected = trace(ours, x, states), trace(theirs, x, states)
        assert_same(actual, expected)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("rows", [None, B])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_cell_is_the_cell_of_torch_nn(kind, rows, bias, given):
    ours, theirs = pair(kind, bias=bias)
    batch = () if rows is None else (rows,)
    states = [draw(50 + i, *batch, H) for i in range(2 if kind == "LSTMCell" else 1)] if given else None

    def call(cell):
        def step(x, hx):
            state = cell(x, hx)
            return state if isinstance(state, tuple) else (state, ())  # (h, c), or h with nothing beside it

        return step

    x = draw(7, *batch, I)
    assert_same(trace(ours, x, states, call(ours)), trace(theirs, x, states, call(theirs)))


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
@pytest.mark.parametrize("bias", [False, True])
def test_a_seed_draws_the_bits_of_torch_nn_under_the_same_names(kind, bias):
    name, own = (KINDS | CELLS)[kind]
    options = own | {"bias": bias} | ({"num_layers": 2, "bidirectional": True} if kind in KINDS else {})
    torch.manual_seed(3)
    theirs = getattr(torch.nn, name)(I, H, **options)
    torch.manual_seed(3)
    ours = getattr(torch_ref, name)(I, H, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", POSITIONAL)
def test_the_constructor_takes_the_arguments_of_torch_nn_in_its_order(name):
    ours = getattr(torch_ref, name)(*POSITIONAL[name], dtype=torch.float64)
    theirs = getattr(torch.nn, name)(*POSITIONAL[name], dtype=torch.float64)
    assert repr(ours) == repr(theirs)
    for (our_name, our), (their_name, their) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert (our_name, our.shape, our.dtype) == (their_name, their.shape, their.dtype)
    shared = [attribute for attribute in ATTRIBUTES if hasattr(theirs, attribute)]
    assert {a: getattr(ours, a) for a in shared} == {a: getattr(theirs, a) for a in shared}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [0.4, 1.0])
@pytest.mark.parametrize("batch_first", [False, True])
def test_training_mode_drops_what_torch_nn_drops(kind, p, batch_first):
    ours, theirs = pair(kind, num_layers=3, bidirectional=True, dropout=p, batch_first=batch_first)
    x, states = draw(7, *((B, T) if batch_first else (T, B)), I), draw_states(theirs, B)
    torch.manual_seed(11)
    expected = trace(theirs, x, states)
    torch.manual_seed(11)
    assert_same(trace(ours, x, states), expected)

    torch.manual_seed(11)  # torch draws one mask after each layer but the last, time-major: draw them by hand
    ones = torch.ones(T, B, ours.output_size, dtype=torch.float64)
    masks = [torch.nn.functional.dropout(ones, p) > 0 for _ in range(2)]
    assert any(mask.any() for mask in masks) == (p < 1)
    if batch_first:
        masks = [mask.transpose(0, 1) for mask in masks]
    given = trace(ours, x, states, lambda x, hx: ours(x, hx, dropout_masks=masks))
    assert_same(given, expected)


def test_dropout_of_one_drops_what_a_mask_keeps():
    ours, _ = pair("GRU", num_layers=2, dropout=1.0)
    x, keep = draw(7, T, B, I), torch.ones(T, B, H, dtype=torch.bool)
    dropped = trace(ours, x, None, lambda x, hx: ours(x, hx, dropout_masks=[keep]))
    assert_same(dropped, trace(ours, x, None, lambda x, hx: ours(x, hx, dropout_masks=[~keep])), tolerance=0)
    assert dropped["output"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_mode_drops_nothing(kind):
    ours, theirs = pair(kind, num_layers=3, dropout=0.4)
    x = draw(7, T, B, I)
    assert_same(trace(ours.eval(), x), trace(theirs.eval(), x))


def test_dropout_in_a_single_layer_warns_where_the_layer_is_made():
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        torch.nn.GRU(I, H, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout") as caught:
        torch_ref.GRU(I, H, dropout=0.5)
    assert str(caught[0].message) == str(expected[0].message)
    assert caught[0].filename == __file__


# One rounding is off by at most 2^-9 in bfloat16 and 2^-12 in float16. Those of some tens of operations a
# step, two layers and five steps deep, add up like a random walk: to four of them at most, here.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8 * 2**-9), (torch.float16, 8 * 2**-12)])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_as_near_to_float64_as_half_precision_is(kind, dtype, tolerance):
    ours, _ = pair(kind, num_layers=2, bidirectional=True)
    x = draw(7, T, B, I).to(dtype)
    ours.to(dtype)
    half = ours(x)[0]
    assert half.dtype == dtype
    full = ours.double()(x.double())[0]
    difference = (half.double() - full).norm() / full.norm()
    assert 0 < difference < tolerance
