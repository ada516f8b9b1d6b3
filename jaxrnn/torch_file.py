"""Reads and writes the zip files of `torch.save` without PyTorch, and without running anything in them.

A `.pt` file is an uncompressed zip archive, inside one folder::

    data.pkl     a pickle: the saved object, each tensor as (storage, offset, size, stride)
    data/0, ...  the raw bytes of each storage
    byteorder    "little" or "big"
    version      "3"

A pickle is a program: its GLOBAL opcode imports any function and REDUCE calls it, which is how a checkpoint
can run code. Here the program runs on a machine of our own that knows only the opcodes and the names a
checkpoint needs, and builds only numbers, strings, tuples, lists, dicts and NumPy arrays. It never imports
by name, never sets an attribute and keeps nothing from one file to the next.

Source of the format: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
    "bool": np.dtype(np.bool_),
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that opens files of torch < 1.6
_ALIGNMENT = 64  # torch aligns storages so that torch.load(mmap=True) can use them in place
_RESAVE = "Save `model.state_dict()` again with torch.save, or as .safetensors."


def load(file: BinaryIO) -> Any:
    """Return what `torch.save` put in `file`: plain Python containers, with NumPy arrays for tensors.

    Tensors that share a storage share memory, as they do after `torch.load`. Module versions
    (`state_dict()._metadata`), `requires_grad` and devices are dropped.

    Raises `UnpicklingError` for a file that is damaged, is of another kind, or names anything beyond
    what tensors and plain containers need.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            reader = _Reader(archive, _size(file))
            return _Machine(reader.storage).run(reader.record("data.pkl"))
    except UnpicklingError:
        raise
    except zipfile.BadZipFile as error:
        raise UnpicklingError(_not_a_zip(file, error)) from error
    except Exception as error:  # whatever zipfile and pickletools say of damaged bytes
        raise _damaged(f"{type(error).__name__}: {error}") from error


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


def _damaged(why: str) -> UnpicklingError:
    return UnpicklingError(f"the file is damaged ({why}). {_RESAVE}")


