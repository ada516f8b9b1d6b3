"""The parameters and buffers of any Flax NNX module by PyTorch's names, in PyTorch's order and layout.

The parameters of this library's layers have torch's names, shapes and layout already, so for them the map is
the identity. Flax's own modules are translated by a table, `TRANSLATIONS`, one row for each kind of module.

A module whose attributes must keep torch's order, whatever Flax does to them, names them in `torch_order`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Layout = Callable[[int], tuple[int, ...]]  # of a rank: which of the module's axes stand where in torch


def _alike(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def _transposed(rank: int) -> tuple[int, ...]:
    """[..., in, out] is [..., out, in]."""
    return (*range(rank - 2), rank - 1, rank - 2)


def _channels_first(rank: int) -> tuple[int, ...]:
    """[*space, in, out] is [out, in, *space]."""
    return (rank - 1, rank - 2, *range(rank - 2))


class Buffer(nnx.BatchStat):
    """What torch calls a buffer: in the state dict, but not trained, such as a running mean."""


class Frozen(nnx.Variable):
    """A weight that is not trained: torch's `requires_grad=False`. What looks for an `nnx.Param` passes it by."""


class Renamed(NamedTuple):
    """What an attribute is called in torch, and how its axes lie there."""

    name: str
    layout: Layout = _alike


# Rows in torch's registration order. A module kind that Flax and torch lay out alike needs one row, no code.
TRANSLATIONS: dict[type, dict[str, Renamed]] = {
    nnx.Linear: {"kernel": Renamed("weight", _transposed), "bias": Renamed("bias")},
    nnx.Conv: {"kernel": Renamed("weight", _channels_first), "bias": Renamed("bias")},
    nnx.Embed: {"embedding": Renamed("weight")},
    nnx.LayerNorm: {"scale": Renamed("weight"), "bias": Renamed("bias")},
    nnx.RMSNorm: {"scale": Renamed("weight")},
}


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer in a module tree; its name, shape and values are as in torch."""

    name: str
    path: tuple[Any, ...]  # modules, from the outermost to the one that holds it
    attribute: str  # what the one that holds it calls it
    variable: nnx.Variable
    layout: Layout

    @property
    def owner(self) -> Any:
        """The module that holds it."""
        return self.path[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape torch gives it."""
        shape = self.variable.get_value().shape
        return tuple(shape[axis] for axis in self.layout(len(shape)))

    @property
    def dtype(self) -> np.dtype:
        """The dtype it has in the module."""
        return np.dtype(self.variable.get_value().dtype)

    def value(self) -> np.ndarray:
        """Return a copy: training may overwrite the buffer of a NumPy view."""
        array = self.variable.get_value()
        if isinstance(array, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{self.name}: the module is abstract; give it values with load_state_dict first."
            )
        value = np.array(np.transpose(array, self.layout(array.ndim)), order="C")
        # torch counts in int64, which JAX has with 64 bits only.
        counts = isinstance(self.variable, Buffer) and value.dtype == np.int32
        return value.astype(np.int64) if counts else value

    def placed(self, value: np.ndarray) -> jax.Array:
        """Return what the module would hold: the value in its layout and dtype, on its devices."""
        old = self.variable.get_value()
        value = np.transpose(value, np.argsort(self.layout(value.ndim)))
        with np.errstate(over="ignore"):  # too large for float16 becomes inf, as in torch
            value = np.array(value, dtype=old.dtype, order="C")
        with jax.enable_x64(True):  # or JAX would turn a float64 parameter into float32
            chosen = getattr(old, "committed", False)  # the user put it there
            return jax.device_put(value, old.sharding) if chosen else jnp.asarray(value)


def parameters(module: nnx.Pytree) -> list[Parameter]:
    """Return every parameter that is trained of a module tree, with its torch name, in torch's order."""
    return [entry for entry in entries(module) if isinstance(entry.variable, nnx.Param)]


