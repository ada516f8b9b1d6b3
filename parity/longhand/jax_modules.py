"""Spelled-out networks in the place of a Flax model's recurrent layers and cells."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from parity.longhand import surface
from parity.longhand.recurrent import Network, Recipe


def plant(model: nnx.Module, recipe_of: Callable[[str, Network], Recipe]) -> nnx.Module:
    """Return a copy of a model whose recurrent layers and cells compute by recipes; its weights stay.

    `recipe_of(name, network)` returns the recipe of one of them.
    """
    model = nnx.clone(model)
    for path, part in list(nnx.iter_modules(model)):
        name = surface.recurrent_name(part)
        if name is not None:
            part.recipe = recipe_of(".".join(map(str, path)), surface.network_of(part))  # type: ignore[attr-defined]
            part.__class__ = _spelled_out(type(part), name in surface.CELLS)
    return model


@functools.cache
def _spelled_out(kind: type[nnx.Module], is_cell: bool) -> type[nnx.Module]:
    """Return a subclass that computes by its recipe; cached, so that copies are of the same class."""
    call = _call_cell if is_cell else _call_layer
    return type(f"SpelledOut{kind.__name__}", (kind,), {"__call__": call, "__module__": __name__})


def _call_layer(
    self: Any,
    input: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
    resets: Any = None,
    dropout_masks: Any = None,
) -> tuple[Any, Any]:
    return surface.call_layer(self, self.recipe, input, hx, lengths, resets, dropout_masks)


def _call_cell(self: Any, input: Any, hx: Any = None) -> Any:
    return surface.call_cell(self, self.recipe, input, hx)
