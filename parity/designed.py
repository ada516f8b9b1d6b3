"""The designed probes of layers, cells, attention and models; `parity.probe` says why they are as they are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.gates import Array
from parity.probe import SCALES, Probe

# Pairwise different, so that no two axes can be taken for one another.
BATCH, STEPS, FEATURES, HIDDEN, PROJECTED, PREDICTED = 5, 9, 3, 7, 6, 4
KEYS, HEADS, EMBEDDED = 8, 2, 12
SOURCE_WORDS, TARGET_WORDS = 11, 13
IMAGE, CONVOLVED = (10, 14), (4, 6)
DROPOUT = 0.4
TICKERS = ("AAPL", "GOOG", "IBM", "MSFT")
LOOK_BACK, WINDOWS_EACH = 20, 7


@dataclass(frozen=True)
class LayerCall:
    """What a recurrent layer is called with, and the options of its constructor that decide about shapes.

    states: 2 for an LSTM (h and c), else 1. ragged: rows of unequal lengths, with garbage in the padding.
    resets: new sequences begin inside the rows. masks: dropout masks are injected.
    """

    states: int = 1
    layers: int = 1
    directions: int = 1
    projected: int = 0
    batch_first: bool = False
    batched: bool = True
    hx: bool = True
    ragged: bool = False
    resets: bool = False
    masks: bool = False

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale; the smallest has NaN in the padding and an empty row.

        A projected state is not bounded by a tanh: with 4 times the weights it explodes, with 2 it saturates.
        """
        scales = [min(scale, 2.0) if self.projected else scale for scale in SCALES[probe_set]]
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(scales)]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        x = normal(rng, (BATCH, STEPS, FEATURES))
        kwargs: dict[str, Any] = {}
        zeros: dict[str, Any] = {}
        if self.ragged:
            harsh = scale < 1
            lengths = rng.permutation(np.array([STEPS, 0 if harsh else 1, 6, 4, 6], np.int32))
            empty = np.arange(STEPS)[None, :] >= lengths[:, None]
            x[empty] = np.nan if harsh else 100 * x[empty]
            kwargs["lengths"] = lengths
            padding = self._layout(empty[:, :, None])
            zeros = {"output": padding, "grad(input)": padding}
        if self.resets:
            resets = rng.random((BATCH, STEPS)) < 0.3
            resets[0, 0] = False  # with a mark at the start of every row, no initial state would count
            kwargs["resets"] = self._layout(resets)
        if self.masks:
            kept = rng.random((self.layers - 1, BATCH, STEPS, self._output_size)) >= DROPOUT
            kwargs["dropout_masks"] = [self._layout(mask) for mask in kept]
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(self._layout(x) if self.batched else x[0], self._hx(rng)),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=("input", "hx"),
            outputs=("output", "h_n", "c_n")[: 1 + self.states],
            zeros=zeros,
            batch_axes={"output": 0 if self.batch_first else 1, "h_n": 1, "c_n": 1} if self.batched else {},
        )

    @property
    def _output_size(self) -> int:
        return self.directions * (self.projected or HIDDEN)

    def _hx(self, rng: np.random.Generator) -> Any:
        if not self.hx:
            return None
        sizes = (self.projected or HIDDEN, HIDDEN)[: self.states]
        rows = (BATCH,) if self.batched else ()
        states = tuple(normal(rng, (self.layers * self.directions, *rows, size), 0.5) for size in sizes)
        return states if self.states == 2 else states[0]

    def _layout(self, batch_major: Array) -> Array:
        return batch_major if self.batch_first else np.swapaxes(batch_major, 0, 1)


