"""The mirror's Transformer is torch's own, where torch trains."""

import numpy as np
import pytest

from tests.torch_ref.common import SAME, draw, fill

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from torch_ref.dropout import Dropout, check_masks  # noqa: E402

# torch says that it will not take a faster path.
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("enable_nested", "Support for mism")]

B, S, T, E, HEADS = 3, 5, 4, 6, 2
SIZES = (E, HEADS, 2, 2, 7)
KINDS = [
    {},
    {"norm_first": True},
    {"activation": "gelu", "bias": False},
    {"layer_norm_eps": 0.1, "activation": torch.tanh, "norm_first": True},
]


def padding(steps, *, empty=False):
    lengths = torch.tensor([steps, 0 if empty else 1, 3])
    return torch.arange(steps) >= lengths[:, None]


def hidden(seed, *shape):
    mask = draw(seed, *shape) > 1
    mask[..., 0] = False
    return mask


CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
MASKS = {
    "none": {},
    "causal and padding": {
        "tgt_mask": CAUSAL,
        "src_key_padding_mask": padding(S),
        "tgt_key_padding_mask": padding(T),
        "memory_key_padding_mask": padding(S),
    },
    "padding in front": {"tgt_mask": CAUSAL, "tgt_key_padding_mask": padding(T).flip(1)},
    "every mask": {"src_mask": hidden(1, S, S), "tgt_mask": hidden(2, T, T), "memory_mask": hidden(3, T, S)},
    "every head": {
        "src_mask": hidden(1, B * HEADS, S, S),
        "memory_mask": draw(3, B * HEADS, T, S),
    },
    "floating": {
        "tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(T).double(),
        "memory_mask": draw(3, T, S),
        "memory_key_padding_mask": draw(4, B, S),
    },
    "a row all hidden": {
        "src_key_padding_mask": padding(S, empty=True),
        "memory_key_padding_mask": padding(S, empty=True),
    },
}


def pair(kind, name="Transformer", sizes=SIZES, **options):
    """Return our module and torch's, with the same weights."""
    options = {"dropout": 0.0, "batch_first": True} | kind | options
    theirs = fill(getattr(torch.nn, name)(*sizes, **options))
    ours = getattr(torch_ref, name)(*sizes, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def numbers(module, arrays, masks):
    """Return the output and the gradients of inputs and parameters."""
    given = [a.clone().requires_grad_() for a in arrays]
    output = module(*given, **masks)
    wanted = [*given, *module.parameters()]
    return [output, *torch.autograd.grad(output, wanted, draw(90, *output.shape))]


def assert_same(pair, arrays, masks):
    for ours, theirs in zip(*(numbers(module, arrays, masks) for module in pair), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=SAME, atol=10 * SAME)  # sums in another order


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)) or "plain")
def test_outputs_and_gradients_are_those_of_torch_nn(kind, masks, training):
    modules = [module.train(training) for module in pair(kind)]
    assert_same(modules, [draw(20, B, S, E), draw(21, B, T, E)], MASKS[masks])


def test_time_may_lead_and_the_batch_be_missing():
    modules = pair({}, batch_first=False)
    masks = {"tgt_mask": CAUSAL, "src_key_padding_mask": padding(S)}
    assert_same(modules, [draw(20, S, B, E), draw(21, T, B, E)], masks)
    assert_same(modules, [draw(20, S, E), draw(21, T, E)], {"tgt_mask": CAUSAL})


def test_layers_and_stacks_alone_are_those_of_torch_nn():
    arrays = [draw(20, B, S, E), draw(21, B, T, E)]
    for kind, given in (("Encoder", arrays[:1]), ("Decoder", arrays)):
        layers = pair({}, f"Transformer{kind}Layer", (E, HEADS, 7))
        assert_same(layers, given, {})
        stacks = [
            getattr(home, f"Transformer{kind}")(layer, 2)
            for home, layer in zip((torch_ref, torch.nn), layers, strict=True)
        ]
        assert_same(stacks, given, {})


def test_torchs_fast_path_alone_makes_a_row_nan_whose_keys_are_all_hidden():
    """Why the mirror keeps to what torch does where it trains: one module, two answers."""
    ours, theirs = pair({}, "TransformerEncoderLayer", (E, HEADS, 7))
    masks = {"src_key_padding_mask": padding(S, empty=True)}
    with torch.no_grad():
        assert theirs.eval()(draw(20, B, S, E), **masks)[1].isnan().all()
        assert theirs.train()(draw(20, B, S, E), **masks).isfinite().all()
        assert ours.eval()(draw(20, B, S, E), **masks).isfinite().all()


@pytest.mark.parametrize("bias", [True, False])
def test_one_seed_gives_the_weights_of_torch_nn(bias):
    made = []
    for home in (torch_ref, torch.nn):
        torch.manual_seed(5)
        made.append(home.Transformer(*SIZES, bias=bias).state_dict())
    assert list(made[0]) == list(made[1])
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def names(module):
    return [name for name, part in module.named_modules() if isinstance(part, torch.nn.Dropout)] + [
        f"{name}.dropout"
        for name, part in module.named_modules()
        if isinstance(part, torch_ref.MultiheadAttention)
    ]


def test_given_masks_drop_what_they_say():
    """With masks that keep everything, the result is that of a division by 1 - p wherever there is a dropout."""
    ours, theirs = pair({}, "TransformerEncoderLayer", (E, HEADS, 7), dropout=0.5)
    x = draw(20, B, S, E)
    shapes = {
        "self_attn.dropout": (B, HEADS, S, S),
        "dropout": (B, S, 7),
        "dropout1": x.shape,
        "dropout2": x.shape,
    }
    masks = {name: draw(30 + n, *shape) > 0 for n, (name, shape) in enumerate(shapes.items())}
    assert set(names(ours)) == set(masks)
    weights = theirs.eval().self_attn(x, x, x, average_attn_weights=False)[1]
    weight, bias = (p.chunk(3)[2] for p in (theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias))
    v = torch.nn.functional.linear(x, weight, bias)
    kept = 2 * weights * masks["self_attn.dropout"]
    mixed = (kept @ v.unflatten(-1, (HEADS, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    y = theirs.norm1(x + 2 * masks["dropout1"] * theirs.self_attn.out_proj(mixed))
    network = theirs.linear2(2 * masks["dropout"] * theirs.linear1(y).relu())
    expected = theirs.norm2(y + 2 * masks["dropout2"] * network)
    torch.testing.assert_close(ours.train()(x, dropout_masks=masks), expected, rtol=SAME, atol=10 * SAME)


def test_masks_that_do_not_fit_are_refused():
    ours, _ = pair({}, dropout=0.5)
    with pytest.raises(ValueError, match=r"expected \['decoder.layers.0.dropout'.*got \['encoder.dropout'\]"):
        ours(draw(20, B, S, E), draw(21, B, T, E), dropout_masks={"encoder.dropout": CAUSAL})
    with pytest.raises(ValueError, match=r"expected \[\], got"):
        check_masks(ours.eval(), {"encoder.layers.0.dropout1": CAUSAL})
    with pytest.raises(TypeError, match="expected a bool tensor"):
        Dropout(0.5)(draw(1, 3, 4), draw(1, 3, 4))
    zeroed = Dropout(1.0)(draw(1, 3, 4), torch.ones(3, 4, dtype=torch.bool))
    np.testing.assert_array_equal(zeroed.numpy(), 0.0)
