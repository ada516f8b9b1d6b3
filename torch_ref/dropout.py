"""Dropout whose mask may be given, so that training can be compared between frameworks."""

from torch import Tensor, nn


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
        return input * (mask.to(input.dtype) * (1 / (1 - self.p) if self.p < 1 else 0.0))
