"""The probes: what both models are asked, designed so that a bug has nowhere to hide. NumPy only.

A probe matters more than a tolerance. With default weights, zero biases, full lengths, a zero state and the
mean of the output as a loss, every published criterion misses a third of the bugs people make when porting;
each rule here stands because some bug survives without it:

* all dimensions are pairwise different: a swapped axis becomes a wrong shape;
* every parameter is drawn, biases, peepholes and norms too, around 1.3/sqrt(fan-in), so that gates leave their
  linear region; once more at 4 times that (saturation) and at a tenth of it;
* initial states are not zero; every output has a random cotangent of its own;
* rows have unequal lengths (the full one, 1, a duplicate), unsorted, with garbage in the padding.

All numbers are drawn by NumPy from a seed and rounded to the precision under test, then given to the float64
runs without change: no rounding of an input is ever counted as an error of a model.
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.gates import PRECISIONS, TF32, TIERS, Array, Precision, Zeros, is_float
from parity.trace import map_leaves

SETS = ("quick", "designed", "exhaustive")
SCALES = {"quick": (1.0,), "designed": (1.0, 4.0, 0.1), "exhaustive": (1.0, 4.0, 0.1, 2.0, 0.5, 0.02)}

MATMULS = ("ieee", "tf32")  # how matrices of float32 are multiplied

LEARNING_RATE = 0.01  # of the one step of Adam
# Enough to draw all rounding errors anew: a gate saturated to 0.999 must move by several units of roundoff itself.
# Little enough that the model is the same: its errors are of the same size.
JITTER = 16.0  # units of roundoff, in half precision
JITTER_AT_LEAST = 2.0**-11


@dataclass(frozen=True)
class Probe:
    """What both models are called with, and what is known about the answer.

    args, kwargs: NumPy arrays (nested in tuples, lists, dicts), `None`, or plain Python values. Floating
        arrays are differentiated; integers and booleans pass untouched.
    dtype, matmul, tiers: the precision under test; `parity.contracts` has the combinations that mean something.
    weight_scale: draw all weights at this scale; `None` keeps the weights that the models have.
    outputs: names of the outputs, in the order in which the leaves are returned.
    arg_names: names of `args`; `None` takes them from the reference's signature.
    zeros: arrays that are exactly zero by design, as `{"grad(x)": True}` or `{"output": mask}`.
    batch_axes: axis of an array along which rows must differ, as `{"output": 0, "h_n": 1}`.
    refused: the reference raises an exception for these arguments, and the candidate must raise one too.
    """

    name: str = "inputs"
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "float32"
    matmul: str = "ieee"
    tiers: tuple[str, ...] = TIERS
    weight_scale: float | None = None
    outputs: tuple[str, ...] | None = None
    arg_names: tuple[str, ...] | None = None
    zeros: Mapping[str, Zeros] = field(default_factory=dict)
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    refused: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in PRECISIONS:
            remedy = "float64 is the oracle's own precision" if self.dtype == "float64" else "choose one"
            raise ValueError(f"dtype={self.dtype!r} is not one of {sorted(PRECISIONS)}; {remedy}.")
        if self.matmul not in MATMULS:
            raise ValueError(f"matmul={self.matmul!r} is not one of {list(MATMULS)}.")
        if not self.tiers or not set(self.tiers) <= set(TIERS):
            raise ValueError(f"tiers={self.tiers!r}: expected one or both of {list(TIERS)}.")
        map_leaves(_check_leaf, (self.args, self.kwargs))

    @property
    def precision(self) -> Precision:
        """What the numeric gates measure by."""
        return TF32 if self.matmul == "tf32" else PRECISIONS[self.dtype]

    def rounded(self, values: Array) -> Array:
        """Round floating values to the precision under test; leaves other arrays alone."""
        values = np.asarray(values)
        return values.astype(numpy_dtype(self.dtype)) if is_float(values) else values

    def draw(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw standard normal numbers that depend on the probe's seed, the name and the shape alone."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return self.rounded(rng.standard_normal(shape, dtype=np.float32))

    def cotangent(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw the direction in which one output is differentiated."""
        return self.draw(f"cotangent({name})", shape)

    def weights(self, parameters: Mapping[str, Array]) -> dict[str, Array]:
        """Draw a value for each parameter, by name and shape.

        Matrices have a standard deviation of 1.3/sqrt(columns), vectors 0.5, each times `weight_scale`; the
        vector called `weight` is a norm's scale and stays around 1.
        """
        if self.weight_scale is None:
            raise ValueError("this probe keeps the models' own weights (weight_scale is None).")
        return {name: self._weight(name, array.shape) for name, array in parameters.items()}

    def _weight(self, name: str, shape: tuple[int, ...]) -> Array:
        assert self.weight_scale is not None
        normal = self.draw(name, shape).astype(np.float32)
        if len(shape) < 2 and name.rpartition(".")[2] == "weight":
            return self.rounded(1.0 + 0.3 * normal)
        spread = 1.3 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.5
        return self.rounded(np.float32(self.weight_scale * spread) * normal)

    def describe(self) -> dict[str, Any]:
        """Say what was asked, for the report."""
        shapes: dict[str, Any] = {}
        names = self.arg_names or ()
        for number, value in enumerate(self.args):
            shapes[names[number] if number < len(names) else f"args.{number}"] = map_leaves(_describe, value)
        shapes |= {name: map_leaves(_describe, value) for name, value in self.kwargs.items()}
        precision = {"dtype": self.dtype, "matmul": self.matmul, "tiers": list(self.tiers)}
        return {"seed": self.seed, **precision, "weight_scale": self.weight_scale, "inputs": shapes}


