"""torch's argument checks, word for word, each followed by what to do about it.

Checked here once, at the public edge; inside, the types are trusted.
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.lengths import is_traced

Init = TypeVar("Init", bound=Callable[..., None])


def torch_keywords(init: Init) -> Init:
    """Make an unknown keyword of a constructor raise what torch raises, with the keywords that exist."""
    known = [name for name in inspect.signature(init).parameters if name != "self"]
    of_sequences = {"hidden_size", "num_layers"} <= {*known}

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        unknown = [name for name in kwargs if name not in known]
        if "proj_size" in unknown and of_sequences:
            raise ValueError(
                "proj_size argument is only supported for LSTM, not RNN or GRU. "
                "Leave it out, or use jaxrnn.LSTM."
            )
        if unknown:
            base = "RNNBase" if of_sequences else type(self).__name__
            raise TypeError(
                f"{base}.__init__() got an unexpected keyword argument '{unknown[0]}'. "
                f"{type(self).__name__} takes {', '.join(known)}."
            )
        init(self, *args, **kwargs)

    return checked  # type: ignore[return-value]


def check_sizes(*, input_size: Any, hidden_size: Any, num_layers: Any = 1) -> None:
    """Raise unless all three are positive integers."""
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not _is_integer(value):
            raise TypeError(
                f"{name} should be of type int, got: {type(value).__name__}. "
                f"It is a number of features; pass int({value!r}) if that is what you mean."
            )
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero. Pass the number of features, not {value}.")
    if not _is_integer(num_layers):
        raise TypeError(
            f"'{type(num_layers).__name__}' object cannot be interpreted as an integer. "
            f"num_layers counts the stacked layers; {num_layers!r} is no such number."
        )
    if num_layers <= 0:
        raise ValueError(f"num_layers must be greater than zero. {num_layers} layers would compute nothing.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_flags(**flags: Any) -> None:
    """Raise unless every flag is a bool."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(
                f"{name} should be of type bool, got: {type(value).__name__}. "
                "Check the order of the arguments: positionally, RNN has nonlinearity where LSTM and GRU have "
                "bias, and Transformer has custom_encoder and custom_decoder before layer_norm_eps."
            )


def check_dropout(dropout: Any, num_layers: int) -> float:
    """Return the probability as a float; warn where torch warns."""
    dropout = check_probability(dropout)
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
            f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}. "
            "Use nnx.Dropout after the layer to drop its output.",
            stacklevel=_caller(),
        )
    return dropout


def check_probability(dropout: Any) -> float:
    """Return the probability of a dropout as a float."""
    if isinstance(dropout, str):
        float(dropout)  # torch's own ValueError for 'x'
    is_number = isinstance(dropout, int | float | np.number) and not isinstance(dropout, bool)
    if not is_number or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being "
            f"zeroed. Got {dropout!r}; 0.2 drops one in five, 0 none."
        )
    return float(dropout)


def _caller() -> int:
    """Return the stacklevel of the first frame outside jaxrnn and flax (whose metaclass calls constructors)."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("jaxrnn", "flax"):
        frame, level = frame.f_back, level + 1
    return level


def check_projection(proj_size: Any, hidden_size: int) -> None:
    """Raise unless 0 <= proj_size < hidden_size."""
    if not _is_integer(proj_size):
        raise TypeError(
            f"proj_size should be of type int, got: {type(proj_size).__name__}. "
            "Pass the number of features of the projected h, or 0."
        )
    if proj_size < 0:
        raise ValueError(
            "proj_size should be a positive integer or zero to disable projections. "
            f"Got {proj_size}; 0 is the default."
        )
    if proj_size >= hidden_size:
        raise ValueError(
            f"proj_size has to be smaller than hidden_size. Got proj_size={proj_size} and "
            f"hidden_size={hidden_size}; a projection is there to make h smaller."
        )


def check_array(name: str, value: Any) -> jax.Array:
    """Return `value` as a JAX array; refuse what JAX could only guess at."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return jnp.asarray(value)
    raise TypeError(
        f"{name} should be a JAX or NumPy array, got {type(value).__name__}. "
        "Convert it first: np.asarray(...) for lists, tensor.numpy() for torch tensors."
    )


def check_rows(name: str, numbers: Any, rows: int, *, table: str = "table", unit: str = "rows") -> jax.Array:
    """Return the numbers of rows of a table that has so many; one that names none is an IndexError, as in torch.

    Where values are not known yet, in compiled code, such a number is beyond the table, and its row is NaN.
    (Left to JAX, -1 would name the last row.)
    """
    array = check_array(name, numbers)
    if is_traced(numbers):
        return jnp.where(array < 0, rows, array)
    known = np.asarray(numbers)  # in NumPy, which `jit` does not trace
    if known.size and (known.min() < 0 or known.max() >= rows):
        raise IndexError(
            f"index out of range in self: {name} has numbers from {known.min()} to {known.max()}, but the {table} "
            f"has {rows} {unit}, counted from 0."
        )
    return array


def check_dtype(x: jax.Array, dtype: Any, weight_dtype: Any, of: str = "RNN") -> jax.Array:
    """Return the input in the layer's `dtype`; where it has none, nothing is promoted in silence."""
    if dtype is not None and jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(dtype)
    if x.dtype != weight_dtype:
        raise ValueError(
            f"{of} input dtype (torch.{x.dtype}) does not match weight dtype (torch.{weight_dtype}). "
            f"Convert input: input.to(torch.{weight_dtype}), or convert model: model.to(torch.{x.dtype}). "
            f"In JAX: input.astype(jnp.{weight_dtype}), or construct the layer with dtype=... to compute in "
            "one dtype whatever comes in, or with param_dtype=...."
        )
    return x


