"""What the array libraries call by different names; what they share is the array API standard's namespace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

Body = Callable[[Any, Any], tuple[Any, Any]]  # (state, inputs of one step) -> (state, outputs of one step)


@dataclass(frozen=True)
class Library:
    """An array library: `xp` is its namespace after the array API standard; the rest is not in the standard."""

    name: str
    xp: Any
    sigmoid: Callable[[Any], Any]
    erf: Callable[[Any], Any]
    stop_gradient: Callable[[Any], Any]
    scan: Callable[[Body, Any, Any], tuple[Any, Any]]  # along axis 0 of the inputs; stacks the outputs there


def library_of(array: Any) -> Library:
    """Return the library that an array belongs to."""
    if array_api_compat.is_torch_array(array):
        from parity.longhand import torch_arrays

        return torch_arrays.LIBRARY
    if array_api_compat.is_jax_array(array):
        from parity.longhand import jax_arrays

        return jax_arrays.LIBRARY
    return _numpy()


def map_tree(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to the leaves of alike nested tuples and dicts; `None` is no leaf."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {
            key: map_tree(function, value, *(other[key] for other in others)) for key, value in tree.items()
        }
    if isinstance(tree, tuple):
        return tuple(map_tree(function, *values) for values in zip(tree, *others, strict=True))
    return function(tree, *others)


def loop(xp: Any, body: Body, state: Any, inputs: Any) -> tuple[Any, Any]:
    """Scan by calling `body` step after step."""
    steps: list[Any] = []
    map_tree(lambda leaf: steps.append(leaf.shape[0]), inputs)
    outputs = []
    for t in range(steps[0]):
        state, output = body(state, map_tree(lambda leaf, t=t: leaf[t], inputs))
        outputs.append(output)
    return state, map_tree(lambda *leaves: xp.stack(leaves), *outputs)


@functools.cache
def _numpy() -> Library:
    from math import erf

    import array_api_compat.numpy as xp

    return Library(
        "numpy",
        xp,
        sigmoid=lambda x: 0.5 * (1.0 + np.tanh(0.5 * x)),
        erf=np.vectorize(erf, otypes=[np.float64]),
        stop_gradient=lambda x: x,
        scan=functools.partial(loop, xp),
    )
