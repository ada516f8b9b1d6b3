"""The peephole LSTM, which `torch.nn` lacks, against NumPy, ONNX Runtime and finite differences."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from tests.oracles import numpy_peephole_lstm, onnx_lstm  # noqa: E402
from tests.torch_ref.common import SAME, B, H, I, T, as_hx, draw, draw_states, fill, rms_error  # noqa: E402

pytestmark = pytest.mark.torch

# Both sides run in float32, whose unit is 6e-8, and ONNX Runtime's sigmoid and tanh are approximations.
ONNX = 1e-5


def arrays(layer):
    return {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}


def errors(actual, expected):
    """Return the relative errors of output, h_n and c_n."""
    output, (h_n, c_n) = actual
    return [
        rms_error(a.detach(), torch.from_numpy(e)) for a, e in zip((output, h_n, c_n), expected, strict=True)
    ]


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]])
@pytest.mark.parametrize("given", [False, True])
def test_it_gives_what_numpy_gives(num_layers, bidirectional, bias, lengths, given):
    layer = fill(torch_ref.PeepholeLSTM(I, H, num_layers, bias, bidirectional=bidirectional))
    x, states = draw(7, T, B, I), draw_states(layer, B) if given else None
    started = [state.numpy() for state in states or []]
    expected = numpy_peephole_lstm(arrays(layer), x.numpy(), *started, lengths=lengths)
    assert max(errors(layer(x, as_hx(states), lengths=lengths), expected)) <= SAME


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 1, 5]])
@pytest.mark.parametrize("given", [False, True])
def test_it_gives_what_onnx_runtime_gives(peepholes, bidirectional, bias, lengths, given):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kind = torch_ref.PeepholeLSTM if peepholes else torch_ref.LSTM
    layer = fill(kind(I, H, bias=bias, bidirectional=bidirectional)).float()
    x = draw(7, T, B, I).float()
    states = [s.float() for s in draw_states(layer, B)] if given else None
    started = [state.numpy() for state in states or []]
    expected = onnx_lstm(arrays(layer), x.numpy(), *started, lengths=lengths)
    assert max(errors(layer(x, as_hx(states), lengths=lengths), expected)) <= ONNX


def test_without_peepholes_it_is_the_lstm():
    layer = fill(torch_ref.PeepholeLSTM(I, H, 2, bidirectional=True))
    plain = torch_ref.LSTM(I, H, 2, bidirectional=True).double()
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if "weight_ch" not in n})
    for name, parameter in layer.named_parameters():
        if "weight_ch" in name:
            torch.nn.init.zeros_(parameter)
    x = draw(7, T, B, I)
    assert torch.equal(layer(x)[0], plain(x)[0])


def test_the_cell_is_one_step_of_the_layer():
    layer = fill(torch_ref.PeepholeLSTM(I, H))
    cell = torch_ref.PeepholeLSTMCell(I, H).double()
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x, (h, c) = draw(7, T, B, I), draw_states(layer, B)
    expected, state = layer(x, (h, c))[0], (h[0], c[0])
    for t in range(T):
        state = cell(x[t], state)
        assert rms_error(state[0], expected[t]) <= SAME


def test_peepholes_are_named_shaped_and_drawn_as_the_other_parameters():
    torch.manual_seed(5)
    layer = torch_ref.PeepholeLSTM(I, H, bidirectional=True)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch"]
    assert list(layer.state_dict()) == [f"{n}_l0{suffix}" for suffix in ("", "_reverse") for n in names]
    torch.manual_seed(5)
    for parameter in layer.parameters():
        assert torch.equal(parameter, torch.empty_like(parameter).uniform_(-(H**-0.5), H**-0.5))
    cell = torch_ref.PeepholeLSTMCell(I, H, bias=False)
    shapes = {name: tuple(p.shape) for name, p in cell.state_dict().items()}
    assert shapes == {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H), "weight_ch": (3, H)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PeepholeLSTM", "LSTM", "GRU", "RNN"])
def test_gradients_and_second_derivatives_are_those_of_finite_differences(kind):
    layer = fill(getattr(torch_ref, kind)(2, 2, 2, bidirectional=True))
    names = [name for name, _ in layer.named_parameters()]
    resets = torch.tensor([[False, True, False], [False, False, False]]).T

    def outputs(x, *rest):
        states, parameters = rest[: -len(names)], rest[-len(names) :]
        values = dict(zip(names, parameters, strict=True))
        options = {"lengths": torch.tensor([3, 2]), "resets": resets}
        output, final = torch.func.functional_call(layer, values, (x, as_hx(states)), options)
        return output, *(final if isinstance(final, tuple) else (final,))

    inputs = [draw(7, 3, 2, 2), *draw_states(layer, 2), *(p.detach() for p in layer.parameters())]
    inputs = [value.clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


def test_the_numpy_oracle_has_each_gate_look_where_it_should():
    """One step by hand, each peephole alone: i and f see the old cell state, o the new one."""
    c, x = 0.7, 0.3
    zeros = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    zeros["weight_ih_l0"][2] = 1.0  # g = tanh(x); i = f = o = 1/2 but for the peephole

    def step(*peepholes):
        params = zeros | {"weight_ch_l0": np.reshape(peepholes, (3, 1))}
        output, _, c_n = numpy_peephole_lstm(params, np.full((1, 1, 1), x), c0=np.full((1, 1, 1), c))
        return output.item(), c_n.item()

    gate = 1 / (1 + np.exp(-2.0 * c))
    new = 0.5 * c + gate * np.tanh(x)
    np.testing.assert_allclose(step(2.0, 0, 0), (0.5 * np.tanh(new), new), rtol=1e-14)
    new = gate * c + 0.5 * np.tanh(x)
    np.testing.assert_allclose(step(0, 2.0, 0), (0.5 * np.tanh(new), new), rtol=1e-14)
    new = 0.5 * c + 0.5 * np.tanh(x)
    np.testing.assert_allclose(step(0, 0, 2.0), (np.tanh(new) / (1 + np.exp(-2.0 * new)), new), rtol=1e-14)
