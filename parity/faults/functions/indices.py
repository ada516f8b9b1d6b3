"""Mistakes in what a tensor is indexed with: another step, another layer, the other direction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from parity.faults.functions.called import INDEX, Function
from parity.faults.substitution import Substitution, is_own_call
from parity.longhand import surface, torch_modules

Tensor = torch.Tensor
Change = Callable[[Any, int, int], Any]  # of one index, the axis and the tensor's axes
_INPUTS, _LABELS = slice(None, -1), slice(1, None)


def _reindexed(input: Tensor, index: Any, change: Callable[[Any, int], Any]) -> Tensor:
    """Index a tensor by `change(index, axis)` of each of its indices."""
    if not isinstance(index, tuple):
        return input[change(index, 0)]
    if any(part is None or part is Ellipsis for part in index) or len(index) > input.ndim:
        return input[index]
    return input[tuple(change(part, axis) for axis, part in enumerate(index))]


def _labels_for_inputs(input: Tensor, index: Any) -> Tensor:
    def change(index: Any, axis: int) -> Any:
        if not isinstance(index, slice):
            return index
        exchanged = {(None, -1, None): _LABELS, (1, None, None): _INPUTS}
        return exchanged.get((index.start, index.stop, index.step), index)

    return _reindexed(input, index, change)


def _renumbered(numbers: Mapping[int, int], smallest: int) -> Function:
    """Return what reads indices as others; in a shorter axis two of them are one, and the mistake is another's."""

    def getitem(input: Tensor, index: Any) -> Tensor:
        return _reindexed(input, index, lambda part, axis: _read(part, input, axis, numbers, smallest))

    return getitem


def _read(index: Any, input: Tensor, axis: int, numbers: Mapping[int, int], smallest: int) -> Any:
    is_number = isinstance(index, int) and not isinstance(index, bool)
    wanted = is_number and input.ndim > axis and input.shape[axis] >= smallest
    return numbers.get(index, index) if wanted else index


@dataclass(frozen=True)
class Renumbered(Substitution):
    """Indices read as others: `numbers` says which as which.

    of_directions: in the axis of final states that holds both directions of a layer, or else in all other axes.
    """

    numbers: Mapping[int, int] = field(default_factory=dict, repr=False)
    of_directions: bool = False
    sizes: frozenset[int] = frozenset()  # of axes that hold directions, in the model that is run

    def possible(self, model: nn.Module) -> bool:
        """Tell whether a model has what would be misread: only two directions can be exchanged."""
        return not self.of_directions or bool(_sizes_of_directions(model))

    def bound(self, model: nn.Module) -> Renumbered:
        """Return the fault with the sizes of this model's axes of directions."""
        return dataclasses.replace(self, sizes=_sizes_of_directions(model))

    def call(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Index with the other numbers, in the axes that the fault is about."""
        if function not in self.functions or not is_own_call(function):
            return function(*args, **kwargs)
        input, index = args
        return _reindexed(input, index, lambda part, axis: self._number(part, input, axis))

    def _number(self, index: Any, input: Tensor, axis: int) -> Any:
        if self._holds_directions(input, axis) != self.of_directions:
            return index
        return _read(index, input, axis, self.numbers, smallest=2)

    def _holds_directions(self, input: Tensor, axis: int) -> bool:
        """Tell the first axis of h_n, [L*D, B, H], or the first two of [L, D, B, H], from steps and features."""
        leads = axis < max(1, input.ndim - 2)
        return leads and input.ndim > axis and input.shape[axis] in self.sizes


def _sizes_of_directions(model: nn.Module) -> frozenset[int]:
    networks = map(surface.network_of, torch_modules.recurrent_parts(model).values())
    return frozenset(
        size for n in networks if n.directions == 2 for size in (n.directions, n.directions * n.layers)
    )


_SHIFT = "feed target[:, :-1], predict target[:, 1:]"
_STATE = "h_n[-1] is the last layer's reverse direction, h_n[-2] its forward one"
_READOUT = "read out what the reference does: output[:, -1] is the last step, h_n[-1] the last layer"

FAULTS: tuple[Substitution, ...] = (
    Substitution(
        "A11", "teacher forcing off by one: [:, :-1] and [:, 1:] exchanged", _SHIFT, INDEX, _labels_for_inputs
    ),
    *(
        Renumbered(id, name, _STATE, INDEX, {}, numbers=numbers, of_directions=True)
        for id, name, numbers in (
            ("A12", "states [-1] and [-2] exchanged (directions)", {-1: -2, -2: -1}),
            ("A12-forward", "state [-1] read as [-2] (directions)", {-1: -2}),
            ("A12-reverse", "state [-2] read as [-1] (directions)", {-2: -1}),
        )
    ),
    *(
        Renumbered(id, name, _READOUT, INDEX, {}, numbers=numbers, variant=True)
        for id, name, numbers in (
            ("A12-before", "index -1 read as -2 (the step before the last, or the layer below it)", {-1: -2}),
            ("A12-after", "index -2 read as -1", {-2: -1}),
        )
    ),
    *(
        Substitution(id, name, _READOUT, INDEX, _renumbered(numbers, smallest=3), variant=True)
        for id, name, numbers in (
            ("A12-first", "index -1 read as 0", {-1: 0}),
            ("A12-last", "index 0 read as -1", {0: -1}),
        )
    ),
)
