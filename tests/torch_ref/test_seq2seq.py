"""Encoder and decoder of the mirror are the loops that one would write with torch.nn."""

import pytest

from tests.torch_ref.common import SAME, draw, fill, rms_error

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from torch_ref.models import Seq2Seq, shift_right  # noqa: E402

pytestmark = pytest.mark.torch
B, S, T, E, H, SOURCE, TARGET = 3, 5, 4, 2, 6, 7, 8
LENGTHS = torch.tensor([5, 1, 3])


def tokens(seed, vocabulary, *shape):
    return (draw(seed, *shape).abs() * 1000).long() % vocabulary


def ours(kind, **options):
    return fill(Seq2Seq(getattr(torch_ref, kind), SOURCE, TARGET, E, H, **options))


def by_hand(model, kind, source, target):
    """A one-layer model, bidirectional with attention, in functions of torch.nn."""
    layers = {"GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}
    encoder = layers[kind](E, H, batch_first=True, bidirectional=True).double()
    cell = getattr(torch.nn, f"{kind}Cell")(E + 2 * H, H).double()
    encoder.load_state_dict(model.encoder.rnn.state_dict())
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in model.decoder.rnn.state_dict().items()}
    )
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        model.encoder.embedding(source), LENGTHS, batch_first=True, enforce_sorted=False
    )
    outputs, final = encoder(packed)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    states = final if kind == "LSTM" else (final,)
    hx = tuple(bridge(torch.cat([s[0], s[1]], -1)) for bridge, s in zip(model.bridge, states, strict=True))
    attention, logits, seen = model.decoder.attention, [], []
    for t in range(target.shape[1]):
        query = attention.query_proj(hx[0])
        scores = attention.score_proj(torch.tanh(query[:, None] + attention.key_proj(outputs)))[..., 0]
        scores = scores.masked_fill(torch.arange(S) >= LENGTHS[:, None], -torch.inf)
        weights = torch.softmax(scores, -1)
        context = (weights[..., None] * outputs).sum(1)
        x = torch.cat([model.decoder.embedding(target[:, t]), context], -1)
        hx = cell(x, hx) if kind == "LSTM" else (cell(x, hx[0]),)
        logits.append(model.decoder.readout(torch.cat([hx[0], context], -1)))
        seen.append(weights)
    return torch.stack(logits, 1), torch.stack(seen, 1)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_with_attention_it_is_a_loop_of_torchs_cell(kind):
    model = ours(kind, attention=torch_ref.AdditiveAttention, bidirectional=True)
    source, target = tokens(1, SOURCE, B, S), tokens(2, TARGET, B, T)
    logits, weights = by_hand(model, kind, source, target)
    assert rms_error(model(source, target, LENGTHS), logits) < SAME
    assert rms_error(model.attention_weights(source, target, LENGTHS), weights) < SAME
    cotangent = draw(3, B, T, TARGET)
    shared = [p for name, p in model.named_parameters() if ".rnn." not in name]  # by_hand copies the layers
    found = [torch.autograd.grad((each * cotangent).sum(), shared) for each in (
        model(source, target, LENGTHS), by_hand(model, kind, source, target)[0]
    )]  # fmt: skip
    assert max(map(rms_error, *found)) < SAME


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_without_attention_it_is_two_layers_of_torch_one_after_the_other(kind):
    model = ours(kind, num_layers=2)
    encoder, decoder = (getattr(torch.nn, kind)(E, H, 2, batch_first=True).double() for _ in range(2))
    encoder.load_state_dict(model.encoder.rnn.state_dict())
    decoder.load_state_dict(model.decoder.rnn.state_dict())
    source, target = tokens(1, SOURCE, B, S), tokens(2, TARGET, B, T)
    _, final = encoder(model.encoder.embedding(source))
    output, _ = decoder(model.decoder.embedding(target), final)
    assert rms_error(model(source, target), model.decoder.readout(output)) < SAME


@pytest.mark.parametrize("options", [{}, {"attention": torch_ref.BilinearAttention, "bidirectional": True}])
def test_steps_give_what_all_at_once_gives(options):
    model = ours("LSTM", num_layers=2, **options)
    source, target = tokens(1, SOURCE, B, S), tokens(2, TARGET, B, T)
    state, logits = model.start(source, LENGTHS), []
    for token in target.T:
        step, state = model.step(token, state)
        logits.append(step)
    assert rms_error(torch.stack(logits, 1), model(source, target, LENGTHS)) < SAME


def test_an_empty_source_gives_a_context_of_zeros_and_finite_gradients():
    model = ours("GRU", attention=torch_ref.DotAttention)
    source, target = tokens(1, SOURCE, B, S), tokens(2, TARGET, B, T)
    lengths = torch.tensor([0, 5, 3])
    assert not model.attention_weights(source, target, lengths)[0].any()
    model(source, target, lengths).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_targets_are_shifted_by_the_token_that_begins():
    assert shift_right(torch.tensor([[3, 4, 2], [5, 2, 2]]), 1).tolist() == [[1, 3, 4], [1, 5, 2]]


def test_embeddings_are_dropped_by_a_given_mask():
    model = ours("GRU", dropout=0.5)
    source, target = tokens(1, SOURCE, B, S), tokens(2, TARGET, B, T)
    shapes = {"encoder.dropout": (B, S, E), "decoder.dropout": (B, T, E)}
    nothing = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    everything = {name: ~mask for name, mask in nothing.items()}
    blind = model(source, target, dropout_masks=nothing)
    assert torch.equal(blind, model((source + 1) % SOURCE, (target + 1) % TARGET, dropout_masks=nothing))
    doubled = model(source, target, dropout_masks=everything)
    with pytest.raises(ValueError, match=r"dropout_masks: expected \[\], got"):
        model.eval()(source, target, dropout_masks=nothing)
    for embedding in (model.encoder.embedding, model.decoder.embedding):
        embedding.weight.data *= 2
    assert rms_error(model(source, target), doubled) < SAME
