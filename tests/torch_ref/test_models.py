"""The mirrors of classifiers, taggers and language models are those networks on torch's own layers too."""

import pytest

torch = pytest.importorskip("torch")

import torch_ref  # noqa: E402
from tests.torch_ref.common import B, H, I, T, assert_same, draw, fill  # noqa: E402
from torch_ref.models import (  # noqa: E402
    Classifier,
    GaussianForecaster,
    LanguageModel,
    Tagger,
    TextClassifier,
)

pytestmark = pytest.mark.torch
V, E, C = 7, 5, 2
TOKENS = torch.arange(B * T).reshape(B, T) % V
LENGTHS = torch.tensor([T, 2, 3])


def numbers(model, *args, **options):
    """Return results and the gradients of all parameters."""
    results = model(*args, **options)
    results = [results] if isinstance(results, torch.Tensor) else list(results)[:2]
    results = [r for r in results if isinstance(r, torch.Tensor)]
    total = sum((r * draw(90 + n, *r.shape)).sum() for n, r in enumerate(results))
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()))
    return dict(enumerate(results)) | dict(zip(named, gradients, strict=True))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    ("model", "sizes", "inputs", "options"),
    [
        (Classifier, (I, H, C, 2), draw(7, B, T, I), {"bidirectional": True}),
        (TextClassifier, (V, E, H, C), TOKENS, {"bidirectional": True}),
        (Tagger, (I, H, C, 2), draw(7, B, T, I), {"bidirectional": True}),
        (LanguageModel, (V, E, H, 2), TOKENS, {}),
        (GaussianForecaster, (I, H, 2, 3), draw(7, B, T, I), {}),
    ],
)
def test_they_are_the_same_models_on_our_layers_and_on_torchs(kind, model, sizes, inputs, options):
    theirs = fill(model(getattr(torch.nn, kind), *sizes, **options))
    ours = model(getattr(torch_ref, kind), *sizes, **options).double()
    ours.load_state_dict(theirs.state_dict())
    assert_same(numbers(ours, inputs), numbers(theirs, inputs))


def test_a_ragged_row_is_classified_as_it_is_alone():
    model = fill(Classifier(torch_ref.GRU, I, H, C, bidirectional=True))
    x = draw(7, B, T, I)
    found = model(x, LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert torch.allclose(found[row], model(x[row : row + 1, :length])[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "PeepholeLSTM", "MinGRU", "MinLSTM"])
def test_a_language_model_says_the_same_token_by_token(kind):
    model = fill(LanguageModel(getattr(torch_ref, kind), V, E, H, 2))
    state, steps = model.start(B), []
    for column in TOKENS.T:
        logits, state = model.step(column, state)
        steps.append(logits)
    assert torch.allclose(torch.stack(steps, 1), model(TOKENS)[0], rtol=1e-12, atol=1e-13)


def test_a_mask_keeps_and_scales_what_it_says():
    model = fill(TextClassifier(torch_ref.GRU, V, E, H, C, dropout=0.25)).train()
    nothing = {
        "embedding_dropout": torch.ones(B, T, E, dtype=bool),
        "state_dropout": torch.zeros(B, H, dtype=bool),
    }
    assert torch.equal(model(TOKENS, dropout_masks=nothing), model.fc.bias.expand(B, C))
    with pytest.raises(ValueError, match=r"expected \[\], got"):
        model.eval()(TOKENS, dropout_masks=nothing)


def test_a_variance_is_never_below_its_minimum():
    model = fill(GaussianForecaster(torch_ref.GRU, I, H, minimum_variance=0.5))
    with torch.no_grad():
        model.spread.bias.fill_(-800)
    assert (model(draw(7, B, T, I))[1] == 0.5).all()
