"""Named arrays in files: .safetensors, .npz, .pt and .pth, without running anything that is in them."""

import os
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxrnn import torch_file
from jaxrnn.torch_pickle import DTYPES
from jaxrnn.whole_files import write_whole


def write(mapping: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write arrays by name to a file of the kind its suffix names: .safetensors, .npz, .pt or .pth.

    The file appears under its name only once all of it is on disk. An .npz file cannot say that it holds
    bfloat16, so such an array is stored as uint16 under ``"name|bfloat16"``; `read` turns it back.
    """
    writer = _format(path)[1]
    arrays = {name: _writable(name, value) for name, value in mapping.items()}
    write_whole(path, lambda file: writer(arrays, file))


def read(path: str | os.PathLike[str], key: str | None = None) -> dict[str, np.ndarray]:
    """Return the state dict in a .safetensors, .npz, .pt or .pth file; nothing in the file is run.

    A training checkpoint, ``{"model_state": {...}, "optimizer_state": {...}, ...}``, holds more than that:
    `key` says which entry is the state dict, "a.b" of one within another, and is never guessed.

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
    entries = _state_dicts(content)
    if not entries:
        raise ValueError(
            f"no entry of the file is a state dict, of {list(content)}; save a model's state_dict()."
        )
    if key not in entries:
        problem = (
            "it holds more than a state dict" if key is None else f"there is no state dict {key!r} in it"
        )
        raise ValueError(
            f"{problem}; name its entry, read(path, key=...) or --key, one of "
            f"{list(entries)[:_SHOWN_ENTRIES]}."
        )
    return entries[key]


_SHOWN_ENTRIES = 20
_SEARCHED_ENTRIES = 1000  # of a dictionary that may contain itself


def _state_dicts(content: dict) -> dict[str, dict[str, np.ndarray]]:
    """Return the state dicts within a checkpoint by their keys, outer ones first: "model", "ema.model"."""
    found: dict[str, dict[str, np.ndarray]] = {}
    waiting = deque([("", content)])
    for _ in range(_SEARCHED_ENTRIES):
        if not waiting:
            break
        prefix, outer = waiting.popleft()
        for name, inner in outer.items():
            if not (isinstance(name, str) and isinstance(inner, dict) and inner):
                continue
            if _is_state_dict(inner):
                found.setdefault(f"{prefix}{name}", inner)
            else:
                waiting.append((f"{prefix}{name}.", inner))
    return found


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


def read_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; bfloat16 as it was written here."""
    with np.load(file, allow_pickle=False) as archive:
        return dict(_unmarked(name, archive[name]) for name in archive.files)


def _unmarked(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    stem, mark, dtype = name.rpartition("|")
    return (stem, array.view(DTYPES[dtype])) if mark else (name, array)


def write_npz(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write arrays by name as an .npz file."""
    with zipfile.ZipFile(file, "w") as archive:  # np.savez cannot store an array named "file"
        for name, array in arrays.items():
            if "|" in name:
                raise ValueError(
                    f"{name!r}: in an .npz file '|' marks a dtype; rename it or use .safetensors."
                )
            if "\0" in name:
                raise ValueError(f"{name!r}: a zip file ends a name at a zero byte; rename it.")
            if array.dtype.kind == "V":  # bfloat16 and the like, which are not NumPy's own
                name, array = f"{name}|{array.dtype.name}", array.view(f"u{array.itemsize}")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as record:
                np.lib.format.write_array(record, array, allow_pickle=False)


_FORMATS: dict[
    str, tuple[Callable[[BinaryIO], Any], Callable[[Mapping[str, np.ndarray], BinaryIO], None]]
] = {
    ".safetensors": (_read_safetensors, _write_safetensors),
    ".npz": (read_npz, write_npz),
    ".pt": (torch_file.load, torch_file.dump),
    ".pth": (torch_file.load, torch_file.dump),
}


def _format(path: str | os.PathLike[str]) -> tuple[Callable, Callable]:
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise ValueError(
            f"{path}: suffix {suffix!r} is not one of {list(_FORMATS)}; rename the file. Weights of Keras and ONNX "
            "are read by jaxrnn.formats.read and `jaxrnn convert`."
        )
    return _FORMATS[suffix]
