"""A beam search finds what trying all sequences finds, and its probe holds what its mistakes need."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.faults.functions import search  # noqa: E402
from parity.faults.substitution import exchanging  # noqa: E402
from parity.selftest.subject import subject  # noqa: E402
from parity.subjects.torch_models import BeamSearch  # noqa: E402

pytestmark = pytest.mark.torch


def test_the_probe_holds_sequences_that_end_and_some_that_do_not():
    (evidence,) = subject("beam_search").evidence
    ended = (evidence.oracle["output.0"] == 0).any(axis=-1)
    assert ended.any()
    assert not ended.all()


def test_nothing_but_the_end_follows_the_end():
    (evidence,) = subject("beam_search").evidence
    tokens = evidence.oracle["output.0"]
    after = np.cumsum(tokens == 0, axis=-1) > 0
    assert not tokens[after].any()


def score(model, h, memory, tokens):
    """Return the score of one sequence, token by token."""
    total, length, coverage, last = 0.0, 0, 0.0, torch.ones(1, dtype=torch.long)
    nothing = torch.zeros(memory.shape[:2], dtype=torch.bool)
    for token in tokens:
        h = model.decoder(model.embedding(last), h)
        context, weights = model.attention(h, memory, nothing)
        total = total + model.readout(torch.cat([h, context], -1)).log_softmax(-1)[0, token]
        length, coverage, last = length + 1, coverage + weights, torch.tensor([token])
        if token == 0:
            break
    return float(total / ((5 + length) / 6) ** 0.6 + 0.2 * coverage.clamp(max=1.0).log().sum())


def test_with_beams_for_all_sequences_the_best_of_all_is_found():
    torch.manual_seed(3)
    vocabulary, steps = 3, 3
    model = BeamSearch(vocabulary, 2, 4, 5, vocabulary**steps, steps).double().requires_grad_(False)
    h, memory = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 6, 4, dtype=torch.float64)
    scored = {}
    for tokens in itertools.product(range(vocabulary), repeat=steps):
        ended = [at for at, token in enumerate(tokens) if token == 0]
        if not ended or not any(tokens[ended[0] :]):
            scored[tokens] = score(model, h, memory, tokens)
    best = max(scored, key=scored.get)
    found, scores = model(h, memory, torch.zeros(1, 6, dtype=torch.bool))
    assert tuple(found[0, 0].tolist()) == best
    assert float(scores[0, 0]) == pytest.approx(scored[best], rel=1e-12)


@pytest.mark.parametrize("fault", search.FAULTS, ids=lambda fault: fault.id)
def test_other_uses_of_the_same_functions_are_left_alone(fault):
    x = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64)

    def uses():
        return [
            x**2,
            x.clamp(-1.0, 1.0),
            x.clamp(max=0.5),
            torch.where(x > 0, x, 0.0),
            torch.where(x > 0, x, -x),
        ]

    with exchanging(fault):
        found = uses()
    for one, other in zip(found, uses(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
