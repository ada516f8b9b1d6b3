"""The designed probes of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.designed.call import Call
from parity.designed.sizes import BATCH, DROPOUT, EMBEDDED, HEADS, KEYS, STEPS, normal
from parity.probe import Probe


@dataclass(frozen=True)
class AttentionCall(Call):
    """Queries that look at keys of `kdim` features and values of `vdim`.

    padding: keys of unequal number, boolean; else a floating mask is added to scores. masks: dropout's is injected.
    """

    kdim: int = EMBEDDED
    vdim: int = EMBEDDED
    batch_first: bool = True
    padding: bool = True
    masks: bool = False

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
