"""What the tables say of torch, optax and this library is what is installed."""

import importlib
import inspect

import pytest
from flax import nnx

from jaxrnn.doctor.library import SIGNATURES, canonical

pytestmark = pytest.mark.torch
BY_POSITION = [
    name for name in SIGNATURES if name.rpartition(".")[2] in ("RNN", "LSTM", "GRU", "PeepholeLSTM")
]
LAYERS = [name for name in BY_POSITION if not name.endswith("PeepholeLSTM")]


def thing(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", sorted(set(SIGNATURES) - set(BY_POSITION)))
def test_positional_arguments_stand_in_the_order_of_the_table(name, torch):
    parameters = list(inspect.signature(thing(name)).parameters)
    assert parameters[: len(SIGNATURES[name])] == list(SIGNATURES[name])


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_take_their_options_by_position(name, torch):
    given = {
        "input_size": 3, "hidden_size": 4, "num_layers": 2, "nonlinearity": "relu", "bias": True,
        "batch_first": True, "dropout": 0.25, "bidirectional": True,
    }  # fmt: skip
    others = {"rngs": nnx.Rngs(0)} if name.startswith("jaxrnn.") else {}
    layer = thing(name)(*[given[option] for option in SIGNATURES[name]], **others)
    for option in set(given) & set(SIGNATURES[name]) - {"bias"}:
        assert getattr(layer, option) == given[option]


def test_padding_functions_of_this_library_are_called_like_those_of_torch():
    for name in ("pad_sequence", "pack_padded_sequence", "pad_packed_sequence"):
        ours = f"jaxrnn.sequence.{name}"
        parameters = list(inspect.signature(thing(ours)).parameters)
        expected = list(SIGNATURES[canonical(ours)])
        assert parameters[: len(expected)] == expected
