"""The designed probes of recurrent layers and cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import BATCH, DROPOUT, FEATURES, HIDDEN, STEPS, normal
from parity.gates import Array
from parity.probe import SCALES, Probe


@dataclass(frozen=True)
class LayerCall(Call):
    """What a recurrent layer is called with, and the options of its constructor that decide about shapes.

    states: 2 for an LSTM (h and c), else 1. ragged: rows of unequal lengths, with garbage in the padding; the
    smallest scale has NaN there, and an empty row.
    resets: new sequences begin inside the rows. masks: dropout masks are injected. hidden: hidden features.
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
    hidden: int = HIDDEN

    def _scales(self, probe_set: str) -> list[float]:
        """Keep a projected state, not bounded by a tanh, where it saturates (2), rather than explodes (4)."""
        return [min(scale, 2.0) if self.projected else scale for scale in SCALES[probe_set]]

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
        return self.directions * (self.projected or self.hidden)

    def _hx(self, rng: np.random.Generator) -> Any:
        if not self.hx:
            return None
        sizes = (self.projected or self.hidden, self.hidden)[: self.states]
        rows = (BATCH,) if self.batched else ()
        states = tuple(normal(rng, (self.layers * self.directions, *rows, size), 0.5) for size in sizes)
        return states if self.states == 2 else states[0]

    def _layout(self, batch_major: Array) -> Array:
        return batch_major if self.batch_first else np.swapaxes(batch_major, 0, 1)


@dataclass(frozen=True)
class CellCall(Call):
    """One step of a cell: an input and a state of rows that differ."""

    states: int = 1

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
