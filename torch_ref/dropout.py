"""Dropout whose mask may be given, so that training can be compared between frameworks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref import checks

Masks = Mapping[str, Any]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, told what to keep or left to draw it."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `input` with some elements zeroed, those where `mask` is False, and the others over 1 - p."""
        if mask is None:
            return super().forward(input)
        if not self.training or self.p == 0:
            raise ValueError(
                "a dropout mask was given, but nothing is dropped: that needs p > 0 and training mode."
            )
        checks.check_mask("a dropout mask", mask, input.shape)
        return torch.where(mask, input / (1 - self.p) if self.p < 1 else 0.0, 0.0)


def check_masks(module: nn.Module, masks: Masks | None) -> Masks:
    """Return masks for the parts of a module that drop, by their names; raise unless all of these have one.

    Attention drops weights, a recurrent layer what goes from layer to layer.
    """
    if masks is None:
        return {}
    expected = {name for name, part in module.named_modules() if isinstance(part, nn.Dropout) and part.p > 0}
    for name, part in module.named_modules():
        if getattr(part, "num_heads", 0) and part.dropout > 0:
            expected.add(f"{name}.dropout".lstrip("."))
        if getattr(part, "num_layers", 0) > 1 and getattr(part, "dropout", 0) > 0:
            expected.add(name)
    expected = expected if module.training else set()
    if {*masks} != expected:
        raise ValueError(f"dropout_masks: expected {sorted(expected)}, got {sorted(masks)}.")
    return masks


def masks_of(part: str, masks: Masks) -> Masks | None:
    """Return the masks of a part, by their names in there; None where there are none."""
    prefix = f"{part}."
    found = {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}
    return found or None
