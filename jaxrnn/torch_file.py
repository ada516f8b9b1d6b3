"""Reads and writes the zip files of `torch.save` without PyTorch, and without running anything in them.

A `.pt` file is an uncompressed zip archive, inside one folder::

    data.pkl     a pickle: the saved object, each tensor as (storage, offset, size, stride)
    data/0, ...  the raw bytes of each storage
    byteorder    "little" or "big"
    version      "3"

The pickle is a program, so it is not given to Python's `pickle`: `jaxrnn.torch_pickle` reads it. Files of before
PyTorch 1.6 are no archives; `jaxrnn.torch_legacy_file` knows them.

Source of the format: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np

from jaxrnn import torch_legacy_file, torch_pickle
from jaxrnn.torch_pickle import RESAVE, STORAGES, Storage, StorageType, damaged

_ALIGNMENT = 64  # torch aligns storages so that torch.load(mmap=True) can use them in place


def load(file: BinaryIO) -> Any:
    """Return what `torch.save` put in `file`: plain Python containers, with NumPy arrays for tensors.

    Tensors that share a storage share memory, as they do after `torch.load`. Module versions
    (`state_dict()._metadata`), `requires_grad` and devices are dropped.

    Raises `UnpicklingError` for a file that is damaged, is of another kind, or names anything beyond
    what tensors and plain containers need.
    """
    try:
        if torch_legacy_file.starts(file):
            return torch_legacy_file.load(file)
        with zipfile.ZipFile(file) as archive:
            reader = _Reader(archive, _size(file))
            return torch_pickle.run(reader.record("data.pkl"), reader.storage)
    except UnpicklingError:
        raise
    except zipfile.BadZipFile as error:
        raise UnpicklingError(
            f"this is not a file of torch.save, or it is damaged ({error}). {RESAVE}"
        ) from error
    except Exception as error:  # whatever zipfile and pickletools say of damaged bytes
        raise damaged(f"{type(error).__name__}: {error}") from error


def dump(tensors: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write a state dict that `torch.load(..., weights_only=True)` reads, an OrderedDict of tensors."""
    names = {dtype: name for name, dtype in STORAGES.items()}
    for name, array in tensors.items():
        if array.dtype not in names:
            raise TypeError(f"{name!r}: {array.dtype} cannot be written to a .pt file; use .safetensors.")
    storages = [names[array.dtype] for array in tensors.values()]
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", _program(tensors, storages))
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(tensors.values()):
            _add(archive, f"data/{key}", np.ascontiguousarray(array).tobytes())
        _add(archive, "version", b"3\n")


# Reading


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


class _Reader:
    """The records of one archive, with no more bytes than the file has."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self._archive = archive
        self._storages: dict[tuple[str, np.dtype], Storage] = {}
        self._names = archive.namelist()
        self._folder = self._find_folder()
        self._check_kind()
        self._check_size(size)

    def __contains__(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._names

    def _find_folder(self) -> str:
        folders = [name.split("/")[0] for name in self._names if name.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1:
            raise UnpicklingError(f"this zip file is not one of torch.save: it has no data.pkl. {RESAVE}")
        return folders[0]

    def _check_kind(self) -> None:
        if "constants.pkl" in self:
            raise UnpicklingError(
                "this is a TorchScript archive (torch.jit.save). In PyTorch, save "
                "`torch.jit.load(path).state_dict()` with torch.save."
            )
        if "byteorder" in self and self.record("byteorder") != b"little":
            raise UnpicklingError(
                "the file was written on a big-endian machine. Load it in PyTorch on a little-endian one "
                "and save it again."
            )

    def _check_size(self, size: int) -> None:
        entries = self._archive.infolist()
        # torch stores its records as they are. A compressed or overlapping one could claim any size.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UnpicklingError(f"a record is compressed, which torch never does. {RESAVE}")
        if sum(entry.file_size for entry in entries) > size:
            raise damaged("its records claim more bytes than it has")

    def record(self, name: str) -> bytes:
        if name not in self:
            raise damaged(f"it has no record {name!r}")
        return self._archive.read(f"{self._folder}/{name}")

    def storage(self, persistent_id: Any) -> Storage:
        """Return the storage a pickle refers to as ``("storage", type, key, device, number of elements)``."""
        tag, kind, key, _device, elements = persistent_id
        if tag != "storage" or type(kind) is not StorageType or type(key) is not str:
            raise damaged("a tensor refers to something that is no storage")
        if (key, kind.dtype) not in self._storages:
            raw = np.frombuffer(bytearray(self.record(f"data/{key}")), np.uint8)
            if type(elements) is not int or raw.nbytes != elements * kind.dtype.itemsize:
                raise damaged(f"storage {key!r} has {raw.nbytes} bytes, not {elements} x {kind.dtype}")
            values = raw != 0 if kind.dtype == np.bool_ else raw.view(kind.dtype)
            self._storages[key, kind.dtype] = Storage(values)
        return self._storages[key, kind.dtype]


# Writing


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add an uncompressed record whose content starts at a multiple of the alignment."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    header = 30 + len(entry.filename) + 4  # local file header, name, and the head of the padding field
    padding = -(archive.fp.tell() + header) % _ALIGNMENT  # type: ignore[union-attr]
    entry.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(entry, content)


def _program(tensors: Mapping[str, np.ndarray], storages: list[str]) -> bytes:
    """Return the pickle, opcode by opcode, of an OrderedDict of contiguous tensors with one storage each."""
    ordered_dict = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    program = io.BytesIO()
    program.write(pickle.PROTO + b"\x02" + ordered_dict + pickle.MARK)
    for key, ((name, array), storage) in enumerate(zip(tensors.items(), storages, strict=True)):
        reference = [
            _text("storage"),
            _global("torch", storage),
            _text(str(key)),
            _text("cpu"),
            _int(array.size),
        ]
        program.write(_text(name) + _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK)
        program.write(_tuple(reference) + pickle.BINPERSID + _int(0))
        program.write(_tuple(map(_int, array.shape)) + _tuple(map(_int, _strides(array.shape))))
        program.write(pickle.NEWFALSE + ordered_dict + pickle.TUPLE + pickle.REDUCE)
    program.write(pickle.SETITEMS + pickle.STOP)
    return program.getvalue()


def _strides(shape: tuple[int, ...]) -> Iterator[int]:
    return (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _int(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def _tuple(items) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