def as_probe(inputs: Any, dtype: str, seed: int) -> Probe:
    """Make a probe of a tuple (positional) or a dict (keyword) of arrays; a probe is returned as it is."""
    if isinstance(inputs, Probe):
        return inputs
    if isinstance(inputs, Mapping):
        return Probe(kwargs=dict(inputs), dtype=dtype, seed=seed)
    if isinstance(inputs, tuple):
        return Probe(args=inputs, dtype=dtype, seed=seed)
    raise TypeError(
        f"inputs must be a Probe, a tuple (positional) or a dict (keyword) of arrays, not "
        f"{type(inputs).__name__}; for a single array write (x,)."
    )


def jittered(probe: Probe, weights: Mapping[str, Array], number: int) -> tuple[Probe, dict[str, Array]]:
    """Change every input and weight a little: the same question, with other roundings."""
    rng = np.random.default_rng([probe.seed, number])
    unit = PRECISIONS[probe.dtype].unit_roundoff  # of what is stored, whatever products round to
    spread = max(JITTER * unit, JITTER_AT_LEAST)

    def move(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or not is_float(values):
            return values
        exact = probe.rounded(values).astype(np.float64)
        return probe.rounded(exact * (1.0 + spread * rng.uniform(-1.0, 1.0, exact.shape)))

    args, kwargs = map_leaves(move, (probe.args, dict(probe.kwargs)))
    moved = {name: move(array) for name, array in weights.items()}
    return dataclasses.replace(probe, args=args, kwargs=kwargs), moved


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a callable's positional parameters."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of that name, bfloat16 included."""
    if name == "bfloat16":
        from ml_dtypes import bfloat16

        return np.dtype(bfloat16)
    return np.dtype(name)


def _check_leaf(leaf: Any) -> None:
    if isinstance(leaf, np.ndarray):
        if not (is_float(leaf) or leaf.dtype.kind in "iub"):
            raise TypeError(f"inputs are real numbers, integers or booleans, not {leaf.dtype}.")
    elif not isinstance(leaf, np.generic | bool | int | float | str):
        raise TypeError(
            f"inputs are NumPy arrays (nested in tuples, lists or dicts), not {type(leaf).__name__}; "
            "convert with np.asarray."
        )


def _describe(leaf: Any) -> Any:
    return f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, np.ndarray) else repr(leaf)
