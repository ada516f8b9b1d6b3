"""Ragged sequences with static shapes: `torch.nn.utils.rnn` for programs that are compiled.

torch packs a ragged batch into an array with one row per valid step, so every batch has a new shape and,
where programs are compiled, a new program (https://github.com/jax-ml/jax/issues/5000). Here a packed sequence
stays `padded` and carries its `lengths`; torch's layout is computed when somebody asks for it.

Names, argument order, results and errors are those of torch 2.13. What torch silently gets wrong raises here:
lengths greater than T or not whole, fewer lengths than rows with `enforce_sorted=False`, sequences that only
match by broadcasting, permutations with a repeated index. `unpad_sequence` leaves the caller's array alone
(https://github.com/pytorch/pytorch/issues/98499).

Parameters annotated `Any` take JAX or NumPy arrays, or what has a shape and a dtype and converts to NumPy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from jaxrnn.lengths import as_constant, in_range, is_traced, length_mask, length_vector
from jaxrnn.sequence_checks import (
    as_array,
    as_arrays,
    as_padding,
    at_least,
    batch_major,
    check_alike,
    check_sorted,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PackedSequence:
    """A batch of sequences of different lengths, its rows in the user's order.

    Fields: `padded` `[B, T, *]`, zero from each row's length on; `lengths` int32 `[B]`; `enforce_sorted`
    (static): the rows are sorted by decreasing length and torch keeps no indices; `order`: torch's
    `sorted_indices` if the sequence came from torch. Compiled code needs the first two only.

    An immutable pytree: `dataclasses.replace(packed, padded=output)` puts other values on the same steps.
    Make one with `pack_padded_sequence`, `pack_sequence` or `from_torch_layout`: the bare constructor checks
    nothing, because JAX calls it with placeholders and stacked leaves.

    `data`, `batch_sizes`, `sorted_indices` and `unsorted_indices` are torch's layout. Their shapes and values
    follow from the lengths, so they raise `TypeError` where the lengths are traced. Rows of equal length keep
    their order; torch's sort is not stable, so its order of such rows varies with the CPU.
    """

    padded: Any
    lengths: Any
    enforce_sorted: bool = field(default=True, metadata={"static": True})
    order: Any = None

    @property
    def data(self) -> Shaped[Array, " N *rest"]:
        """The valid steps `[sum of lengths, *]`: step 0 of each row, longest first, then step 1 and so on."""
        rows = self._rows("data")
        steps, columns = np.nonzero(self._running(rows))
        return jnp.asarray(self.padded)[rows[columns], steps]

    @property
    def batch_sizes(self) -> Int[np.ndarray, " longest"]:
        """The number of rows that are still running at each step, int64."""
        return self._running(self._rows("batch_sizes")).sum(axis=1, dtype=np.int64)

    @property
    def sorted_indices(self) -> Int[np.ndarray, " B"] | None:
        """The rows from longest to shortest, int64; None with `enforce_sorted`."""
        rows = self._rows("sorted_indices")
        return None if self.enforce_sorted else rows

    @property
    def unsorted_indices(self) -> Int[np.ndarray, " B"] | None:
        """The inverse of `sorted_indices`, int64; None with `enforce_sorted`."""
        rows = self._rows("unsorted_indices")
        return None if self.enforce_sorted else invert_permutation(rows)

    @classmethod
    def from_torch_layout(
        cls, data: Any, batch_sizes: Any, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> "PackedSequence":
        """Return the sequence that torch holds as ``(data, batch_sizes, sorted_indices, unsorted_indices)``.

        ``PackedSequence.from_torch_layout(*packed)`` reads torch's tuple: CPU tensors that need no gradient.

        Raises:
            ValueError: the four do not describe one batch.
            RuntimeError: empty `batch_sizes` (torch's text).
        """
        values = as_array(data, "data must be an array, not")
        sizes = _batch_sizes(batch_sizes, values.shape)
        rows = _sorted_rows(sorted_indices, unsorted_indices, int(sizes[0]))
        places = np.arange(sizes[0]) if rows is None else invert_permutation(rows)
        # Row b stands at places[b] in every step it reaches; what it does not reach is masked away.
        index = np.minimum(np.cumsum(sizes) - sizes + places[:, None], len(values) - 1)
        lengths = as_constant((sizes > places[:, None]).sum(axis=1))
        padded = _fill_padding(jnp.asarray(values)[index], lengths, 0)
        return cls(padded, lengths, rows is None, None if rows is None else as_constant(rows))

    def _known_lengths(self, what: str) -> Int[np.ndarray, " B"]:
        if is_traced(self.lengths) or np.ndim(self.lengths) != 1:
            raise TypeError(
                f"{what} depends on the values of the lengths, which are traced here (in jit, vmap or scan) "
                "or stacked. Use .padded [B, T, ...] and .lengths [B], or ask outside the transformation."
            )
        return np.asarray(self.lengths)

    def _rows(self, what: str) -> Int[np.ndarray, " B"]:
        """Return the rows from longest to shortest."""
        lengths = self._known_lengths(f"PackedSequence.{what}")
        if self.enforce_sorted:
            check_sorted(lengths)
            return np.arange(len(lengths))
        if self.order is None:
            return np.argsort(-lengths, kind="stable")
        return np.asarray(self.order).astype(np.int64)

    def _running(self, rows: Int[np.ndarray, " B"]) -> Bool[np.ndarray, "longest B"]:
        lengths = np.asarray(self.lengths)[rows]
        return np.arange(lengths.max(initial=0))[:, None] < lengths


def _batch_sizes(batch_sizes: Any, shape: tuple[int, ...]) -> Int[np.ndarray, " longest"]:
    """Return torch's `batch_sizes` after checking that they describe data of this shape."""
    sizes = np.asarray(batch_sizes)
    if sizes.size == 0:
        raise RuntimeError(
            "batch_sizes can not be empty. Pass the number of rows still running at each step."
        )
    if sizes.ndim != 1 or not np.issubdtype(sizes.dtype, np.integer):
        raise ValueError(
            f"batch_sizes must be a vector of integers, but has dtype {sizes.dtype} and shape {sizes.shape}. "
            "Pass the number of rows still running at each step."
        )
    if sizes.min() < 1 or np.any(np.diff(sizes) > 0) or shape[:1] != (sizes.sum(),):
        raise ValueError(
            f"batch_sizes {sizes.tolist()} must be positive, never grow and add up to the length of data, "
            f"which has shape {shape}. Pass the fields of one torch PackedSequence."
        )
    return sizes.astype(np.int64)


def _sorted_rows(sorted_indices: Any, unsorted_indices: Any, batch_size: int) -> Int[np.ndarray, " B"] | None:
    """Return `sorted_indices`, from its inverse if need be, after checking that they are one permutation."""
    given = [np.asarray(x) for x in (sorted_indices, unsorted_indices) if x is not None]
    if not given:
        return None
    inverse = invert_permutation(given[0])
    if len(given) == 2 and not np.array_equal(inverse, given[1]):
        raise ValueError(
            "unsorted_indices is not the inverse of sorted_indices. Pass one: the other follows."
        )
    if len(inverse) != batch_size:
        raise ValueError(
            f"The indices have {len(inverse)} rows, but batch_sizes starts with {batch_size}. Pass the "
            "permutation of the whole batch, or None for rows that are sorted already."
        )
    return inverse if sorted_indices is None else given[0]


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Return `input` `[T, B, *]` (`[B, T, *]` with `batch_first`) without what lies in the padding.

    The padding becomes zero whatever it held, NaN included, and its gradient is exactly 0. The shape stays
    `[B, T, *]`, so every batch runs the same program. Traced lengths are not checked but clipped to 0..T.

    Raises:
        IndexError, RuntimeError: torch's texts, for an `input` without two axes or without elements, and for
            `lengths` that do not fit the batch, contain 0, or grow although `enforce_sorted`.
        ValueError: a length greater than T, for which torch packs rows that do not exist.
        TypeError: lengths that are not integers, which torch truncates.
    """
    array = as_array(input, "_pack_padded_sequence(): argument 'input' (position 1) must be Tensor, not")
    rows = batch_major(array, batch_first)
    if rows.size == 0:
        raise RuntimeError(
            f"Cannot pack empty tensors. Pass at least one row, step and feature, not {array.shape}."
        )
    vector = length_vector(lengths, rows.shape[0])
    if enforce_sorted and not is_traced(vector) and vector[-1] > 0:  # torch looks at the last length first
        check_sorted(vector)
    checked = in_range(vector, rows.shape[1], allow_zero=False)
    return PackedSequence(_fill_padding(rows, checked, 0), checked, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: int | float = 0.0,
    total_length: int | None = None,
) -> tuple[Shaped[Array, "..."], Int[Array, " B"]]:
    """Return the padded array `[T, B, *]` (`[B, T, *]` with `batch_first`) and the lengths, int32 `[B]`.

    T is `total_length` or else the greatest length, as in torch. Where the lengths are traced, the greatest
    is not known and T is that of `sequence.padded`. The rows are in the user's order.

    Raises:
        AttributeError: not a packed sequence (torch's text).
        ValueError: `total_length` less than the greatest length (if they are traced: than `padded`).
        RuntimeError: `padding_value` does not fit the dtype.
    """
    packed = _packed(sequence)
    if is_traced(packed.lengths):
        lengths, longest = packed.lengths, packed.padded.shape[1]
    else:
        known = packed._known_lengths("The padded shape")
        lengths, longest = as_constant(known), int(known.max(initial=0))
    steps = longest if total_length is None else at_least(longest, total_length)
    dtype = jnp.result_type(packed.padded)
    expected = "_pad_packed_sequence(): argument 'padding_value' (position 4) must be Number, not"
    value = as_padding(padding_value, dtype, expected)
    missing = [(0, steps - longest if axis == 1 else 0) for axis in range(packed.padded.ndim)]
    padded = _fill_padding(jnp.pad(packed.padded[:, :longest], missing), lengths, value)
    return (padded if batch_first else padded.swapaxes(0, 1)), lengths


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: int | float = 0.0, padding_side: str = "right"
) -> Shaped[Array, "..."]:
    """Stack sequences `[length, *]` into `[T, B, *]` (`[B, T, *]` with `batch_first`), T the greatest length.

    The dtype is the first sequence's. NumPy arrays are padded in NumPy: JAX would compile every new length.

    Raises:
        RuntimeError: torch's texts, for no sequences, unequal trailing shapes or an unknown `padding_side`.
        TypeError: an element is no array, or the first one's dtype cannot hold it (torch truncates).
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}. "
            "Pass a list of arrays [length, ...]."
        )
    arrays = as_arrays(sequences)
    if not arrays:
        raise RuntimeError("received an empty list of sequences. Pass at least one array [length, ...].")
    if padding_side not in ("left", "right"):
        expected = "Expected padding_side to be one of left or right, but got"
        raise RuntimeError(f"{expected} {padding_side}. Choose 'right' for batches that are to be packed.")
    check_alike(arrays)
    dtype = jnp.result_type(arrays[0])
    value = as_padding(
        padding_value, dtype, "pad_sequence(): argument 'padding_value' (position 3) must be float, not"
    )
    xp: Any = jnp if any(isinstance(x, jax.Array) for x in arrays) else np
    steps = max(len(x) for x in arrays)
    rows = []
    for x in arrays:
        missing = (0, steps - len(x)) if padding_side == "right" else (steps - len(x), 0)
        rows.append(xp.pad(x.astype(dtype), [missing] + [(0, 0)] * (x.ndim - 1), constant_values=value))
    return jnp.asarray(xp.stack(rows, axis=0 if batch_first else 1))


