"""Inputs that a user knows by their shapes, drawn as probes for two models. NumPy only, torch where a model is run.

`x=5,9,3` is an array of normal numbers, `ids=int:5,9<100` of integers from 0 to 99, `lengths=int:5>=1<10` of
integers from 1 to 9, `mask=bool:5,9` of booleans.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.gates import Array
from parity.probe import SCALES, Probe, as_probe, parameter_names
from parity.trace import name_inputs

_GRAMMAR = re.compile(
    r"(?:(?P<kind>float|int|bool):)?(?P<shape>\d+(?:,\d+)*)(?:>=(?P<low>-?\d+))?(?:<(?P<high>-?\d+))?"
)
_EXAMPLES = "x=5,9,3 (float), ids=int:5,9<100, lengths=int:5>=1<10 or mask=bool:5,9"


@dataclass(frozen=True)
class Shape:
    """What is drawn for one argument; `low` and `high` (exclusive) belong to integers."""

    shape: tuple[int, ...]
    kind: str = "float"
    low: int = 0
    high: int = 0

    def __post_init__(self) -> None:
        if self.kind == "int" and self.low >= self.high:
            raise ValueError(
                f"integers from {self.low} to below {self.high}: there are none; write int:5,9<100."
            )

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read `5,9,3`, `int:5,9<100`, `int:5>=1<10` or `bool:5,9`."""
        found = _GRAMMAR.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError(f"{text!r} is no shape; write for instance {_EXAMPLES}.")
        kind = found["kind"] or "float"
        if kind != "int" and (found["low"] or found["high"]):
            raise ValueError(f"{text!r}: only integers have bounds, as in int:5,9<100.")
        shape = tuple(int(size) for size in found["shape"].split(","))
        return cls(shape, kind, int(found["low"] or 0), int(found["high"] or 0))

    def draw(self, rng: np.random.Generator, scale: float) -> Array:
        """Draw an array; `scale` is for floating numbers."""
        if self.kind == "int":
            return rng.integers(self.low, self.high, self.shape)
        if self.kind == "bool":
            return rng.random(self.shape) < 0.5
        return (scale * rng.standard_normal(self.shape)).astype(np.float32)


def parse_input(text: str) -> tuple[str, Shape]:
    """Read `x=5,9,3`: the name of an argument, and what is drawn for it."""
    name, equals, shape = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} names no argument; write for instance {_EXAMPLES}.")
    return name, Shape.parse(shape)


@dataclass(frozen=True)
class Drawn:
    """Arguments by name, each a `Shape` or an array, of which probes are made once the reference is known.

    probe_set: "quick" is one probe, "designed" one for each scale. own_weights: the models keep the weights that
    they have, and the scale is that of the inputs; else it is that of the weights, which are drawn on both sides.
    """

    arguments: Mapping[str, Shape | Array]
    probe_set: str = "designed"
    seed: int = 0
    dtype: str = "float32"
    own_weights: bool = False

    def probes(self, reference: Any) -> list[Probe]:
        """Draw the inputs for a `torch.nn.Module`, whose signature says which of them go by position."""
        positional = _positional(tuple(self.arguments), reference)
        return [self._probe(number, scale, positional) for number, scale in enumerate(SCALES[self.probe_set])]

    def _probe(self, number: int, scale: float, positional: int) -> Probe:
        rng = np.random.default_rng([self.seed, number])
        inputs = scale if self.own_weights else 1.0
        values = {
            name: value.draw(rng, inputs) if isinstance(value, Shape) else value
            for name, value in self.arguments.items()
        }
        names = tuple(values)
        return Probe(
            name=f"{scale:g}x",
            args=tuple(values[name] for name in names[:positional]),
            kwargs={name: values[name] for name in names[positional:]},
            seed=int(rng.integers(2**31)),
            dtype=self.dtype,
            weight_scale=None if self.own_weights else scale,
            arg_names=names[:positional] or None,
        )


