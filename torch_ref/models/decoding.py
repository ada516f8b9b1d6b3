"""Decoding, one row and one hypothesis at a time: from a model that predicts the next token to whole sequences.

A model continues a state: `model.start(*inputs)` returns it for a batch, and ``logits, state = model.step(tokens,
state)`` takes the tokens before, [B], and says what may follow, [B, V].
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Decoded(NamedTuple):
    """Sequences; of a beam search `width` for every row, the best first."""

    tokens: Tensor  # [B, L] or [B, W, L]: without bos, and filled with eos behind the end
    lengths: Tensor  # [B] or [B, W]: tokens that were chosen, eos included; 0 where there is no sequence
    log_probs: Tensor  # [B] or [B, W]: log of the probability that the model gives to these tokens


class Hypothesis(NamedTuple):
    """The beginning of a sequence, and the model's state behind it."""

    tokens: list[int]
    log_prob: float
    ended: bool
    state: Any

    def score(self, length_penalty: float) -> float:
        """Return ``log P(y) / ((5 + |y|) / 6)^length_penalty``: Wu et al. (2016), arXiv 1609.08144, equation 14."""
        return self.log_prob / ((5 + len(self.tokens)) / 6) ** length_penalty


def greedy(model: Any, *inputs: Any, bos: int, eos: int | None, max_length: int) -> Decoded:
    """Return the sequences that always go on with the most probable token.

    They begin behind `bos` and end with `eos`, or at `max_length` tokens.
    """

    def decode(row: tuple[Any, ...]) -> list[Hypothesis]:
        return [_follow(model, row, lambda log_p: log_p.argmax(), bos, eos, max_length)]

    return _squeezed(_decode_rows(model, decode, inputs, eos, max_length))


def sample(
    model: Any,
    generator: torch.Generator,
    *inputs: Any,
    bos: int,
    eos: int | None,
    max_length: int,
    temperature: float = 1.0,
) -> Decoded:
    """Return sequences whose every token is drawn from ``softmax(logits / temperature)``."""

    def draw(log_p: Tensor) -> Tensor:
        return torch.multinomial(torch.softmax(log_p / temperature, -1), 1, generator=generator)[0]

    def decode(row: tuple[Any, ...]) -> list[Hypothesis]:
        return [_follow(model, row, draw, bos, eos, max_length)]

    return _squeezed(_decode_rows(model, decode, inputs, eos, max_length))


def beam_search(
    model: Any,
    *inputs: Any,
    bos: int,
    eos: int | None,
    max_length: int,
    width: int,
    length_penalty: float = 0.0,
) -> Decoded:
    """Return the `width` best sequences that a beam search finds, ranked by `Hypothesis.score`.

    In each step every hypothesis is extended by every token, and the `width` best of all stay. One that has ended
    stays as it is.
    """

    def decode(row: tuple[Any, ...]) -> list[Hypothesis]:
        beam = [Hypothesis([], 0.0, False, model.start(*row))]
        for _ in range(max_length):
            candidates: list[Hypothesis] = []
            for hypothesis in beam:
                candidates += [hypothesis] if hypothesis.ended else _extensions(model, hypothesis, bos, eos)
            # The sort is stable: of equal scores the better beginning comes first, then the lower token.
            beam = sorted(candidates, key=lambda h: -h.score(length_penalty))[:width]
        return beam + [Hypothesis([], -torch.inf, True, None)] * (width - len(beam))

    return _decode_rows(model, decode, inputs, eos, max_length)


def _extensions(model: Any, hypothesis: Hypothesis, bos: int, eos: int | None) -> list[Hypothesis]:
    log_p, state = _predict(model, hypothesis, bos)
    return [
        Hypothesis([*hypothesis.tokens, token], hypothesis.log_prob + gained, token == eos, state)
        for token, gained in enumerate(log_p.tolist())
        if gained > -torch.inf
    ]


def _follow(
    model: Any, row: tuple[Any, ...], choose: Any, bos: int, eos: int | None, max_length: int
) -> Hypothesis:
    hypothesis = Hypothesis([], 0.0, False, model.start(*row))
    while len(hypothesis.tokens) < max_length and not hypothesis.ended:
        log_p, state = _predict(model, hypothesis, bos)
        token = int(choose(log_p))
        log_prob = hypothesis.log_prob + float(log_p[token])
        hypothesis = Hypothesis([*hypothesis.tokens, token], log_prob, token == eos, state)
    return hypothesis


def _predict(model: Any, hypothesis: Hypothesis, bos: int) -> tuple[Tensor, Any]:
    """Return the log-probabilities [V] of the token that follows, and the state that knows the last one."""
    last = torch.tensor([hypothesis.tokens[-1] if hypothesis.tokens else bos])
    logits, state = model.step(last, hypothesis.state)
    return torch.log_softmax(logits[0], -1), state


def _decode_rows(
    model: Any, decode: Any, inputs: tuple[Any, ...], eos: int | None, max_length: int
) -> Decoded:
    """Decode every row of a batch on its own, and nothing being dropped."""
    training = model.training
    model.eval()
    with torch.no_grad():
        rows = [
            decode(tuple(None if array is None else array[row : row + 1] for array in inputs))
            for row in range(len(inputs[0]))
        ]
    model.train(training)
    filler = 0 if eos is None else eos
    return Decoded(
        torch.tensor([[h.tokens + [filler] * (max_length - len(h.tokens)) for h in row] for row in rows]),
        torch.tensor([[len(h.tokens) for h in row] for row in rows]),
        torch.tensor([[h.log_prob for h in row] for row in rows], dtype=torch.float64),
    )


def _squeezed(decoded: Decoded) -> Decoded:
    """Return the one hypothesis of every row."""
    return Decoded(*(array[:, 0] for array in decoded))
