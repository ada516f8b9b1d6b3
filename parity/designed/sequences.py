"""The designed probes of classifiers, taggers and language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import BATCH, FEATURES, HIDDEN, STEPS, WORD_SIZE, WORDS, masks
from parity.gates import Array
from parity.probe import Probe


@dataclass(frozen=True)
class SequencesCall(Call):
    """Ragged sequences of features, or of `tokens`, which a model reads to their end or labels step by step.

    In the padding is garbage, beside the smallest weights NaN. directions: 2 for a bidirectional layer. masks:
    dropout masks are injected.
    """

    tokens: bool = False
    directions: int = 1
    masks: bool = False

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        lengths = rng.permutation(np.array([STEPS, 1, 6, 4, 6], np.int32))
        empty = np.arange(STEPS)[None, :] >= lengths[:, None]
        kwargs: dict[str, Any] = {"lengths": lengths}
        if self.masks:
            sizes = {"embedding_dropout": (STEPS, WORD_SIZE), "state_dropout": (self.directions * HIDDEN,)}
            kwargs["dropout_masks"] = masks(rng, sizes)
        inputs, name = (words(rng), "tokens") if self.tokens else (_features(rng, empty, scale), "x")
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(inputs,),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=(name,),
            outputs=("logits",),
            zeros={} if self.tokens else {"grad(x)": empty[:, :, None]},
            batch_axes={"logits": 0},
        )


@dataclass(frozen=True)
class TextCall(Call):
    """A text that a language model reads from a given state; states: 2 for an LSTM."""

    states: int = 1
    layers: int = 2
    masks: bool = False

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        hx = tuple(
            (0.5 * rng.standard_normal((self.layers, BATCH, HIDDEN))).astype(np.float32)
            for _ in range(self.states)
        )
        kwargs: dict[str, Any] = {}
        if self.masks:
            given = masks(rng, {"embedding_dropout": (STEPS, WORD_SIZE), "output_dropout": (STEPS, HIDDEN)})
            between = masks(rng, {str(layer): (STEPS, HIDDEN) for layer in range(self.layers - 1)})
            kwargs["dropout_masks"] = given | {"rnn": list(between.values())}
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(words(rng), hx if self.states == 2 else hx[0]),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=("tokens", "hx"),
            outputs=("logits", "h_n", "c_n")[: 1 + self.states],
            batch_axes={"logits": 0, "h_n": 1, "c_n": 1},
        )


def words(rng: np.random.Generator) -> Array:
    """Draw tokens [B, T]; the first and the last word of the vocabulary are among them."""
    tokens = rng.integers(0, WORDS, (BATCH, STEPS), np.int32)
    tokens[0, :2] = 0, WORDS - 1
    return tokens


def _features(rng: np.random.Generator, empty: Array, scale: float) -> Array:
    x = rng.standard_normal((BATCH, STEPS, FEATURES)).astype(np.float32)
    x[empty] = np.nan if scale < 1 else 100 * x[empty]
    return x