@dataclass(frozen=True)
class CellCall:
    """One step of a cell: an input and a state of rows that differ."""

    states: int = 1

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale."""
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(SCALES[probe_set])]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        states = tuple(normal(rng, (BATCH, HIDDEN), 0.5) for _ in range(self.states))
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(normal(rng, (BATCH, FEATURES)), states if self.states == 2 else states[0]),
            weight_scale=scale,
            arg_names=("input", "hx"),
            outputs=("h_1", "c_1")[: self.states],
            batch_axes={"h_1": 0, "c_1": 0},
        )


@dataclass(frozen=True)
class AttentionCall:
    """Queries that look at keys of `kdim` features and values of `vdim`.

    padding: keys of unequal number, boolean; else a floating mask is added to scores. masks: dropout's is injected.
    """

    kdim: int = EMBEDDED
    vdim: int = EMBEDDED
    batch_first: bool = True
    padding: bool = True
    masks: bool = False

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale."""
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(SCALES[probe_set])]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        sizes = (STEPS, EMBEDDED), (KEYS, self.kdim), (KEYS, self.vdim)
        arrays = [normal(rng, (BATCH, *size)) for size in sizes]
        kwargs: dict[str, Any] = {}
        if self.padding:
            kept = rng.permutation(np.array([KEYS, 1, 4, 3, 4]))
            kwargs["key_padding_mask"] = np.arange(KEYS)[None, :] >= kept[:, None]
            hidden = rng.random((STEPS, KEYS)) < 0.3
            hidden[:, 0] = False  # the one key that every row has
            kwargs["attn_mask"] = hidden
        else:
            kwargs["attn_mask"] = normal(rng, (BATCH * HEADS, STEPS, KEYS))
        if self.masks:
            kwargs["dropout_mask"] = rng.random((BATCH, HEADS, STEPS, KEYS)) >= DROPOUT
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=tuple(a if self.batch_first else np.swapaxes(a, 0, 1) for a in arrays),
            kwargs=kwargs,
            weight_scale=scale,
            arg_names=("query", "key", "value"),
            outputs=("output", "weights"),
            batch_axes={"output": 0 if self.batch_first else 1, "weights": 0},
        )


@dataclass(frozen=True)
class Seq2SeqCall:
    """Sources of unequal lengths, with other tokens in the padding, and the targets that are to be predicted.

    The smallest scale has an empty source. masks: dropout masks of the embeddings are injected.
    """

    masks: bool = False

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale."""
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(SCALES[probe_set])]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        source, target = (
            rng.integers(SOURCE_WORDS, size=(BATCH, KEYS)),
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
class CaptionerCall:
    """Images, channels first, and the captions that are to be predicted. masks: those of dropout are injected."""

    masks: bool = False

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale."""
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(SCALES[probe_set])]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        images, target = (
            normal(rng, (BATCH, FEATURES, *IMAGE)),
            rng.integers(TARGET_WORDS, size=(BATCH, STEPS)),
        )
        kept = {"dropout_mask": rng.random((BATCH, STEPS, EMBEDDED)) >= DROPOUT} if self.masks else {}
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(images, target),
            kwargs=kept,
            weight_scale=scale,
            arg_names=("images", "target"),
            outputs=("logits",),
            batch_axes={"logits": 0},
        )


@dataclass(frozen=True)
class ForecasterCall:
    """Windows of a series, drawn at random or (`stocks`) real closing prices of several companies."""

    states: int = 1
    stocks: bool = False

    def probes(self, probe_set: str, seed: int) -> list[Probe]:
        """One probe per weight scale; on the long windows of real prices none that is chaotic.

        A tanh network with 4 times the weights amplifies a rounding error to 6 % within 19 steps.
        """
        scales = [scale for scale in SCALES[probe_set] if scale <= 1 or not self.stocks]
        return [self._probe(scale, [seed, number]) for number, scale in enumerate(scales)]

    def _probe(self, scale: float, seed: list[int]) -> Probe:
        rng = np.random.default_rng(seed)
        x = stock_windows() if self.stocks else normal(rng, (BATCH, STEPS, FEATURES))
        return Probe(
            name=f"{scale:g}x",
            seed=int(rng.integers(2**31)),
            args=(x,),
            weight_scale=scale,
            arg_names=("x",),
            outputs=("prediction", "h_n", "c_n")[: 1 + self.states],
            batch_axes={"prediction": 0, "h_n": 1, "c_n": 1},
        )


def stock_windows() -> Array:
    """Return windows [28, 19, 1] of scaled daily closes, evenly spread over the test part of each series.

    The data are those of `bokeh_sampledata` (Quandl WIKI, public domain).
    """
    from jaxrnn.data import forecast_dataset

    stocks = importlib.import_module("bokeh_sampledata.stocks")
    windows = []
    for ticker in TICKERS:
        closes = np.asarray(getattr(stocks, ticker)["adj_close"], np.float64)
        inputs = forecast_dataset(closes, LOOK_BACK, test_fraction=0.2).test.inputs
        windows.append(inputs[np.linspace(0, len(inputs) - 1, WINDOWS_EACH).astype(int)])
    return np.concatenate(windows)


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """Draw normal numbers of this standard deviation, in float32."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)
