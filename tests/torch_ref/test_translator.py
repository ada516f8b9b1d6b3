"""The mirror's translator is `torch.nn.Transformer` between embeddings with positions and a readout."""

import math

import pytest

from tests.torch_ref.common import SAME, draw, fill

torch = pytest.importorskip("torch")

from torch_ref.models import TransformerTranslator, sinusoidal_positions  # noqa: E402

B, S, T, E = 3, 5, 4, 6
SIZES = {"d_model": E, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 2, "dim_feedforward": 7}
LENGTHS = torch.tensor([S, 0, 3])


def made(dropout=0.0):
    return fill(TransformerTranslator(7, 9, **SIZES, dropout=dropout))


def tokens():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(n, (B, steps), generator=generator) for n, steps in ((7, S), (9, T))]


@pytest.mark.parametrize("features", [6, 5, 1])
def test_positions_are_the_sines_and_cosines_of_the_paper(features):
    found = sinusoidal_positions(4, features, torch.float64)
    for t in range(4):
        for i in range((features + 1) // 2):
            angle = t / 10000 ** (2 * i / features)
            pair = [math.sin(angle), math.cos(angle)][: features - 2 * i]
            assert found[t, 2 * i : 2 * i + 2].tolist() == pytest.approx(pair, abs=1e-15)


def test_logits_and_gradients_are_those_of_torchs_transformer():
    model, (source, target) = made(), tokens()
    theirs = torch.nn.Transformer(E, 2, 1, 2, 7, dropout=0.0, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(model.transformer.state_dict())
    behind = torch.arange(S) >= LENGTHS[:, None]
    source = source.masked_fill(behind, -1)  # no token at all
    x, y = (
        math.sqrt(E) * embedding(numbers) + sinusoidal_positions(numbers.shape[1], E, torch.float64)
        for embedding, numbers in (
            (model.source_embedding, source.masked_fill(behind, 0)),
            (model.target_embedding, target),
        )
    )
    masks = {"src_key_padding_mask": behind, "memory_key_padding_mask": behind}
    expected = model.fc(theirs(x, y, tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1), **masks))
    found = model(source, target, LENGTHS)
    shared = [model.source_embedding.weight, model.target_embedding.weight, *model.fc.parameters()]
    gradients = [
        torch.autograd.grad(logits, [*shared, *transformer.parameters()], draw(90, *logits.shape), True)
        for logits, transformer in ((found, model.transformer), (expected, theirs))
    ]
    for a, b in zip([found, *gradients[0]], [expected, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=SAME, atol=10 * SAME)


def test_steps_say_what_the_whole_target_says():
    model, (source, target) = made().eval(), tokens()
    whole, state = model(source, target, LENGTHS), model.start(source, LENGTHS)
    for t in range(T):
        logits, state = model.step(target[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], rtol=SAME, atol=10 * SAME)


def test_lengths_and_masks_that_do_not_fit_are_refused():
    model, (source, target) = made(dropout=0.5), tokens()
    with pytest.raises(ValueError, match="lengths"):
        model(source, target, torch.tensor([1, 2, S + 1]))
    with pytest.raises(
        ValueError, match=r"dropout_masks: expected \['source_dropout', 'target_dropout', 'trans"
    ):
        model(source, target, dropout_masks={})
