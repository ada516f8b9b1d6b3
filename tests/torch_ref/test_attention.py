"""The mirror's attention is torch's own."""

import math

import pytest

from tests.torch_ref.common import draw

torch = pytest.importorskip("torch")

from torch_ref.attention import MultiheadAttention  # noqa: E402

B, L, S, E = 3, 4, 5, 6
KINDS = [{}, {"bias": False}, {"kdim": 3, "vdim": 7}, {"dropout": 1.0}]


def hidden(seed, *shape):
    mask = draw(seed, *shape) > 1
    mask[..., 0] = False
    return mask


EMPTY = hidden(5, B, S)
EMPTY[1] = True
MASKS = {
    "none": {},
    "both": {"attn_mask": hidden(6, L, S), "key_padding_mask": hidden(5, B, S)},
    "every head": {"attn_mask": hidden(7, B * 2, L, S)},
    "floating": {"attn_mask": draw(8, L, S), "key_padding_mask": draw(9, B, S)},
    "a row all hidden": {"key_padding_mask": EMPTY},
}


@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_outputs_weights_and_gradients_are_those_of_torch_nn(kind, mask, need_weights):
    theirs = torch.nn.MultiheadAttention(E, 2, **kind, dtype=torch.float64)
    ours = MultiheadAttention(E, 2, **kind).double()
    for number, parameter in enumerate(theirs.parameters()):
        parameter.data = draw(20 + number, *parameter.shape)
    ours.load_state_dict(theirs.state_dict())
    sizes = (L, B, E), (S, B, kind.get("kdim", E)), (S, B, kind.get("vdim", E))
    found = []
    for module in (ours, theirs):
        given = [draw(n, *size).requires_grad_() for n, size in enumerate(sizes)]
        results = [r for r in module(*given, need_weights=need_weights, **MASKS[mask]) if r is not None]
        sum((r * draw(10, *r.shape)).sum() for r in results).backward()
        found.append([*results, *(a.grad for a in given), *(p.grad for p in module.parameters())])
    poisoned = (
        mask == "a row all hidden" and need_weights
    )  # NaN then reaches gradients in another order of sums
    for a, b in list(zip(*found, strict=True))[: 2 if poisoned else None]:
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("kind", [{}, {"kdim": 32}, {"bias": False}], ids=str)
def test_its_parameters_have_torchs_names_order_shapes_and_bounds(kind):
    ours, theirs = MultiheadAttention(64, 4, **kind), torch.nn.MultiheadAttention(64, 4, **kind)
    for (name, a), (theirs_name, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (name, a.shape) == (theirs_name, b.shape)
        assert math.isclose(a.abs().max().item(), b.abs().max().item(), abs_tol=0.005), name