def check_state_dtype(name: str, state: jax.Array, dtype: Any, weight_dtype: Any) -> jax.Array:
    """Return an initial state in the layer's `dtype`; where it has none, it must be that of the weights."""
    if dtype is not None:
        return state.astype(dtype)
    if state.dtype != weight_dtype:
        raise RuntimeError(
            f"mat1 and mat2 must have the same dtype, but {name} is {state.dtype} and the weights are "
            f"{weight_dtype}. Convert the state: {name}.astype(jnp.{weight_dtype})."
        )
    return state


def check_input(kind: str, shape: tuple[int, ...], input_size: int, *, time_axis: int) -> None:
    """Raise unless `shape` is [T, I], [T, B, I] or [B, T, I] with T > 0. `kind` is RNN, LSTM or GRU."""
    if len(shape) not in (2, 3):
        word = " tensor" if kind == "RNN" else ""
        raise ValueError(
            f"{kind}: Expected input to be 2D or 3D, got {len(shape)}D{word} instead. Pass (time, features), or "
            "three axes with a batch; map over further batch axes with jax.vmap, or reshape them into one."
        )
    if shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {shape[-1]}. "
            f"The input has shape {shape}; its last axis must hold the features."
        )
    if shape[time_axis] == 0:
        raise RuntimeError(
            "Expected sequence length to be larger than 0 in RNN. An empty row of a ragged batch is fine: "
            "pad it and give lengths=."
        )


def check_hidden(kind: str, hx: Any, *, expects_cell_state: bool) -> tuple[jax.Array, ...]:
    """Return the initial states as a tuple: (h,) or (h, c)."""
    if not expects_cell_state:
        if isinstance(hx, tuple | list):
            raise TypeError(
                f"{kind} expects one initial state h_0, got a {type(hx).__name__} of {len(hx)}. "
                "(h_0, c_0) is for LSTM."
            )
        return (check_array("hx", hx),)
    if not isinstance(hx, tuple | list) or len(hx) != 2:
        found = f"a {type(hx).__name__} of {len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
        raise RuntimeError(f"lstm expects two hidden states. Pass hx=(h_0, c_0), not {found}.")
    return check_array("hx[0]", hx[0]), check_array("hx[1]", hx[1])


def check_hidden_ranks(states: tuple[jax.Array, ...], *, batched: bool) -> None:
    """Raise unless every initial state has a batch axis exactly where the input has one."""
    rank = 3 if batched else 2
    if all(s.ndim == rank for s in states):
        return
    case = "For batched 3-D input" if batched else "For unbatched 2-D input"
    shape = "(num_layers * directions, batch, features)" if batched else "(num_layers * directions, features)"
    remedy = f"The shape is {shape}, with batch_first too."
    if len(states) == 1:
        raise RuntimeError(f"{case}, hx should also be {rank}-D but got {states[0].ndim}-D tensor. {remedy}")
    h, c = states
    raise RuntimeError(
        f"{case}, hx and cx should also be {rank}-D but got ({h.ndim}-D, {c.ndim}-D) tensors. {remedy}"
    )


def check_hidden_size(
    states: tuple[jax.Array, ...], expected: list[tuple[int, ...]], *, permuted: bool = False
) -> None:
    """Raise unless every initial state has its expected size; `permuted` for unsorted packed input."""
    for index, (state, size) in enumerate(zip(states, expected, strict=True)):
        if state.shape == size:
            continue
        name = "hidden" if len(states) == 1 else f"hidden[{index}]"
        text = f"Expected {name} size {size}, got {list(state.shape)}. "
        if permuted and state.ndim == 3 and state.shape[1] < size[1]:
            rows = state.shape[1]
            text = f"INDICES element is out of DATA bounds, id={rows} axis_dim={rows}. {text}"
        raise RuntimeError(
            text + "The order is (num_layers * directions, batch, features), with batch_first too."
        )


def check_cell_input(kind: str, x: jax.Array, input_size: int) -> None:
    """Raise unless `x` is [I] or [B, I]."""
    if x.ndim not in (1, 2):
        raise ValueError(
            f"{kind}: Expected input to be 1D or 2D, got {x.ndim}D instead. A cell takes one step: (features,) or "
            f"(batch, features). For whole sequences use jaxrnn.{kind.removesuffix('Cell')}."
        )
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {x.shape[-1]} expected {input_size}. "
            f"The input has shape {x.shape}; its last axis must hold the features."
        )


def check_cell_hidden(
    kind: str, states: tuple[jax.Array, ...], batch: tuple[int, ...], hidden_size: int
) -> None:
    """Raise unless every state of a cell is [H] or [B, H], as its input is."""
    for index, state in enumerate(states):
        name = "hidden" if len(states) == 1 else f"hx[{index}]"
        if state.ndim not in (1, 2):
            raise ValueError(
                f"{kind}: Expected {name} to be 1D or 2D, got {state.ndim}D instead. A cell's state is (features,) "
                "or (batch, features), without an axis for layers."
            )
        if state.ndim != len(batch) + 1:
            raise ValueError(
                f"{kind}: Expected {name} to be {len(batch) + 1}D as the input is, got {state.ndim}D instead. "
                "Give both a batch axis, or neither."
            )
        if state.shape[-1] != hidden_size:
            raise RuntimeError(
                f"hidden{index} has inconsistent hidden_size: got {state.shape[-1]}, expected {hidden_size}. "
                f"The state has shape {state.shape}."
            )
        if state.shape[:-1] != batch:
            raise RuntimeError(
                f"Input batch size {batch[0]} doesn't match hidden{index} batch size {state.shape[0]}. "
                "Cut the state to the rows of this batch, or start a new one."
            )
