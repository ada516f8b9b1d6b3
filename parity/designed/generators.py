"""The designed probes of models that generate: translators with attention, and captioners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import (
    BATCH,
    DROPOUT,
    EMBEDDED,
    FEATURES,
    IMAGE,
    KEYS,
    STEPS,
    TARGET_WORDS,
    WORDS,
    normal,
)
from parity.probe import SCALES, Probe


@dataclass(frozen=True)
class Seq2SeqCall(Call):
    """Sources of unequal lengths, with other tokens in the padding, and the targets that are to be predicted.

    The smallest scale has an empty source. masks: dropout masks of the embeddings are injected. additive: so is the
    score of attention.
    """

    masks: bool = False
    additive: bool = False

    def _scales(self, probe_set: str) -> list[float]:
        """Keep an additive score's weights where its tanh is curved (0.3), rather than all but linear (0.1).

        There the gradient of the query's projection is a small difference of large terms: torch's own, in float32,
        is off by 5 % and, from some seeds, by 40 %; at 0.3 by 0.1 %.
        """
        return [max(scale, 0.3) if self.additive else scale for scale in SCALES[probe_set]]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        source, target = (
            rng.integers(WORDS, size=(BATCH, KEYS)),
            rng.integers(TARGET_WORDS, size=(BATCH, STEPS)),
        )
        lengths = rng.permutation(np.array([KEYS, 0 if scale < 1 else 1, 6, 4, 6], np.int32))
        kwargs: dict[str, Any] = {"lengths": lengths}
        if self.masks:
            shapes = {"encoder.dropout": source.shape, "decoder.dropout": target.shape}
            kept = {name: rng.random((*shape, FEATURES)) >= DROPOUT for name, shape in shapes.items()}
            kwargs["dropout_masks"] = kept
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(source, target),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=("source", "target"),
            outputs=("logits",),
            batch_axes={"logits": 0},
        )


@dataclass(frozen=True)
class CaptionerCall(Call):
    """Images, channels first, and the captions that are to be predicted. masks: those of dropout are injected."""

    masks: bool = False

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        images, target = (
            normal(rng, (BATCH, FEATURES, *IMAGE)),
            rng.integers(TARGET_WORDS, size=(BATCH, STEPS)),
        )
        kept = rng.random((BATCH, STEPS, EMBEDDED)) >= DROPOUT
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(images, target),
            kwargs={"dropout_masks": {"decoder.dropout": kept}} if self.masks else {},
            weight_scale=scale,
            arg_names=("images", "target"),
            outputs=("logits",),
            batch_axes={"logits": 0},
        )
