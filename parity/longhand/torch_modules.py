"""Spelled-out networks in the place of a PyTorch model's recurrent layers and cells."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import rnn

from parity.longhand import surface
from parity.longhand.recurrent import Network, Recipe


def plant(model: nn.Module, recipe_of: Callable[[str, Network], Recipe]) -> nn.Module:
    """Return a copy of a model whose recurrent layers and cells compute by recipes; its weights stay.

    `recipe_of(name, network)` returns the recipe of one of them.
    """
    model = copy.deepcopy(model)
    for name, part in recurrent_parts(model).items():
        recipe: Any = recipe_of(name, surface.network_of(part))
        part.recipe = recipe
        kind: Any = type(part)
        part.__class__ = _spelled_out(kind, surface.recurrent_name(part) in surface.CELLS)
    return model


def recurrent_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Return the recurrent layers and cells in a model, by name."""
    return {name: part for name, part in model.named_modules() if surface.recurrent_name(part) is not None}


def is_spelled_out(module: nn.Module) -> bool:
    """Tell whether a module computes by a recipe."""
    return hasattr(module, "recipe")


@functools.cache
def _spelled_out(kind: type[nn.Module], is_cell: bool) -> type[nn.Module]:
    """Return a subclass that computes by its recipe; cached, so that copies are of the same class."""
    forward = _cell_forward if is_cell else _layer_forward
    return type(f"SpelledOut{kind.__name__}", (kind,), {"forward": forward, "__module__": __name__})


def _layer_forward(
    self: Any,
    input: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
    resets: Any = None,
    dropout_masks: Any = None,
) -> tuple[Any, Any]:
    if isinstance(input, rnn.PackedSequence):
        return _packed_forward(self, input, hx)
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=input.device)
    if self.dropout and self.training and dropout_masks is None and self.num_layers > 1:
        raise RuntimeError(
            "a spelled-out layer draws no dropout masks: pass dropout_masks=, or call .eval()."
        )
    return surface.call_layer(self, self.recipe, input, hx, lengths, resets, dropout_masks)


def _packed_forward(self: Any, packed: rnn.PackedSequence, hx: Any) -> tuple[Any, Any]:
    padded, lengths = rnn.pad_packed_sequence(packed, batch_first=self.batch_first)
    output, states = surface.call_layer(self, self.recipe, padded, hx, lengths)
    sorted_already = packed.unsorted_indices is None
    return rnn.pack_padded_sequence(output, lengths, self.batch_first, sorted_already), states


def _cell_forward(self: Any, input: Any, hx: Any = None) -> Any:
    return surface.call_cell(self, self.recipe, input, hx)