def entries(module: nnx.Pytree) -> list[Parameter]:
    """Return what the state dict of a module tree holds, in torch's order: parameters, frozen ones, buffers."""
    if not isinstance(module, nnx.Pytree):
        raise TypeError(f"Expected a Flax NNX module, got {type(module).__name__}.")
    found = list(_walk(module, "", ()))
    names = [parameter.name for parameter in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Two parameters would be called {quoted(twice)} in torch; rename one of them.")
    return found


def _walk(node: Any, prefix: str, ancestors: tuple[Any, ...]) -> Iterator[Parameter]:
    where = prefix.removesuffix(".") or type(node).__name__
    if any(node is ancestor for ancestor in ancestors):
        raise ValueError(f"{where} contains itself, so its parameters have no end of names. Break the cycle.")
    row = translation(type(node))
    if row is None:
        if jax.tree.leaves(nnx.state(node, nnx.Not(nnx.RngState))):
            raise NotImplementedError(
                f"{where}: flax's {type(node).__name__} has no translation; under its own names and layout "
                f"it would be wrong in torch. Translated are {[kind.__name__ for kind in TRANSLATIONS]} and "
                "modules whose nnx.Param attributes have torch's names; convert this part by hand."
            )
        return
    path = (*ancestors, node)
    children = dict(parts(node))
    own = [name for name, child in children.items() if isinstance(child, nnx.Param | Frozen)]
    buffers = [name for name, child in children.items() if isinstance(child, Buffer)]
    for attribute in [*_registration_order(own, row), *buffers]:
        renamed = row.get(attribute, Renamed(attribute))
        yield Parameter(prefix + renamed.name, path, attribute, children[attribute], renamed.layout)
    for name, child in children.items():
        if isinstance(child, nnx.Pytree | list | tuple | dict):
            yield from _walk(child, f"{prefix}{name}.", path)


def translation(kind: type) -> Mapping[str, Renamed] | None:
    """Return the row for a module kind: empty keeps the names, None means that there is no translation."""
    for base in kind.__mro__:
        if base in TRANSLATIONS:
            return TRANSLATIONS[base]
        if base.__module__.startswith("flax.nnx.nn."):
            return None
    return {}


def parts(node: Any) -> Iterable[tuple[str, Any]]:
    """Return what a module, list or dict holds, by torch's names for the parts, in torch's order."""
    if isinstance(node, nnx.Sequential):  # torch numbers its parts without naming the list
        node = node.layers
    if isinstance(node, nnx.List | list | tuple):
        return ((str(index), child) for index, child in enumerate(node))
    attributes = node if isinstance(node, dict) else vars(node)
    if order := getattr(node, "torch_order", ()):
        rest = [name for name in attributes if name not in order]
        attributes = {name: attributes[name] for name in (*order, *rest) if name in attributes}
    return ((name, child) for name, child in attributes.items() if not str(name).startswith("_pytree__"))


def lost_order(module: nnx.Pytree) -> str | None:
    """Return the first part of which torch's order of parameters is not known any more, by its path; else None.

    `nnx.jit`, `nnx.value_and_grad`, `nnx.clone` and `nnx.merge` sort the attributes of a module by name.
    """
    for path, node in nnx.iter_graph(module):
        if (
            isinstance(node, nnx.Module)
            and _goes_by_attributes(node)
            and list(vars(node)) == sorted(vars(node))
        ):
            return ".".join(map(str, path)) or type(node).__name__
    return None


def _goes_by_attributes(node: nnx.Module) -> bool:
    """Return whether the order of a module's parameters is that in which two or more attributes were set."""
    if isinstance(node, nnx.List | nnx.Sequential) or hasattr(node, "torch_order"):
        return False
    children = dict(parts(node))
    own = [name for name, child in children.items() if isinstance(child, nnx.Param | Frozen)]
    known = translation(type(node)) != {} or None not in map(recurrent_position, own)
    kinds = nnx.Pytree | list | tuple | dict
    inner = [c for c in children.values() if isinstance(c, kinds) and not isinstance(c, nnx.Variable)]
    holding = [child for child in inner if jax.tree.leaves(nnx.state(child, nnx.Param))]
    return len(holding) > 1 or (len(own) > 1 and not known)


_RECURRENT_ORDER = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch"]
_RECURRENT_NAME = re.compile(rf"({'|'.join(_RECURRENT_ORDER)})(?:_l(\d+)(_reverse)?)?")


def recurrent_position(name: str) -> tuple[int, bool, int] | None:
    """Return where torch registers a recurrent parameter: by layer, direction, then tensor."""
    match = _RECURRENT_NAME.fullmatch(name)
    if match is None:
        return None
    tensor, layer, reverse = match.groups()
    return int(layer or 0), reverse is not None, _RECURRENT_ORDER.index(tensor)


def _registration_order(attributes: list[str], row: Mapping[str, Renamed]) -> list[str]:
    if row:
        order = list(row)
        return sorted(attributes, key=lambda name: order.index(name) if name in row else len(order))
    positions = {name: recurrent_position(name) for name in attributes}
    if None in positions.values():
        return attributes
    return sorted(attributes, key=lambda name: positions[name] or ())


def quoted(names: Iterable[str]) -> str:
    """Return the names as torch's messages list them."""
    return ", ".join(f'"{name}"' for name in names)
