"""The named arrays of one run, and how nested values get their names. NumPy only.

Names are torch's: `output`, `h_n`, `c_n`, `weight_hh_l0`, `grad(weight_hh_l0)`, `grad(h_0)`,
`step(weight_hh_l0)`. Each entry also carries the path that the model itself knows it by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.gates import Array

KINDS = ("param", "output", "state", "grad", "step")
AMPLIFYING = (
    "output",
    "state",
    "grad",
)  # where rounding errors grow; a step from given gradients rounds once
_STATES = ("h_n", "c_n", "h_1", "c_1")


@dataclass(frozen=True)
class Entry:
    """One array of a run, its kind (one of `KINDS`), and its name on its own side."""

    array: Array
    kind: str
    path: str


class Trace(Mapping[str, Array]):
    """An ordered, read-only mapping of name to array; `entry(name)` also tells kind and path."""

    def __init__(self, entries: Mapping[str, Entry]):
        for name, entry in entries.items():
            if entry.kind not in KINDS:
                raise ValueError(f"{name}: kind {entry.kind!r} is not one of {list(KINDS)}.")
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Array:
        return self._entries[name].array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, name: str) -> Entry:
        """Return the array with its kind and path."""
        return self._entries[name]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each name."""
        return {name: entry.kind for name, entry in self._entries.items()}

    @property
    def paths(self) -> dict[str, str]:
        """The name of each array on its own side."""
        return {name: entry.path for name, entry in self._entries.items()}

    def of_kind(self, *kinds: str) -> Trace:
        """Return the entries of some kinds only."""
        return Trace({name: entry for name, entry in self._entries.items() if entry.kind in kinds})

    def save(self, path: str | Path) -> None:
        """Write an `.npz` without pickles; types that NumPy cannot write (bfloat16) keep their bits."""
        path = _npz(path)
        manifest: list[list[str]] = []
        arrays: dict[str, Any] = {}
        for number, (name, entry) in enumerate(self._entries.items()):
            array = entry.array
            manifest.append([name, entry.kind, entry.path, array.dtype.name])
            arrays[str(number)] = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
        np.savez_compressed(path, manifest=np.array(json.dumps(manifest)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote."""
        with np.load(_npz(path), allow_pickle=False) as file:
            if "manifest" not in file:
                raise ValueError(f"{path} is not a trace: it has no manifest. Write it with Trace.save.")
            entries = {}
            for number, (name, kind, own, dtype) in enumerate(json.loads(str(file["manifest"]))):
                array = file[str(number)]
                if dtype == "bfloat16":
                    from ml_dtypes import bfloat16

                    array = array.view(bfloat16)
                entries[name] = Entry(array, kind, own)
        return cls(entries)


def named_leaves(tree: Any, path: str) -> dict[str, Any]:
    """Return the leaves of nested tuples, lists and dicts by path (`output.0.1`); `None` is no leaf."""
    if tree is None:
        return {}
    if isinstance(tree, Mapping):
        children = ((str(key), child) for key, child in tree.items())
    elif isinstance(tree, list | tuple):
        children = ((str(number), child) for number, child in enumerate(tree))
    else:
        return {path: tree}
    return {
        name: leaf
        for key, child in children
        for name, leaf in named_leaves(child, f"{path}.{key}" if path else key).items()
    }


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to every leaf of nested tuples, lists and dicts, and keeps the nesting."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, child) for key, child in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, child) for child in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_leaves(function, child) for child in tree)
    return function(tree)


def name_outputs(tree: Any, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Name what a model returned.

    `names`, where given and as many as there are leaves, are used in order. Otherwise a lone array is
    `output`, a pair of an array and a pair is torch's `output, (h_n, c_n)`, and the rest is named by path.
    """
    leaves = named_leaves(tree, "output")
    for path, leaf in leaves.items():
        if not hasattr(leaf, "shape"):
            raise TypeError(f"{path} is a {type(leaf).__name__}; return arrays in tuples, lists or dicts.")
    if names is None or len(names) != len(leaves):
        names = ("output", "h_n", "c_n") if _is_array_and_pair(tree) else tuple(leaves)
    return dict(zip(names, leaves.values(), strict=True))


def name_inputs(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], arg_names: tuple[str, ...]
) -> dict[str, Any]:
    """Name what a model was given, by its parameters' names; an `hx` is `h_0`, or `h_0` and `c_0`."""
    if len(arg_names) < len(args):
        arg_names = (*arg_names, *(f"args.{n}" for n in range(len(arg_names), len(args))))
    named = [*zip(arg_names, args, strict=False), *kwargs.items()]
    result: dict[str, Any] = {}
    for name, value in named:
        leaves = named_leaves(value, name)
        if name == "hx" and len(leaves) <= 2:
            leaves = dict(zip(("h_0", "c_0"), leaves.values(), strict=False))
        result |= leaves
    return result


def output_kind(name: str) -> str:
    """Tell a recurrent state from an output, so that a report can say which of them is wrong."""
    return "state" if name in _STATES else "output"


def _is_array_and_pair(tree: Any) -> bool:
    if not isinstance(tree, list | tuple) or len(tree) != 2:
        return False
    first, second = tree
    pair = isinstance(second, list | tuple) and len(second) == 2
    return pair and not any(isinstance(leaf, list | tuple | Mapping) for leaf in (first, *second))


def _npz(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: a trace is written as .npz; name it {path.with_suffix('.npz').name}.")
    return path
