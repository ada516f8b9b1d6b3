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

import numbers
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped


def length_mask(lengths: Any, steps: int) -> Bool[Array, "B T"]:
    """Return which steps of each row are valid: ``mask[b, t] = t < lengths[b]``.

    Raises as `check_lengths` does.
    """
    return _in_range(_integers(lengths), steps)[:, None] > jnp.arange(steps)


def check_lengths(lengths: Any, batch_size: int, steps: int, *, allow_zero: bool = True) -> Int[Array, "B"]:
    """Return `lengths` as int32 `[B]`, each from 0 (1 without `allow_zero`) to `steps`.

    Takes a list, tuple or array of integers. Values that are known are checked, and stay known inside `jit`.
    Traced values cannot be checked: they are clipped to 0..`steps`, as a mask of `steps` steps would do.

    Raises:
        TypeError: floats or booleans.
        RuntimeError: not one length per row, or one below 1 without `allow_zero` (torch's texts).
        ValueError: a negative length, or one greater than `steps`.
    """
    return _in_range(_integers(lengths, batch_size), steps, allow_zero)


def _integers(lengths: Any, batch_size: int | None = None) -> Any:
    """Return `lengths` as a vector of integers: a tracer, or NumPy if the values are known."""
    listed = isinstance(lengths, list | tuple)
    if listed and any(_is_traced(n) for n in lengths):
        lengths = jnp.asarray(lengths)
    vector = lengths if _is_traced(lengths) else np.asarray(lengths)
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


def _in_range(vector: Any, steps: int, allow_zero: bool = True) -> Int[Array, "B"]:
    """Return the lengths as int32; known values are checked, traced ones clipped."""
    if _is_traced(vector):
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
    return _known(vector)


def _known(values: Any) -> Int[Array, "N"]:
    """Return NumPy integers as an int32 array that stays known while `jit` traces the rest."""
    with jax.ensure_compile_time_eval():
        return jnp.asarray(values.astype(np.int32))


def _is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


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
    def data(self) -> Shaped[Array, "N *rest"]:
        """The valid steps `[sum of lengths, *]`: step 0 of each row, longest first, then step 1 and so on."""
        rows = self._rows("data")
        steps, columns = np.nonzero(self._running(rows))
        return jnp.asarray(self.padded)[rows[columns], steps]

    @property
    def batch_sizes(self) -> Int[np.ndarray, "longest"]:
        """The number of rows that are still running at each step, int64."""
        return self._running(self._rows("batch_sizes")).sum(axis=1, dtype=np.int64)

    @property
    def sorted_indices(self) -> Int[np.ndarray, "B"] | None:
        """The rows from longest to shortest, int64; None with `enforce_sorted`."""
        rows = self._rows("sorted_indices")
        return None if self.enforce_sorted else rows

    @property
    def unsorted_indices(self) -> Int[np.ndarray, "B"] | None:
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
        values = _array(data, "data must be an array, not")
        sizes = _batch_sizes(batch_sizes, values.shape)
        rows = _sorted_rows(sorted_indices, unsorted_indices, int(sizes[0]))
        places = np.arange(sizes[0]) if rows is None else invert_permutation(rows)
        # Row b stands at places[b] in every step it reaches; what it does not reach is masked away.
        index = np.minimum(np.cumsum(sizes) - sizes + places[:, None], len(values) - 1)
        lengths = _known((sizes > places[:, None]).sum(axis=1))
        padded = _fill_padding(jnp.asarray(values)[index], lengths, 0)
        return cls(padded, lengths, rows is None, None if rows is None else _known(rows))

    def _known_lengths(self, what: str) -> Int[np.ndarray, "B"]:
        if _is_traced(self.lengths) or np.ndim(self.lengths) != 1:
            raise TypeError(
                f"{what} depends on the values of the lengths, which are traced here (in jit, vmap or scan) "
                "or stacked. Use .padded [B, T, ...] and .lengths [B], or ask outside the transformation."
            )
        return np.asarray(self.lengths)

    def _rows(self, what: str) -> Int[np.ndarray, "B"]:
        """Return the rows from longest to shortest."""
        lengths = self._known_lengths(f"PackedSequence.{what}")
        if self.enforce_sorted:
            _check_sorted(lengths)
            return np.arange(len(lengths))
        if self.order is None:
            return np.argsort(-lengths, kind="stable")
        return np.asarray(self.order).astype(np.int64)

    def _running(self, rows: Int[np.ndarray, "B"]) -> Bool[np.ndarray, "longest B"]:
        lengths = np.asarray(self.lengths)[rows]
        return np.arange(lengths.max(initial=0))[:, None] < lengths


def _batch_sizes(batch_sizes: Any, shape: tuple[int, ...]) -> Int[np.ndarray, "longest"]:
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


def _sorted_rows(sorted_indices: Any, unsorted_indices: Any, batch_size: int) -> Int[np.ndarray, "B"] | None:
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