def _positional(names: Sequence[str], reference: Any) -> int:
    """Return how many arguments go by position: those that are the first parameters, in their order.

    A candidate may call them otherwise (`inputs` for `x`), so that names are used only where there must be.
    """
    known = parameter_names(reference.forward)
    parameters = inspect.signature(reference.forward).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        # torch.nn's own layers are given `lengths` by the judge, as a packed sequence.
        unknown = [name for name in names if name not in parameters and name != "lengths"]
        if unknown:
            raise ValueError(
                f"{type(reference).__name__} has no argument {', '.join(unknown)}; it takes "
                f"{', '.join(parameters)}. Name the inputs as the reference's forward does."
            )
    count = 0
    while count < min(len(names), len(known)) and names[count] == known[count]:
        count += 1
    return count


def probes_of(
    inputs: Any,
    *,
    probe_set: str = "designed",
    seed: int = 0,
    dtype: str = "float32",
    own_weights: bool = False,
) -> list[Probe]:
    """Make probes of what a user's factory returned: a Probe, a list of them, a tuple or a dict of arrays.

    Probes are taken as they are, but for the weights: with `own_weights` they draw none. Arrays are put to the
    models once for each scale of drawn weights, or once with the models' own.
    """
    given = inputs if isinstance(inputs, list) else [inputs]
    if not given:
        raise ValueError("an empty list of probes asks nothing; give at least one.")
    if all(isinstance(each, Probe) for each in given):
        return [dataclasses.replace(each, weight_scale=None) for each in given] if own_weights else given
    if isinstance(inputs, list):
        raise TypeError("a list of inputs must hold Probes; for arrays write a tuple (positional) or a dict.")
    asked = as_probe(inputs, dtype, seed)
    if own_weights:
        return [asked]
    return [
        dataclasses.replace(asked, name=f"{scale:g}x", weight_scale=scale, seed=seed + number)
        for number, scale in enumerate(SCALES[probe_set])
    ]


def with_batch(reference: Any, probes: Sequence[Probe]) -> tuple[list[Probe], str]:
    """Return probes that know the batch axis of the outputs, and a note that says what was assumed.

    The batch is taken for the first axis of the first array of the inputs, and of every output of the reference
    whose first axis is as long. A probe that brings its own `batch_axes` is left alone.
    """
    from parity.oracle.evidence import complete
    from parity.running import torch_side

    axes: dict[str, int] = {}
    size = None
    unsaid = [probe for probe in probes if not probe.batch_axes]
    if not unsaid:
        return list(probes), "the batch axes are those that the probes declare"
    asked = complete(unsaid[0], reference)
    arrays = [
        leaf
        for leaf in name_inputs(asked.args, asked.kwargs, asked.arg_names or ()).values()
        if isinstance(leaf, np.ndarray) and leaf.ndim
    ]
    if arrays:
        size = arrays[0].shape[0]
        answered = torch_side.run(reference, asked, asked.dtype).of_kind("output", "state")
        axes = {name: 0 for name, array in answered.items() if array.ndim and array.shape[0] == size > 1}
    known = [probe if probe.batch_axes else dataclasses.replace(probe, batch_axes=axes) for probe in probes]
    if not axes:
        return known, "no output has a batch axis that could be recognised: rows that agree are not noticed"
    return known, f"axis 0 (size {size}) of {', '.join(axes)} was taken for the batch, whose rows must differ"


def ambiguous_axes(probes: Sequence[Probe]) -> list[str]:
    """Name the arrays that have two axes of one size: where the two are swapped, the shape does not tell."""
    found = []
    for probe in probes[:1]:
        leaves = name_inputs(probe.args, probe.kwargs, probe.arg_names or ())
        for name, leaf in leaves.items():
            sizes = [size for size in getattr(leaf, "shape", ()) if size > 1]
            if len(set(sizes)) < len(sizes):
                found.append(f"{name} {list(leaf.shape)}")
    return found