# Reading: the archive


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage:
    values: np.ndarray  # all elements, flat

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _not_a_zip(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    if file.read(len(_LEGACY_START)) == _LEGACY_START:
        return (
            "this is the format torch wrote before 1.6, which is not read here. Load it in PyTorch with "
            "torch.load(path, weights_only=True) and save it again with torch.save."
        )
    return f"this is not a file of torch.save, or it is damaged ({error}). {_RESAVE}"


class _Reader:
    """The records of one archive, with no more bytes than the file has."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        self._archive = archive
        self._storages: dict[tuple[str, np.dtype], _Storage] = {}
        self._names = archive.namelist()
        self._folder = self._find_folder()
        self._check_kind()
        self._check_size(size)

    def __contains__(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._names

    def _find_folder(self) -> str:
        folders = [name.split("/")[0] for name in self._names if name.split("/")[1:] == ["data.pkl"]]
        if len(folders) != 1:
            raise UnpicklingError(f"this zip file is not one of torch.save: it has no data.pkl. {_RESAVE}")
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
            raise UnpicklingError(f"a record is compressed, which torch never does. {_RESAVE}")
        if sum(entry.file_size for entry in entries) > size:
            raise _damaged("its records claim more bytes than it has")

    def record(self, name: str) -> bytes:
        if name not in self:
            raise _damaged(f"it has no record {name!r}")
        return self._archive.read(f"{self._folder}/{name}")

    def storage(self, persistent_id: Any) -> _Storage:
        """Return the storage a pickle refers to as ``("storage", type, key, device, number of elements)``."""
        tag, kind, key, _device, elements = persistent_id
        if tag != "storage" or type(kind) is not _StorageType or type(key) is not str:
            raise _damaged("a tensor refers to something that is no storage")
        if (key, kind.dtype) not in self._storages:
            raw = np.frombuffer(bytearray(self.record(f"data/{key}")), np.uint8)
            if type(elements) is not int or raw.nbytes != elements * kind.dtype.itemsize:
                raise _damaged(f"storage {key!r} has {raw.nbytes} bytes, not {elements} x {kind.dtype}")
            values = raw != 0 if kind.dtype == np.bool_ else raw.view(kind.dtype)
            self._storages[key, kind.dtype] = _Storage(values)
        return self._storages[key, kind.dtype]


# Reading: what a pickle may name


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray:
    """View a storage as a tensor: element ``index`` lies at ``offset + sum(index * stride)``."""
    if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple:
        raise _damaged("a tensor is not made of a storage and a shape")
    if len(size) != len(stride) or len(size) > 64:
        raise _damaged(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if not all(type(value) is int and value >= 0 for value in (offset, *size, *stride)):
        raise _damaged(f"a tensor has offset {offset}, size {size} and stride {stride}")
    if metadata:
        raise UnpicklingError("a tensor is a lazy conjugate or negative; save it after .resolve_conj().")
    if 0 in size:
        return np.empty(size, storage.dtype)
    _check_reach(storage.values.size, offset, size, stride)
    item = storage.dtype.itemsize
    return np.ndarray(size, storage.dtype, storage.values, offset * item, [step * item for step in stride])


def _check_reach(elements: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if last >= elements:
        raise _damaged(f"size {size}, stride {stride}, offset {offset} reach outside a storage of {elements}")
    if math.prod(size) > elements:  # a few bytes could stand for terabytes
        raise UnpicklingError(f"a tensor of size {size} repeats its storage; save it after .contiguous().")


def _tensor_with_dtype(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    if type(storage) is not _Storage or type(dtype) is not _DType:
        raise _damaged("a tensor is not made of a storage and a dtype")
    whole = storage.values.nbytes // dtype.value.itemsize * dtype.value.itemsize
    typed = _Storage(storage.values.view(np.uint8)[:whole].view(dtype.value))
    return _tensor(typed, offset, size, stride, requires_grad, hooks, metadata)


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> np.ndarray:
    if type(data) is not np.ndarray:
        raise _damaged("a parameter holds no tensor")
    return data


@dataclass(frozen=True)
class _DType:
    value: np.dtype


@dataclass(frozen=True)
class _Call:
    """A function a pickle may call."""

    build: Callable[..., Any]


_NAMES: dict[str, _Call | _StorageType | _DType] = {
    "collections OrderedDict": _Call(_ordered_dict),
    "torch Size": _Call(lambda sizes=(): sizes),
    "torch device": _Call(lambda kind, index=None: kind),
    "torch._utils _rebuild_tensor_v2": _Call(_tensor),
    "torch._utils _rebuild_tensor_v3": _Call(_tensor_with_dtype),
    "torch._utils _rebuild_parameter": _Call(_parameter),
    "torch._utils _rebuild_parameter_with_state": _Call(_parameter),
    "torch.storage UntypedStorage": _StorageType(np.dtype(np.uint8)),
    **{f"torch {name}": _StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch {name}": _DType(dtype) for name, dtype in DTYPES.items()},
}


def _look_up(name: str) -> _Call | _StorageType | _DType:
    if name not in _NAMES:
        raise UnpicklingError(
            f"the file refers to {name.replace(' ', '.')!r}, and only tensors and plain containers are read: "
            f"code in a file is never run. {_RESAVE}"
        )
    return _NAMES[name]


# Reading: the machine


@dataclass
class _Machine:
    """A pickle machine without import, attributes or classes: a stack, marks into it, and a memo."""

    storage: Callable[[Any], _Storage]
    stack: list = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            self.step(opcode.name, argument)
        (result,) = self.stack
        return result

    def step(self, opcode: str, argument: Any) -> None:
        push = self.stack.append
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                push({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode]())
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                push(tuple(self.pop_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop(int(opcode[-1]))))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "APPEND" | "APPENDS":
                items = self.pop(1) if opcode == "APPEND" else self.pop_mark()
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                self.set_items(self.pop(2) if opcode == "SETITEM" else self.pop_mark())
            case "GLOBAL":
                push(_look_up(argument))
            case "STACK_GLOBAL":
                push(_look_up(" ".join(self.pop(2))))
            case "REDUCE":
                push(self.call(*self.pop(2)))
            case (
                "BUILD"
            ):  # the state of a state dict is OrderedDict's `_metadata`, the versions of the modules
                self.pop(1)
                self.top(dict)
            case "BINPERSID":
                push(self.storage(*self.pop(1)))
            case _:
                raise UnpicklingError(f"the file uses opcode {opcode}, which no checkpoint needs. {_RESAVE}")

    def pop(self, count: int) -> list:
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        """Return the object the opcode changes: a container that the file itself made."""
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"expected a {kind.__name__}, got a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def set_items(self, pairs: list) -> None:
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int, float, bool, type(None)):
                raise TypeError(f"a key is a {type(key).__name__}")
            target[key] = value

    @staticmethod
    def call(function: Any, arguments: Any) -> Any:
        if type(function) is not _Call or type(arguments) is not tuple:
            raise TypeError(f"a call of a {type(function).__name__}")
        return function.build(*arguments)


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
