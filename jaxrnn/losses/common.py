"""What all losses share: dtypes, reductions, checks, and derivatives that are torch's rather than autodiff's."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrnn.lengths import is_traced

EPSILON = float(np.float32(1e-12))  # torch writes 1e-12 as a float, which in float64 is 9.99999996e-13
Reduction = str  # "none", "mean" or "sum"; for kl_div also "batchmean"


def promote(input: Any, *others: Any, name: str = "input") -> tuple[jnp.dtype, tuple[Array, ...]]:
    """Return the dtype of the result, and all arrays in the dtype to compute in: that one, or float32 if wider.

    Raises:
        TypeError: `input` is not floating point; the others may be integers or booleans.
    """
    first = jnp.asarray(input)
    if not jnp.issubdtype(first.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected floating point values, got {first.dtype}. Pass a model's outputs, "
            f"or {name}.astype(jnp.float32)."
        )
    arrays = (first, *(jnp.asarray(other) for other in others))
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"expected real values beside {name}, got {dtype}. Pass .real, .imag or jnp.abs(...)."
        )
    wide = jnp.promote_types(dtype, jnp.float32)
    return dtype, tuple(array.astype(wide) for array in arrays)


def reduce(values: Float[Array, "..."], reduction: Reduction, dtype: Any) -> Float[Array, "..."]:
    """Return the values, their mean or their sum in `dtype`; the mean of nothing is NaN."""
    if reduction == "mean":
        values = jnp.mean(values)
    elif reduction == "sum":
        values = jnp.sum(values)
    return values.astype(dtype)


@jax.custom_jvp
def with_slopes(
    value: Float[Array, "..."], at: tuple[Array, ...], slopes: tuple[Array, ...]
) -> Float[Array, "..."]:
    """Return `value`, a function of the arrays `at` whose derivatives are `slopes`, whatever it was made from."""
    return value


@with_slopes.defjvp
def _with_slopes_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, at, slopes = primals
    moves = [slope * move for slope, move in zip(slopes, tangents[1], strict=True)]
    return with_slopes(value, at, slopes), sum(moves[1:], moves[0])


def known(value: Any) -> Any:
    """Return a value as NumPy, or as it is while it is traced; comparisons of it stay known inside `jit`."""
    return value if is_traced(value) else np.asarray(value)


def refuse(values: Array, bad: Any, error: Callable[[], Exception]) -> Array:
    """Raise if an element is known to be bad; where that is traced return NaN there, gradient included."""
    if is_traced(bad):
        return values * jnp.where(bad, jnp.nan, 1.0)
    if np.any(bad):
        raise error()
    return values


# Checks


def check_reduction(reduction: Any, allowed: Sequence[str] = ("none", "mean", "sum")) -> None:
    """Raise unless a reduction is one of the allowed ones."""
    if reduction not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{reduction} is not a valid value for reduction. Pass one of {choices}.")


def number(name: str, value: Any) -> float:
    """Return a hyperparameter as a Python number; raise unless it is one (or NumPy's), and not NaN."""
    if not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}. Pass float({name}).")
    if math.isnan(value):
        raise ValueError(f"{name} is NaN. Pass a number; see what it was computed from.")
    return float(value)


def check_same_shape(input: Any, target: Any) -> None:
    """Raise unless both have one shape: what only matches by broadcasting is not what was meant."""
    if jnp.shape(input) != jnp.shape(target):
        raise ValueError(
            f"Using a target size ({size(target)}) that is different to the input size ({size(input)}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size: a target (N,) beside an input (N, 1) broadcasts to (N, N), "
            "every prediction against every target, and still gives a loss that falls. Use input[:, 0] or "
            "target[:, None], or jnp.broadcast_to if broadcasting is what you mean."
        )


def check_broadcasts(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise unless an array broadcasts to the input's shape without making it larger."""
    try:
        grown = np.broadcast_shapes(jnp.shape(value), shape)
    except ValueError:
        grown = ()
    if grown != shape:
        raise RuntimeError(
            f"{name} with shape {list(jnp.shape(value))} doesn't match the input's shape {list(shape)}. "
            "Pass one number for each element, or a shape that broadcasts to the input's."
        )


def size(array: Any) -> str:
    """Return a shape as torch prints it."""
    return f"torch.Size({list(jnp.shape(array))})"
