"""What `jaxrnn.sequence` accepts: torch's errors in torch's words, each followed by what to do."""

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int


def as_array(value: Any, expected: str) -> Any:
    """Return anything with a shape and a dtype as a JAX or NumPy array."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"{expected} {type(value).__name__}. Pass a JAX or NumPy array: jnp.asarray(...).")
    return value if isinstance(value, jax.Array) else np.asarray(value)


def as_arrays(sequences: Iterable[Any]) -> list[Any]:
    """Return a list of sequences, each as a JAX or NumPy array."""
    return [
        as_array(x, f"expected Tensor as element {i} in argument 0, but got") for i, x in enumerate(sequences)
    ]


def batch_major(x: Any, batch_first: bool) -> Any:
    """Return `[B, T, *]` from `[T, B, *]`, or from `[B, T, *]` with `batch_first`."""
    if x.ndim < 2:
        text = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        if x.ndim == 0:
            text = "Dimension specified as 1 but tensor has no dimensions"
        raise IndexError(f"{text}. Pass a batch; one sequence x is the batch x[None] with batch_first=True.")
    return x if batch_first else x.swapaxes(0, 1)


def check_sorted(lengths: Int[np.ndarray, " B"]) -> None:
    """Check that no row is longer than the one before it."""
    if np.any(np.diff(lengths) > 0):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
            "requirement if you do not need ONNX exportability. No layer here needs sorted rows."
        )


def as_padding(value: Any, dtype: Any, expected: str) -> np.ndarray:
    """Return `value` in `dtype` as torch converts it: towards zero, but never out of range."""
    if not isinstance(value, numbers.Number):
        raise TypeError(f"{expected} {type(value).__name__}. Pass a Python number: float(value).")
    number: Any = value
    if jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.complexfloating):
        return np.asarray(number).astype(dtype)
    whole = jnp.issubdtype(dtype, jnp.integer)
    limits: Any = jnp.iinfo(dtype) if whole else jnp.finfo(dtype)
    low, high = (int(limits.min), int(limits.max)) if whole else (float(limits.min), float(limits.max))
    real = isinstance(number, numbers.Real)
    if not real or not (low <= number <= high or (not whole and not np.isfinite(number))):
        raise RuntimeError(
            f"value cannot be converted to type {dtype} without overflow. Choose a padding_value from "
            f"{low} to {high}, not {number}, or convert the sequences."
        )
    return np.asarray(int(number) if whole else number, dtype)


def at_least(longest: int, total_length: Any) -> int:
    """Return `total_length` after checking that it holds the longest sequence."""
    if isinstance(total_length, numbers.Real) and total_length < longest:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {longest}. Raise total_length or "
            "leave it out; traced lengths count as the whole padded axis."
        )
    if not isinstance(total_length, numbers.Integral):
        raise TypeError(
            "_pad_packed_sequence(): argument 'total_length' (position 5) must be int, not "
            f"{type(total_length).__name__}. It is part of a shape, so it cannot be traced either."
        )
    return int(total_length)


def check_alike(arrays: list[Any]) -> None:
    """Check that the sequences agree in all but length, and that the first one's dtype can hold the rest."""
    first = arrays[0]
    for i, x in enumerate(arrays):
        if x.ndim == 0:
            raise RuntimeError(f"ArrayRef: invalid slice, N = 1; size = 0. Give sequence {i} a time axis.")
        if x.shape[1:] != first.shape[1:]:
            text = _shape_clash((len(x), *first.shape[1:]), x.shape)
            raise RuntimeError(
                f"{text}. Sequences [length, ...] may differ in length only, but sequence 0 has shape "
                f"{first.shape} and sequence {i} has shape {x.shape}."
            )
        if not jnp.can_cast(x.dtype, first.dtype, "same_kind"):
            raise TypeError(
                f"Sequence {i} is {x.dtype}, but the result has the dtype of sequence 0, {first.dtype}, "
                "which cannot hold it. Convert the sequences to one dtype."
            )


def _shape_clash(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """Return what torch says when an array of shape `b` is copied into one of shape `a`."""
    rank = max(len(a), len(b))
    for axis in reversed(range(rank)):
        m, n = ((1,) * (rank - len(shape)) + shape for shape in (a, b))
        if m[axis] != n[axis] and 1 not in (m[axis], n[axis]):
            sizes = f"The size of tensor a ({m[axis]}) must match the size of tensor b ({n[axis]})"
            return f"{sizes} at non-singleton dimension {axis}"
    both = np.broadcast_shapes(a, b)
    if both != a:
        return f"output with shape {list(a)} doesn't match the broadcast shape {list(both)}"
    return "Sequences with unequal trailing shapes would be broadcast"
