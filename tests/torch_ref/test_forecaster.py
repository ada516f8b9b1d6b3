"""The forecaster of the course notebook."""

import copy

import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from tests.torch_ref.common import B, H, I, T, assert_same, draw, draw_states, fill, trace  # noqa: E402
from torch_ref.models import Forecaster  # noqa: E402

pytestmark = pytest.mark.torch
KINDS = ["RNN", "GRU", "LSTM"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_it_is_the_same_model_on_our_layers_and_on_torchs(kind, num_layers, given):
    theirs = fill(Forecaster(getattr(torch.nn, kind), I, H, num_layers, 2))
    ours = Forecaster(getattr(torch_ref, kind), I, H, num_layers, 2).double()
    ours.load_state_dict(theirs.state_dict())
    states = draw_states(theirs.rnn, B) if given else None
    assert_same(trace(ours, draw(7, B, T, I), states), trace(theirs, draw(7, B, T, I), states))


@pytest.mark.parametrize("kind", [*KINDS, "PeepholeLSTM"])
def test_it_reads_the_last_step(kind):
    model = fill(Forecaster(getattr(torch_ref, kind), I, H))
    x = draw(7, B, T, I)
    prediction, state = model(x)
    h = state[0] if isinstance(state, tuple) else state
    assert prediction.shape == (B, 1)
    assert torch.equal(prediction, model.fc(h[-1]))


@pytest.mark.parametrize("kind", [*KINDS, "PeepholeLSTM"])
def test_the_state_it_returns_goes_on_where_the_window_ended(kind):
    model = fill(Forecaster(getattr(torch_ref, kind), I, H, 2))
    x = draw(7, B, T, I)
    _, state = model(x[:, :2])
    assert torch.allclose(model(x[:, 2:], state)[0], model(x)[0], rtol=1e-12, atol=0)  # one rounding or two


def test_a_copy_is_another_model():
    model = fill(Forecaster(torch_ref.LSTM, I, H))
    x, twin = draw(7, B, T, I), copy.deepcopy(model)
    before = model(x)[0]
    torch.nn.init.zeros_(twin.rnn.weight_hh_l0)
    assert torch.equal(model(x)[0], before)
    assert not torch.equal(twin(x)[0], before)
