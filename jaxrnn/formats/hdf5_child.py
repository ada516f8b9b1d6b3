"""A process of its own that reads an HDF5 file: bytes in, and out what is in it, as JSON and the numbers.

libhdf5 can hang or crash over a damaged file. `hdf5.py` starts this file as a program, which needs h5py alone, and
ends it. HDF5 can also refer to other files, by links, by virtual datasets and by external storage, and loads
libraries for the filters that a dataset names: none of that is followed here, and nothing claims more bytes than
there are.
"""

import io
import json
import sys
from typing import Any, BinaryIO

import h5py
import numpy as np

# Links may lead back to a group around them, so what is looked at has to come to an end.
DEEPEST = 32  # groups within groups
MOST = 50_000  # groups and arrays


def dump(content: bytes, output: BinaryIO) -> None:
    """Write what is in a file: the length of a description in JSON, the description, and the arrays in its order.

    The description maps paths to what is there: a group's attributes that are text, an array's dtype and shape, or
    why it is not read. That is an error only for somebody who wants it.
    """
    found: dict[str, dict[str, Any]] = {}
    arrays: list[bytes] = []
    left = len(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        waiting: list[tuple[str, Any, int]] = [("", file, 0)]
        while waiting:
            path, group, depth = waiting.pop()
            found[path] = {"attributes": _attributes(group, left)}
            for name in group:
                inner = f"{path}/{name}"
                if depth > DEEPEST or len(found) > MOST:
                    raise ValueError(f"{inner[:100]}: groups within groups without an end")
                if isinstance(group.get(name, getlink=True), h5py.HardLink):
                    item = group[name]
                    if isinstance(item, h5py.Group):
                        waiting.append((inner, item, depth + 1))
                        continue
                    found[inner] = _described(item, left)
                    if "dtype" in found[inner]:
                        arrays.append(_numbers(item))
                        left -= len(arrays[-1])
                else:
                    found[inner] = {"refused": "a link to elsewhere, which is not followed"}
    described = json.dumps(found).encode()
    output.write(len(described).to_bytes(8, "little") + described)
    for numbers in arrays:
        output.write(numbers)


def _attributes(group: Any, left: int) -> dict[str, Any]:
    """Return the attributes that are a text or texts."""
    texts = {}
    for name in group.attrs:
        described = group.attrs.get_id(name)
        if described.get_space().get_simple_extent_npoints() * described.dtype.itemsize > left:
            raise ValueError(f"attribute {name!r} claims more than the file has")
        value = group.attrs[name]
        if isinstance(value, np.ndarray):
            value = [_text(each) for each in value.ravel().tolist()]
        value = _text(value)
        if isinstance(value, str) or (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
        ):
            texts[name] = value
    return texts


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _described(item: Any, left: int) -> dict[str, Any]:
    """Return dtype and shape of an array, or why it is not read."""
    if not isinstance(item, h5py.Dataset):
        return {"refused": "it is no array"}
    creation = item.id.get_create_plist()
    if item.is_virtual or creation.get_external_count():
        return {"refused": "its numbers are in other files, which are not read"}
    if creation.get_nfilters():
        return {"refused": "it is compressed; write the file without, `h5repack -f NONE`"}
    marked = item.dtype.kind == "V" and _text(item.attrs.get("dtype")) == "bfloat16"
    if item.shape is None or not (item.dtype.kind in "fiubc" or marked):
        return {"refused": "it holds no numbers"}
    if item.nbytes > left:
        return {"refused": "the arrays claim more bytes than the file has"}
    return {"dtype": "bfloat16" if marked else item.dtype.newbyteorder("<").str, "shape": item.shape}


def _numbers(item: Any) -> bytes:
    array = np.asarray(item[()])
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _limit_memory(size: int) -> None:
    """Let a length that a damaged file claims fail at once, where the system can: a heap may claim gigabytes."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    limit = _BESIDES + 4 * size
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most)
    )


_BESIDES = 2**31  # for Python, NumPy and h5py


if __name__ == "__main__":
    try:
        whole = sys.stdin.buffer.read()
        _limit_memory(len(whole))
        dump(whole, sys.stdout.buffer)
    except Exception as error:  # whatever h5py says of a damaged file
        sys.exit(f"{type(error).__name__}: {error}")
