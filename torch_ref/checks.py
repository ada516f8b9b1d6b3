"""The input that would give a wrong number rather than an error of PyTorch's own."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def check_dropout(dropout: float, num_layers: int) -> None:
    """Raise where `dropout` is no probability; warn, as `torch.nn` does, where it would do nothing."""
    if isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being "
            f"zeroed, got {dropout!r}."
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,  # whoever constructs the layer
        )


def check_input(input: Tensor, input_size: int, batch_first: bool) -> None:
    """Raise unless `input` is [T, B, I], [B, T, I] or [T, I], with T > 0 and I = `input_size`."""
    if input.dim() not in (2, 3):
        raise ValueError(f"Expected input to be 2D or 3D, got {input.dim()}D instead.")
    if input.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {input.shape[-1]}."
        )
    if input.shape[1 if batch_first and input.dim() == 3 else 0] == 0:
        raise RuntimeError(
            f"Expected sequence length to be larger than 0, got the shape {tuple(input.shape)}."
        )


def check_state(name: str, state: Tensor, shape: Sequence[int]) -> None:
    """Raise unless the initial state has this shape: a smaller one would broadcast."""
    if state.shape != torch.Size(shape):
        raise RuntimeError(f"hx: expected {name} of shape {tuple(shape)}, got {tuple(state.shape)}.")


def check_lengths(lengths: Tensor, shape: Sequence[int], steps: int) -> None:
    """Raise unless `lengths` are integers in 0..T, one a row (a single number for an unbatched input)."""
    if lengths.shape != torch.Size(shape):
        got = tuple(lengths.shape)
        raise ValueError(f"lengths: expected one number a row, the shape {tuple(shape)}, got {got}.")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}. A mask's lengths are its sum.")
    if ((lengths < 0) | (lengths > steps)).any():
        raise ValueError(f"lengths: expected 0..{steps}, the input's steps, got {lengths.tolist()}.")


def check_mask(name: str, mask: Tensor, shape: Sequence[int]) -> None:
    """Raise unless `mask` is bool and of this shape: floats would scale twice, a smaller mask broadcast."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected a bool tensor, got {mask.dtype}.")
    if mask.shape != torch.Size(shape):
        raise ValueError(f"{name}: expected the shape {tuple(shape)}, as the input, got {tuple(mask.shape)}.")


def check_dropout_masks(masks: Sequence[Tensor], count: int, shape: Sequence[int]) -> None:
    """Raise unless there are `count` masks of this shape; a layer that drops nothing has a count of 0."""
    if count == 0:
        raise ValueError(
            "dropout_masks were given, but this layer drops nothing: it needs dropout > 0, num_layers > 1 and "
            "training mode (call .train())."
        )
    if len(masks) != count:
        raise ValueError(f"dropout_masks: expected {count}, one a layer but the last, got {len(masks)}.")
    for layer, mask in enumerate(masks):
        check_mask(f"dropout_masks[{layer}]", mask, shape)
