"""Reads what `torch.save` wrote before PyTorch 1.6: four pickles in a row, then the bytes of all storages.

    a number             which says what kind of file it is
    1001                 the version of the format
    a dict               of the machine that wrote it: "little_endian", "type_sizes"
    the saved object     each tensor as (storage, offset, size, stride)
    a list               the keys of the storages, in the order of what follows
    8 bytes, numbers     of each storage: how many elements it has, and these

Checkpoints that were trained long ago are still published so. The pickles run on the machine of
`jaxrnn.torch_pickle`, which can do nothing. Source of the format: `torch.serialization._legacy_save`.
"""

import os
import struct
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np

from jaxrnn import torch_pickle
from jaxrnn.torch_pickle import Storage, StorageType, damaged

START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of the number
_VERSION = 1001


def starts(file: BinaryIO) -> bool:
    """Tell whether a file begins as one of this format, and go back to its first byte."""
    file.seek(0)
    found = file.read(len(START)) == START
    file.seek(0)
    return found


def load(file: BinaryIO) -> Any:
    """Return what `torch.save` put in `file`, as `jaxrnn.torch_file.load` does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(len(START))
    if (version := _plain(file)) != _VERSION:
        raise damaged(f"its version is {version!r}, not {_VERSION}")
    if _plain(file).get("little_endian") is not True:
        raise UnpicklingError(
            "the file was written on a big-endian machine. Load it in PyTorch on a little-endian one and save "
            "it again."
        )
    storages = _Storages(size)
    content = torch_pickle.run(file, storages.storage)
    storages.fill(file)
    return content


def _plain(file: BinaryIO) -> Any:
    def refuse(_: Any) -> Storage:
        raise damaged("a tensor stands before the saved object")

    return torch_pickle.run(file, refuse)


class _Storages:
    """Storages that tensors refer to before their numbers have come; no more bytes than the file has."""

    def __init__(self, size: int):
        self._size = size
        self._storages: dict[str, Storage] = {}

    def storage(self, persistent_id: Any) -> Storage:
        """Return the storage of ``("storage", type, key, device, number of elements, view)``."""
        tag, kind, key, _device, elements, view = persistent_id
        if tag != "storage" or type(kind) is not StorageType or type(key) is not str:
            raise damaged("a tensor refers to something that is no storage")
        if view is not None:
            raise UnpicklingError(
                "a storage is a view of another; save the state dict again with torch.save."
            )
        if key not in self._storages:
            if type(elements) is not int or not 0 <= elements * kind.dtype.itemsize <= self._left():
                raise damaged(f"storage {key!r} claims more bytes than the file has")
            self._storages[key] = Storage(np.zeros(elements, kind.dtype))
        found = self._storages[key]
        if found.dtype != kind.dtype or found.values.size != elements:
            raise damaged(f"storage {key!r} is two things at once")
        return found

    def fill(self, file: BinaryIO) -> None:
        """Read the numbers of all storages into the arrays that tensors are views of."""
        keys = _plain(file)
        if sorted(keys) != sorted(self._storages):
            raise damaged("it has not the storages that its tensors refer to")
        for key in keys:
            values = self._storages[key].values
            (elements,) = struct.unpack("<q", file.read(8))
            raw = np.frombuffer(file.read(values.nbytes), np.uint8)
            if elements != values.size or raw.nbytes != values.nbytes:
                raise damaged(f"storage {key!r} has {elements} elements and {raw.nbytes} bytes")
            values[...] = raw != 0 if values.dtype == np.bool_ else raw.view(values.dtype)

    def _left(self) -> int:
        return self._size - sum(storage.values.nbytes for storage in self._storages.values())
