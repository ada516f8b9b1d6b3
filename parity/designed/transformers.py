"""The designed probes of Transformers, and of a translator made of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import (
    BATCH,
    DROPOUT,
    EMBEDDED,
    HEADS,
    KEYS,
    STEPS,
    TARGET_WORDS,
    WIDE,
    WORDS,
    normal,
)
from parity.gates import Array
from parity.probe import Probe


@dataclass(frozen=True)
class TransformerCall(Call):
    """A source of KEYS steps and a target of STEPS, the target's mask causal.

    layers: of encoder and decoder. padding: keys of unequal number, and boolean masks; else a floating mask for
    every head is added to the source's scores. masks: dropout's are injected. The smallest scale has a source of
    which every key is hidden.
    """

    layers: tuple[int, int]
    batch_first: bool = True
    padding: bool = True
    masks: bool = False

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        src, tgt = normal(rng, (BATCH, KEYS, EMBEDDED)), normal(rng, (BATCH, STEPS, EMBEDDED))
        kwargs: dict[str, Any] = {"tgt_mask": causal(STEPS)}
        zeros: dict[str, Any] = {}
        if self.padding:
            source, target = padding(rng, KEYS, empty=scale < 1), padding(rng, STEPS)
            kwargs["src_key_padding_mask"] = kwargs["memory_key_padding_mask"] = source
            kwargs["tgt_key_padding_mask"] = target
            kwargs["src_mask"], kwargs["memory_mask"] = hidden(rng, KEYS, KEYS), hidden(rng, STEPS, KEYS)
            zeros["grad(src)"] = self._layout(source[:, :, None])
        else:
            kwargs["src_mask"] = normal(rng, (BATCH * HEADS, KEYS, KEYS))
        if self.masks:
            kwargs["dropout_masks"] = {name: kept(rng, shape) for name, shape in dropouts(*self.layers)}
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(self._layout(src), self._layout(tgt)),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=("src", "tgt"),
            outputs=("output",),
            zeros=zeros,
            batch_axes={"output": 0 if self.batch_first else 1},
        )

    def _layout(self, batch_major: Array) -> Array:
        return batch_major if self.batch_first else np.swapaxes(batch_major, 0, 1)


@dataclass(frozen=True)
class TranslatorCall(Call):
    """Sources of unequal lengths, with tokens behind them that do not exist, targets, and dropout's masks.

    The smallest scale has an empty source.
    """

    layers: tuple[int, int]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        behind = padding(rng, KEYS, empty=scale < 1)
        source = np.where(behind, 100 * WORDS, rng.integers(0, WORDS, behind.shape))
        masks = {
            "source_dropout": kept(rng, (BATCH, KEYS, EMBEDDED)),
            "target_dropout": kept(rng, (BATCH, STEPS, EMBEDDED)),
        }
        masks |= {f"transformer.{name}": kept(rng, shape) for name, shape in dropouts(*self.layers)}
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(source, rng.integers(0, TARGET_WORDS, (BATCH, STEPS))),
            kwargs={"lengths": KEYS - behind.sum(1), "dropout_masks": masks},
            weight_scale=scale,
            arg_names=("source", "target"),
            outputs=("logits",),
            batch_axes={"logits": 0},
        )


def causal(steps: int) -> Array:
    """Return which keys come after a query, [T, T]."""
    return np.triu(np.ones((steps, steps), bool), 1)


def padding(rng: np.random.Generator, steps: int, *, empty: bool = False) -> Array:
    """Return which keys are behind the end of their row, [B, T]: of one row all, or all but one."""
    lengths = rng.permutation(np.array([steps, 0 if empty else 1, 4, 3, 4]))
    return np.arange(steps)[None, :] >= lengths[:, None]


def hidden(rng: np.random.Generator, queries: int, keys: int) -> Array:
    """Return which keys queries must not look at; never the first, which every row has."""
    mask = rng.random((queries, keys)) < 0.3
    mask[:, 0] = False
    return mask


def kept(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return what a dropout keeps."""
    return rng.random(shape) >= DROPOUT


def dropouts(encoders: int, decoders: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name every dropout of a Transformer, batch first, with the shape of what it is for."""
    for stack, layers, steps in (("encoder", encoders, KEYS), ("decoder", decoders, STEPS)):
        for layer in (f"{stack}.layers.{number}" for number in range(layers)):
            yield f"{layer}.self_attn.dropout", (BATCH, HEADS, steps, steps)
            yield f"{layer}.dropout", (BATCH, steps, WIDE)
            for number in (1, 2, 3)[: 2 if stack == "encoder" else 3]:
                yield f"{layer}.dropout{number}", (BATCH, steps, EMBEDDED)
            if stack == "decoder":
                yield f"{layer}.multihead_attn.dropout", (BATCH, HEADS, steps, KEYS)