def _check_sorted(lengths: Int[np.ndarray, "B"]) -> None:
    if np.any(np.diff(lengths) > 0):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this "
            "requirement if you do not need ONNX exportability. No layer here needs sorted rows."
        )


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
    array = _array(input, "_pack_padded_sequence(): argument 'input' (position 1) must be Tensor, not")
    rows = _batch_major(array, batch_first)
    if rows.size == 0:
        raise RuntimeError(
            f"Cannot pack empty tensors. Pass at least one row, step and feature, not {array.shape}."
        )
    vector = _integers(lengths, rows.shape[0])
    if enforce_sorted and not _is_traced(vector) and vector[-1] > 0:  # torch looks at the last length first
        _check_sorted(vector)
    checked = _in_range(vector, rows.shape[1], allow_zero=False)
    return PackedSequence(_fill_padding(rows, checked, 0), checked, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: int | float = 0.0,
    total_length: int | None = None,
) -> tuple[Shaped[Array, "..."], Int[Array, "B"]]:
    """Return the padded array `[T, B, *]` (`[B, T, *]` with `batch_first`) and the lengths, int32 `[B]`.

    T is `total_length` or else the greatest length, as in torch. Where the lengths are traced, the greatest
    is not known and T is that of `sequence.padded`. The rows are in the user's order.

    Raises:
        AttributeError: not a packed sequence (torch's text).
        ValueError: `total_length` less than the greatest length (if they are traced: than `padded`).
        RuntimeError: `padding_value` does not fit the dtype.
    """
    packed = _packed(sequence)
    if _is_traced(packed.lengths):
        lengths, longest = packed.lengths, packed.padded.shape[1]
    else:
        known = packed._known_lengths("The padded shape")
        lengths, longest = _known(known), int(known.max(initial=0))
    steps = longest if total_length is None else _at_least(longest, total_length)
    dtype = jnp.result_type(packed.padded)
    expected = "_pad_packed_sequence(): argument 'padding_value' (position 4) must be Number, not"
    value = _padding(padding_value, dtype, expected)
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
    arrays = _arrays(sequences)
    if not arrays:
        raise RuntimeError("received an empty list of sequences. Pass at least one array [length, ...].")
    if padding_side not in ("left", "right"):
        expected = "Expected padding_side to be one of left or right, but got"
        raise RuntimeError(f"{expected} {padding_side}. Choose 'right' for batches that are to be packed.")
    _check_alike(arrays)
    dtype = jnp.result_type(arrays[0])
    value = _padding(
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
    rows = _batch_major(_array(padded_sequences, "padded_sequences must be an array, not"), batch_first)
    vector = _integers(lengths)
    if vector.size != rows.shape[0]:
        raise ValueError(
            f"zip() argument 2 is {'longer' if vector.size > rows.shape[0] else 'shorter'} than argument 1. "
            f"Pass one length for each of the {rows.shape[0]} rows, and check batch_first."
        )
    return unpack_sequence(PackedSequence(rows, _in_range(vector, rows.shape[1]), enforce_sorted=False))


def pack_sequence(sequences: Any, enforce_sorted: bool = True) -> PackedSequence:
    """Return the sequences `[length, *]` as one packed batch, in the given order.

    Raises as `pad_sequence` and `pack_padded_sequence` do.
    """
    if not isinstance(sequences, Iterable):
        raise TypeError(
            f"'{type(sequences).__name__}' object is not iterable. Pass a list of arrays [length, ...]."
        )
    arrays = _arrays(sequences)
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
    if _is_traced(packed.padded):
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
    indices = _array(permutation, "empty_like(): argument 'input' (position 1) must be Tensor, not")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise RuntimeError(
            f"scatter(): Expected dtype int32/int64 for index. Pass integers, not {indices.dtype}."
        )
    if indices.ndim != 1:
        text = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        raise IndexError(f"{text}. Pass a vector of indices, not shape {indices.shape}.")
    if _is_traced(indices):
        return jnp.argsort(indices)
    values, size = np.asarray(indices), indices.size
    for index in values[(values < 0) | (values >= size)][:1]:
        text = f"index {index} is out of bounds for dimension 0 with size {size}"
        raise RuntimeError(f"{text}. Pass each of 0 to {size - 1} once.")
    if np.unique(values).size != size:
        raise ValueError(f"{values.tolist()} repeats an index. Pass each of 0 to {size - 1} once.")
    inverse = np.argsort(values).astype(values.dtype)
    return inverse if isinstance(indices, np.ndarray) else _known(inverse)


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


def _array(value: Any, expected: str) -> Any:
    """Return anything with a shape and a dtype as a JAX or NumPy array."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"{expected} {type(value).__name__}. Pass a JAX or NumPy array: jnp.asarray(...).")
    return value if isinstance(value, jax.Array) else np.asarray(value)


def _arrays(sequences: Iterable[Any]) -> list[Any]:
    return [
        _array(x, f"expected Tensor as element {i} in argument 0, but got") for i, x in enumerate(sequences)
    ]


def _batch_major(x: Any, batch_first: bool) -> Any:
    if x.ndim < 2:
        text = "Dimension out of range (expected to be in range of [-1, 0], but got 1)"
        if x.ndim == 0:
            text = "Dimension specified as 1 but tensor has no dimensions"
        raise IndexError(f"{text}. Pass a batch; one sequence x is the batch x[None] with batch_first=True.")
    return x if batch_first else x.swapaxes(0, 1)


def _fill_padding(padded: Any, lengths: Any, value: Any) -> Shaped[Array, "B T *rest"]:
    """``where(valid, padded, value)``: a product would keep NaN, in the values and in the gradient."""
    padded, mask = jnp.asarray(padded), length_mask(lengths, padded.shape[1])
    mask = mask.reshape(mask.shape + (1,) * (padded.ndim - 2))
    return jnp.where(mask, padded, jnp.asarray(value, padded.dtype))


def _padding(value: Any, dtype: Any, expected: str) -> np.ndarray:
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


def _at_least(longest: int, total_length: Any) -> int:
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


def _check_alike(arrays: list[Any]) -> None:
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
