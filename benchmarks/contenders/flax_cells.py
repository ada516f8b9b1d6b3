"""The recurrent cells that flax.nnx and flax.linen both have, under the same names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.contenders.contender import UnsupportedError

_NAMES = {
    "rnn": ("SimpleCell",),
    "relu": ("SimpleCell",),
    "gru": ("GRUCell",),
    "lstm": ("LSTMCell", "OptimizedLSTMCell"),
}


def cells_of(flax: ModuleType, kind: str) -> dict[str, Callable[..., Any]]:
    """Return the cells of a kind of network by name."""
    if kind not in _NAMES:
        raise UnsupportedError(f"flax has no {kind} cell")
    options = {"activation_fn": flax.relu} if kind == "relu" else {}
    return {name: partial(getattr(flax, name), **options) for name in _NAMES[kind]}
