"""The lengths of ragged rows: checked where they are known, clipped where they are traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


def length_mask(lengths: Any, steps: int) -> Bool[Array, "B T"]:
    """Return which steps of each row are valid: ``mask[b, t] = t < lengths[b]``.

    Raises as `check_lengths` does.
    """
    return in_range(length_vector(lengths), steps)[:, None] > jnp.arange(steps)


def check_lengths(lengths: Any, batch_size: int, steps: int, *, allow_zero: bool = True) -> Int[Array, " B"]:
    """Return `lengths` as int32 `[B]`, each from 0 (1 without `allow_zero`) to `steps`.

    Takes a list, tuple or array of integers. Values that are known are checked, and stay known inside `jit`.
    Traced values cannot be checked: they are clipped to 0..`steps`, as a mask of `steps` steps would do.

    Raises:
        TypeError: floats or booleans.
        RuntimeError: not one length per row, or one below 1 without `allow_zero` (torch's texts).
        ValueError: a negative length, or one greater than `steps`.
    """
    return in_range(length_vector(lengths, batch_size), steps, allow_zero)


def length_vector(lengths: Any, batch_size: int | None = None) -> Any:
    """Return `lengths` as a vector of integers: a tracer, or NumPy if the values are known."""
    listed = isinstance(lengths, list | tuple)
    if listed and any(is_traced(n) for n in lengths):
        lengths = jnp.asarray(lengths)
    vector = lengths if is_traced(lengths) else np.asarray(lengths)
    if listed and vector.size == 0:
        vector = vector.astype(np.int32)  # NumPy makes [] a float
    if not jnp.issubdtype(vector.dtype, jnp.integer):
        raise TypeError(
            f"lengths must be integers, but got dtype {vector.dtype}. Pass the number of valid steps of "
            "each row; a boolean mask becomes lengths by mask.sum(axis)."
        )
    if vector.ndim != 1:
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {vector.ndim}D cpu Long tensor. "
            f"Pass one length per row, shape (B,), not shape {vector.shape}."
        )
    if batch_size is not None and vector.size != batch_size:
        raise RuntimeError(
            "Expected `len(lengths)` to be equal to batch_size, but got "
            f"{vector.size} (batch_size={batch_size}). "
            "Pass one length per row, and check batch_first: it says which axis is the batch."
        )
    return vector


def in_range(vector: Any, steps: int, allow_zero: bool = True) -> Int[Array, " B"]:
    """Return the lengths as int32; known values are checked, traced ones clipped."""
    if is_traced(vector):
        return jnp.clip(vector.astype(jnp.int32), 0, steps)
    if not allow_zero and np.any(vector <= 0):
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0. "
            "Drop the empty rows, or leave the batch padded and give `lengths` to the layer, which accepts 0."
        )
    for row in np.flatnonzero((vector < 0) | (vector > steps))[:1]:
        raise ValueError(
            f"lengths[{row}] is {vector[row]}, but must be from 0 to {steps}, the number of time steps. "
            "Correct the length or pad the input, and check batch_first: it says which axis is time."
        )
    return as_constant(vector)


def as_constant(values: Any) -> Int[Array, " N"]:
    """Return NumPy integers as an int32 array that stays known while `jit` traces the rest."""
    with jax.ensure_compile_time_eval():
        return jnp.asarray(values.astype(np.int32))


def is_traced(value: Any) -> bool:
    """Return whether a value is unknown because a program is being traced."""
    return isinstance(value, jax.core.Tracer)
