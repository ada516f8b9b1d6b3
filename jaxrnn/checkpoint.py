"""Weights by PyTorch's names: out of any Flax NNX module, into it, and to and from files.

The parameters of this library's layers have torch's names, shapes and layout already, so for them the map is
the identity. Flax's own modules are translated by a table, `TRANSLATIONS`, one row for each kind of module.
"""

import difflib
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from jaxrnn import torch_file


class Renamed(NamedTuple):
    """What an attribute is called in torch, and whether its last two axes are swapped there."""

    name: str
    transposed: bool = False


# Rows in torch's registration order. A module kind that Flax and torch lay out alike needs one row, no code.
TRANSLATIONS: dict[type, dict[str, Renamed]] = {
    nnx.Linear: {"kernel": Renamed("weight", transposed=True), "bias": Renamed("bias")},
    nnx.Embed: {"embedding": Renamed("weight")},
    nnx.LayerNorm: {"scale": Renamed("weight"), "bias": Renamed("bias")},
    nnx.RMSNorm: {"scale": Renamed("weight")},
}


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict(..., strict=False)` could not match, as torch reports them."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def state_dict(module: nnx.Pytree) -> dict[str, np.ndarray]:
    """Return the parameters of a module by torch's names, as NumPy copies in torch's layout.

    The order is torch's: a module's own parameters, then those of its parts, each as it was set in
    ``__init__``. (Flax sorts the attributes of a module by name in `nnx.jit`, `nnx.clone` and `nnx.merge`;
    the order within recurrent layers and Flax's own modules survives that.) A tied parameter is listed under
    each of its names. What is not an `nnx.Param`, such as random streams, is left out.

    Raises NotImplementedError for a kind of module whose names or layout would be wrong in torch.
    """
    return {parameter.name: parameter.value() for parameter in parameters(module)}


def load_state_dict(
    module: nnx.Pytree, source: Mapping[str, Any] | str | os.PathLike[str], strict: bool = True
) -> IncompatibleKeys:
    """Copy parameters into a module by torch's names; everything or, on an error, nothing.

    `source` maps names to NumPy arrays, JAX arrays or torch tensors, or is the path of a file for `read`.
    Values are cast to the dtype of the module's parameter, as torch does; a value that is not floating point
    is refused where the parameter is. With ``strict=False`` names without a partner are returned and left
    alone; wrong shapes are an error all the same.

    Raises RuntimeError, in torch's words, naming everything that does not fit and what may have happened.
    """
    checkpoint = _as_checkpoint(source)
    ours = parameters(module)
    names = [parameter.name for parameter in ours]
    missing = [name for name in names if name not in checkpoint]
    unexpected = [name for name in checkpoint if name not in names]
    fitted, problems = _fit(ours, checkpoint)
    if strict and unexpected:
        problems.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    if strict and missing:
        problems.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if problems:
        text = f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(problems)
        remedies = _remedies(names, list(checkpoint), missing, unexpected) if strict else []
        raise RuntimeError("\nTo do: ".join([text, *remedies]))
    arrays = [parameter.placed(value) for parameter, value in fitted]
    for (parameter, _), array in zip(fitted, arrays, strict=True):
        parameter.variable.set_value(array)
    return IncompatibleKeys(missing, unexpected)


# Parameters by torch's names


@dataclass(frozen=True)
class Parameter:
    """A parameter in a module tree; its name, shape and values are as in torch."""

    name: str
    owner: Any  # the module that holds it
    variable: nnx.Param
    transposed: bool  # its last two axes are swapped in the module

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape torch gives it."""
        shape = self.variable.get_value().shape
        return (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape

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
        return np.array(self._swapped(np.asarray(array)), order="C")

    def placed(self, value: np.ndarray) -> jax.Array:
        """Return what the module would hold: the value in its layout and dtype, on its devices."""
        old = self.variable.get_value()
        with np.errstate(over="ignore"):  # too large for float16 becomes inf, as in torch
            value = np.array(self._swapped(value), dtype=old.dtype, order="C")
        with jax.enable_x64(True):  # or JAX would turn a float64 parameter into float32
            chosen = getattr(old, "committed", False)  # the user put it there
            return jax.device_put(value, old.sharding) if chosen else jnp.asarray(value)

    def _swapped(self, array: np.ndarray) -> np.ndarray:
        return np.swapaxes(array, -1, -2) if self.transposed else array


def parameters(module: nnx.Pytree) -> list[Parameter]:
    """Return every parameter of a module tree with its torch name, in torch's order."""
    if not isinstance(module, nnx.Pytree):
        raise TypeError(f"Expected a Flax NNX module, got {type(module).__name__}.")
    found = list(_walk(module, "", ()))
    names = [parameter.name for parameter in found]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Two parameters would be called {_quoted(twice)} in torch; rename one of them.")
    return found


def _walk(node: Any, prefix: str, ancestors: tuple[int, ...]) -> Iterator[Parameter]:
    where = prefix.removesuffix(".") or type(node).__name__
    if id(node) in ancestors:
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
    children = dict(_children(node))
    own = [name for name, child in children.items() if isinstance(child, nnx.Param)]
    for attribute in _registration_order(own, row):
        renamed = row.get(attribute, Renamed(attribute))
        yield Parameter(prefix + renamed.name, node, children[attribute], renamed.transposed)
    for name, child in children.items():
        if isinstance(child, nnx.Pytree | list | tuple | dict):
            yield from _walk(child, f"{prefix}{name}.", (*ancestors, id(node)))


def translation(kind: type) -> Mapping[str, Renamed] | None:
    """Return the row for a module kind: empty keeps the names, None means that there is no translation."""
    for base in kind.__mro__:
        if base in TRANSLATIONS:
            return TRANSLATIONS[base]
        if base.__module__.startswith("flax.nnx.nn."):
            return None
    return {}


def _children(node: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(node, nnx.Sequential):  # torch numbers its parts without naming the list
        node = node.layers
    if isinstance(node, nnx.List | list | tuple):
        return ((str(index), child) for index, child in enumerate(node))
    attributes = node if isinstance(node, dict) else vars(node)
    return ((name, child) for name, child in attributes.items() if not str(name).startswith("_pytree__"))


_RECURRENT_NAME = re.compile(
    r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|weight_ch)(?:_l(\d+)(_reverse)?)?"
)
_RECURRENT_ORDER = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch"]


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


# What a checkpoint may hold, and what may be wrong with it


def as_numpy(value: Any) -> np.ndarray | None:
    """Return an array or a torch tensor as a NumPy array of the same bits, or None for anything else."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value)
    if not hasattr(value, "detach"):
        return None
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which torch cannot hand to NumPy; int16 has its size
        int16 = tensor.new_empty(0).short().dtype
        return tensor.view(int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _as_checkpoint(source: Any) -> Mapping[str, Any]:
    if isinstance(source, str | os.PathLike):
        return read(source)
    if not isinstance(source, Mapping):
        raise TypeError(f"Expected a mapping of names to arrays or a path, got {type(source).__name__}.")
    nested = [str(name) for name, value in source.items() if isinstance(value, Mapping)]
    if nested:
        raise TypeError(
            f"The checkpoint is nested: pass one of its entries {_quoted(nested)}, the state dict."
        )
    return source


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _fit(
    ours: list[Parameter], checkpoint: Mapping[str, Any]
) -> tuple[list[tuple[Parameter, np.ndarray]], list[str]]:
    """Return the parameters found in the checkpoint with their values, and what is wrong with the others."""
    fitted: list[tuple[Parameter, np.ndarray]] = []
    problems: list[str] = []
    for parameter in ours:
        if parameter.name in checkpoint:
            try:
                fitted.append((parameter, _fitting(parameter, checkpoint[parameter.name])))
            except ValueError as error:
                problems.append(str(error))
    first: dict[int, tuple[str, np.ndarray]] = {}
    for parameter, value in fitted:
        name, other = first.setdefault(id(parameter.variable), (parameter.name, value))
        if other is not value and other.tobytes() != value.tobytes():
            problems.append(f"{name} and {parameter.name} are one tied parameter, but their values differ.")
    return fitted, problems


def _fitting(parameter: Parameter, source: Any) -> np.ndarray:
    value = as_numpy(source)
    name, dtype = parameter.name, parameter.dtype
    if value is None:
        raise ValueError(
            f'While copying the parameter named "{name}", expected torch.Tensor or Tensor-like object from '
            f"checkpoint but received {type(source)}"
        )
    if value.shape != parameter.shape:
        raise ValueError(
            f"size mismatch for {name}: copying a param with shape torch.Size({list(value.shape)}) from "
            f"checkpoint, the shape in current model is torch.Size({list(parameter.shape)})."
        )
    kinds = (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)
    if any(jnp.issubdtype(dtype, kind) != jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise ValueError(
            f"dtype mismatch for {name}: {value.dtype} does not become {dtype}; convert it first."
        )
    return value


# A part of a name, and what to construct where only the model has it, and where only the checkpoint has it.
_ARGUMENTS = {
    "_reverse": ("bidirectional=False", "bidirectional=True"),
    "weight_hr": ("proj_size=0", "the proj_size of the checkpoint"),
    "weight_ch": ("an LSTM, not a PeepholeLSTM", "a PeepholeLSTM, not an LSTM"),
    "bias": ("bias=False", "bias=True"),
}


def _remedies(ours: list[str], theirs: list[str], missing: list[str], unexpected: list[str]) -> list[str]:
    """Guess from the names what to do: strip a prefix, change a constructor argument, rename."""
    if prefix := _only_prefix(theirs, ours):
        return [
            f"every name in the checkpoint starts with {prefix!r}: strip it, name.removeprefix({prefix!r})."
        ]
    if prefix := _only_prefix(ours, theirs):
        return [f"the checkpoint is of the model's {prefix[:-1]!r} alone: load it into that part."]
    advice = [
        f"{name!r} may be {close!r} in the checkpoint."
        for name in missing[:5]
        for close in difflib.get_close_matches(name, unexpected, n=1)
    ]
    if not {*ours} & {*theirs}:
        return advice
    for part, (only_ours, only_theirs) in _ARGUMENTS.items():
        here, there = (any(part in name for name in names) for names in (ours, theirs))
        if here != there:
            advice.append(
                f"to match the checkpoint, construct the model with {only_ours if here else only_theirs}."
            )
    if _layers(ours) != _layers(theirs):
        advice.append(f"to match the checkpoint, construct the model with num_layers={_layers(theirs)}.")
    return advice


def _only_prefix(names: list[str], others: list[str]) -> str:
    """Return "first." when every name starts with it and some other would match without it, else ""."""
    prefix = names[0].partition(".")[0] + "." if names else ""
    alike = all(name.startswith(prefix) for name in names)
    return prefix if alike and {name.removeprefix(prefix) for name in names} & {*others} else ""


def _layers(names: list[str]) -> int:
    return 1 + max((int(layer) for name in names for layer in re.findall(r"_ih_l(\d+)", name)), default=-1)


# Files


def save(module: nnx.Pytree, path: str | os.PathLike[str]) -> None:
    """Write the `state_dict` of a module to a .safetensors, .npz, .pt or .pth file, whole or not at all."""
    write(state_dict(module), path)


def write(mapping: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write arrays by name to a file of the kind its suffix names: .safetensors, .npz, .pt or .pth.

    The file appears under its name only once all of it is on disk. An .npz file cannot say that it holds
    bfloat16, so such an array is stored as uint16 under ``"name|bfloat16"``; `read` turns it back.
    """
    writer = _format(path)[1]
    arrays = {name: _writable(name, value) for name, value in mapping.items()}
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder; create it first.")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            writer(arrays, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], key: str | None = None) -> dict[str, np.ndarray]:
    """Return the state dict in a .safetensors, .npz, .pt or .pth file; nothing in the file is run.

    A training checkpoint, ``{"model_state": {...}, "optimizer_state": {...}, ...}``, holds more than that:
    `key` says which entry is the state dict, and is never guessed.

    Raises ValueError for a file that is damaged or of another kind, and UnpicklingError for a .pt file that
    is damaged or refers to code.
    """
    reader = _format(path)[0]
    with open(path, "rb") as file:
        try:
            content = reader(file)
        except UnpicklingError as error:
            raise UnpicklingError(f"{path}: {error}") from error
        except Exception as error:  # whatever a parser says of a damaged file
            raise ValueError(f"{path}: damaged or of another kind ({error}); write it again.") from error
    try:
        return _choose(content, key)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _writable(name: Any, value: Any) -> np.ndarray:
    array = as_numpy(value)
    if not isinstance(name, str) or array is None or not _is_numeric(array):
        raise TypeError(f"{name!r}: expected a name and an array of numbers, got {type(value).__name__}.")
    return np.asarray(array, order="C")


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype == bool or jnp.issubdtype(value.dtype, np.number))


def _is_state_dict(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    return all(isinstance(name, str) and _is_numeric(value) for name, value in content.items())


def _choose(content: Any, key: str | None) -> dict[str, np.ndarray]:
    if _is_state_dict(content):
        if key is not None:
            raise ValueError(
                f"the file is itself a state dict, with no entry {key!r} to choose; leave out the key."
            )
        return content
    if not isinstance(content, dict):
        raise ValueError(f"the file holds a {type(content).__name__}; save a model's state_dict().")
    entries = [name for name, entry in content.items() if _is_state_dict(entry) and entry]
    if not entries:
        raise ValueError(
            f"no entry of the file is a state dict, of {list(content)}; save a model's state_dict()."
        )
    if key not in entries:
        raise ValueError(
            f"it holds more than a state dict; name its entry, read(path, key=...) or --key, one of {entries}."
        )
    return content[key]


def _read_safetensors(file: BinaryIO) -> dict[str, np.ndarray]:
    # The package's NumPy reader does not know bfloat16.
    return {
        name: np.frombuffer(tensor["data"], _SAFETENSORS_DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in safetensors.deserialize(file.read())
    }


def _write_safetensors(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    file.write(safetensors.numpy.save(dict(arrays)))


_SAFETENSORS_DTYPES = {
    **{
        f"{letter}{8 * size}": np.dtype(f"{code}{size}")
        for letter, code in ("Ii", "Uu")
        for size in (1, 2, 4, 8)
    },
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "BOOL": np.dtype(bool),
    "C64": np.dtype(np.complex64),
}


def _read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        return dict(_unmarked(name, archive[name]) for name in archive.files)


def _unmarked(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    stem, mark, dtype = name.rpartition("|")
    return (stem, array.view(torch_file.DTYPES[dtype])) if mark else (name, array)


def _write_npz(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # np.savez cannot store an array named "file"
        for name, array in arrays.items():
            if "|" in name:
                raise ValueError(
                    f"{name!r}: in an .npz file '|' marks a dtype; rename it or use .safetensors."
                )
            if array.dtype.kind == "V":  # bfloat16 and the like, which are not NumPy's own
                name, array = f"{name}|{array.dtype.name}", array.view(f"u{array.itemsize}")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as record:
                np.lib.format.write_array(record, array, allow_pickle=False)


_FORMATS: dict[
    str, tuple[Callable[[BinaryIO], Any], Callable[[Mapping[str, np.ndarray], BinaryIO], None]]
] = {
    ".safetensors": (_read_safetensors, _write_safetensors),
    ".npz": (_read_npz, _write_npz),
    ".pt": (torch_file.load, torch_file.dump),
    ".pth": (torch_file.load, torch_file.dump),
}


def _format(path: str | os.PathLike[str]) -> tuple[Callable, Callable]:
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise ValueError(f"{path}: suffix {suffix!r} is not one of {list(_FORMATS)}; rename the file.")
    return _FORMATS[suffix]
