"""What is in an HDF5 file, read by h5py in a process of its own (`hdf5_child.py`), which may hang or crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxrnn.formats.requirements import needed

_PROGRAM = ["-P", str(Path(__file__).with_name("hdf5_child.py"))]  # -P: names beside it shadow nothing
_SECONDS = 20.0  # to start and to read
_BYTES_PER_SECOND = 1e7  # besides; a disk gives a hundred times as much


class Group:
    """A group of an HDF5 file: names, and what stands under them."""

    def __init__(self, found: Mapping[str, Any], path: str = ""):
        self._found, self.path = found, path

    def attribute(self, name: str) -> Any:
        """Return an attribute that is a text or a list of texts; None where there is none."""
        return self._found[self.path]["attributes"].get(name)

    def names(self) -> list[str]:
        """Return the names of what is in the group, in alphabetical order."""
        return sorted(self._found[self.path]["names"])

    def group(self, path: str) -> Group | None:
        """Return the group under a path of this group, or None."""
        whole = f"{self.path}/{path.strip('/')}"
        return Group(self._found, whole) if "attributes" in self._found.get(whole, {}) else None

    def array(self, path: str) -> np.ndarray:
        """Return the array under a path of this group."""
        whole = f"{self.path}/{path.strip('/')}"
        found = self._found.get(whole, {})
        if "array" not in found:
            raise ValueError(f"{whole}: {found.get('refused', 'no such array')}")
        return found["array"]

    def numbered(self) -> list[np.ndarray]:
        """Return the arrays "0", "1", ... that the group holds, as Keras 3 names them."""
        names = self.names()
        count = next(number for number in range(len(names) + 1) if str(number) not in names)
        return [self.array(str(number)) for number in range(count)]

    def arrays(self) -> Iterator[str]:
        """Yield the path of every array in this group and those within."""
        for name in self.names():
            inner = self.group(name)
            if inner is None:
                yield f"{self.path}/{name}"
            else:
                yield from inner.arrays()


def opened(content: bytes) -> Group:
    """Return the outermost group of an HDF5 file, with all that is in it.

    Raises ValueError for a file that h5py cannot read, or that it does not come to an end with.
    """
    needed("h5py")
    program = [sys.executable, *_PROGRAM]
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1"
    }  # each thread takes memory, of which there is a limit
    seconds = _SECONDS + len(content) / _BYTES_PER_SECOND
    try:
        child = subprocess.run(
            program, input=content, capture_output=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"damaged: h5py did not read it within {seconds:.0f} seconds") from None
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(
            f"damaged or of another kind ({said[0] if said else 'h5py crashed'}); write it again"
        )
    return Group(_parsed(child.stdout))


def _parsed(output: bytes) -> dict[str, Any]:
    """Return {path: what is there}, with the arrays, of what the process wrote."""
    start = 8 + int.from_bytes(output[:8], "little")
    found = json.loads(output[8:start])
    for path, item in found.items():
        if "attributes" in item:
            item["names"] = []
        if path:
            above, _, name = path.rpartition("/")
            found[above]["names"].append(name)
        if "dtype" in item:
            dtype = np.dtype(ml_dtypes.bfloat16 if item["dtype"] == "bfloat16" else item["dtype"])
            count = int(np.prod(item["shape"], dtype=np.int64))
            item["array"] = np.frombuffer(output, dtype, count, start).reshape(item["shape"])
            start += item["array"].nbytes
    return found
