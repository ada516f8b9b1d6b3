"""`torch.func` goes through the layers: forward mode, one gradient for every row, batches of models."""

import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from tests.torch_ref.common import SAME, B, H, I, T, draw, fill, rms_error  # noqa: E402

pytestmark = pytest.mark.torch
KINDS = ["RNN", "GRU", "LSTM", "PeepholeLSTM"]
LENGTHS = torch.tensor([3, 5, 1])


def make(kind):
    layer = fill(getattr(torch_ref, kind)(I, H, 2, bidirectional=True))
    return layer, {name: p.detach() for name, p in layer.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees_with_reverse_mode(kind):
    layer, params = make(kind)
    x, cotangent = draw(7, T, B, I), draw(8, T, B, 2 * H)

    def output(params, x):
        return torch.func.functional_call(layer, params, (x,), {"lengths": LENGTHS})[0]

    tangents = {name: draw(20 + i, *p.shape) for i, (name, p) in enumerate(params.items())}, draw(19, T, B, I)
    _, forward = torch.func.jvp(output, (params, x), tangents)
    d_params, d_x = torch.func.vjp(output, params, x)[1](cotangent)
    reverse = (d_x * tangents[1]).sum() + sum((d_params[n] * tangents[0][n]).sum() for n in params)
    assert rms_error((forward * cotangent).sum(), reverse) <= SAME


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_gives_each_row_its_own_gradient(kind):
    layer, params = make(kind)
    x = draw(7, B, T, I)

    def loss(params, row):
        return torch.func.functional_call(layer, params, (row,))[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
    for b in range(B):
        alone = torch.func.grad(loss)(params, x[b])
        for name, gradient in alone.items():
            assert rms_error(together[name][b], gradient) <= SAME, name


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_runs_a_batch_of_models(kind):
    layer, first = make(kind)
    second = {name: p + 0.1 for name, p in first.items()}
    x = draw(7, T, B, I)

    def output(params):
        return torch.func.functional_call(layer, params, (x,), {"lengths": LENGTHS})[0]

    both = torch.func.vmap(output)({name: torch.stack([first[name], second[name]]) for name in first})
    assert rms_error(both[0], output(first)) <= SAME
    assert rms_error(both[1], output(second)) <= SAME