def unpad_sequence(
    padded_sequences: Any, lengths: Any, batch_first: bool = False
) -> list[Shaped[Array, "..."]]:
    """Return the valid steps `[length, *]` of each row of `[T, B, *]` (`[B, T, *]` with `batch_first`).

    A length may be 0. The input is never changed (torch transposes it in place).

    Raises:
        ValueError: not one length per row (torch's text), or a length that is negative or greater than T.
        TypeError: lengths that are not integers, or traced: the shapes of the result depend on their values.
    """
    rows = batch_major(as_array(padded_sequences, "padded_sequences must be an array, not"), batch_first)
    vector = length_vector(lengths)
    if vector.size != rows.shape[0]:
        raise ValueError(
            f"zip() argument 2 is {'longer' if vector.size > rows.shape[0] else 'shorter'} than argument 1. "
            f"Pass one length for each of the {rows.shape[0]} rows, and check batch_first."
        )
    return unpack_sequence(PackedSequence(rows, in_range(vector, rows.shape[1]), enforce_sorted=False))


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Return the sequences `[length, *]` as one packed batch, in the given order.

    Raises as `pad_sequence` and `pack_padded_sequence` do.
    """
    if not isinstance(sequences, Iterable):
        raise TypeError(
            f"'{type(sequences).__name__}' object is not iterable. Pass a list of arrays [length, ...]."
        )
    arrays = as_arrays(sequences)
    if any(x.ndim == 0 for x in arrays):
        raise IndexError(
            "Dimension specified as 0 but tensor has no dimensions. Give each sequence a time axis."
        )
    padded = pad_sequence(arrays, batch_first=True)
    return pack_padded_sequence(
        padded, [len(x) for x in arrays], batch_first=True, enforce_sorted=enforce_sorted
    )


def unpack_sequence(packed_sequences: PackedSequence) -> list[Shaped[Array, "..."]]:
    """Return the sequences `[length, *]` in the user's order.

    Raises:
        AttributeError: not a packed sequence (torch's text).
        TypeError: the lengths are traced: the shapes of the result depend on their values.
    """
    packed = _packed(packed_sequences)
    lengths = packed._known_lengths("The list of sequences")
    if is_traced(packed.padded):
        return [row[:length] for row, length in zip(packed.padded, lengths, strict=True)]
    # In NumPy, because JAX would compile every new length; copied, to share no memory with the caller.
    return [jnp.array(row[:length]) for row, length in zip(np.asarray(packed.padded), lengths, strict=True)]


def invert_permutation(permutation: Any) -> Any:
    """Return the inverse `q` of a permutation `p` `[N]`: ``q[p[i]] = i``. None stays None.

    A JAX array gives a JAX array, anything else NumPy. Traced values are not checked.

    Raises:
        RuntimeError, IndexError: torch's texts, for anything but a vector of integers from 0 to N - 1.
        ValueError: an index occurs twice, for which torch returns uninitialised memory.
    """
    if permutation is None:
        return None
    indices = as_array(permutation, "empty_like(): argument 'input' (position 1) must be Tensor, not")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise RuntimeError(
            f"scatter(): Expected dtype int32/int64 for index. Pass integers, not {indices.dtype}."
        )
    if indices.ndim != 1:
        text = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        raise IndexError(f"{text}. Pass a vector of indices, not shape {indices.shape}.")
    if is_traced(indices):
        return jnp.argsort(indices)
    values, size = np.asarray(indices), indices.size
    for index in values[(values < 0) | (values >= size)][:1]:
        text = f"index {index} is out of bounds for dimension 0 with size {size}"
        raise RuntimeError(f"{text}. Pass each of 0 to {size - 1} once.")
    if np.unique(values).size != size:
        raise ValueError(f"{values.tolist()} repeats an index. Pass each of 0 to {size - 1} once.")
    inverse = np.argsort(values).astype(values.dtype)
    return inverse if isinstance(indices, np.ndarray) else as_constant(inverse)


def _packed(sequence: Any) -> PackedSequence:
    if isinstance(sequence, PackedSequence):
        return sequence
    if hasattr(sequence, "batch_sizes"):
        kind = f"{type(sequence).__module__}.{type(sequence).__name__}"
        raise TypeError(
            f"Expected jaxrnn's PackedSequence, not {kind}: use PackedSequence.from_torch_layout(*it)."
        )
    raise AttributeError(
        f"'{type(sequence).__name__}' object has no attribute 'batch_sizes'. Pass the PackedSequence that "
        "pack_padded_sequence or pack_sequence returned."
    )


def _fill_padding(padded: Any, lengths: Any, value: Any) -> Shaped[Array, "B T *rest"]:
    """``where(valid, padded, value)``: a product would keep NaN, in the values and in the gradient."""
    padded, mask = jnp.asarray(padded), length_mask(lengths, padded.shape[1])
    mask = mask.reshape(mask.shape + (1,) * (padded.ndim - 2))
    return jnp.where(mask, padded, jnp.asarray(value, padded.dtype))
