"""Reads the pickle of a `.pt` file on a machine that can run nothing.

A pickle is a program: its GLOBAL opcode imports any function and REDUCE calls it, which is how a checkpoint
can run code. Here the program runs on a machine of our own that knows only the opcodes and the names a
checkpoint needs, and builds only numbers, strings, tuples, lists, dicts and NumPy arrays. It never imports
by name, never sets an attribute and keeps nothing from one file to the next.
"""

import math
import pickletools
from collections.abc import Callable
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

RESAVE = "Save `model.state_dict()` again with torch.save, or as .safetensors."


@dataclass(frozen=True)
class StorageType:
    """What a pickle names a storage's class with."""

    dtype: np.dtype


@dataclass(frozen=True)
class Storage:
    """The memory that tensors are views of."""

    values: np.ndarray  # all elements, flat

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the elements."""
        return self.values.dtype


def run(program: bytes | BinaryIO, storage: Callable[[Any], Storage]) -> Any:
    """Return the object that a pickle builds, with NumPy arrays for tensors; a file is read as far as its pickle.

    `storage` returns what a persistent id ``("storage", type, key, device, number of elements, ...)`` stands for.

    Raises `UnpicklingError` for a name or an opcode that no checkpoint needs, and whatever `pickletools` or
    the machine meet in damaged bytes.
    """
    return _Machine(storage).run(program)


def damaged(why: str) -> UnpicklingError:
    """Return the error that says what is wrong with a file, and what to do."""
    return UnpicklingError(f"the file is damaged ({why}). {RESAVE}")


# What a pickle may name


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray:
    """View a storage as a tensor: element ``index`` lies at ``offset + sum(index * stride)``."""
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise damaged("a tensor is not made of a storage and a shape")
    if len(size) != len(stride) or len(size) > 64:
        raise damaged(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if not all(type(value) is int and value >= 0 for value in (offset, *size, *stride)):
        raise damaged(f"a tensor has offset {offset}, size {size} and stride {stride}")
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
        raise damaged(f"size {size}, stride {stride}, offset {offset} reach outside a storage of {elements}")
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
    if type(storage) is not Storage or type(dtype) is not _DType:
        raise damaged("a tensor is not made of a storage and a dtype")
    whole = storage.values.nbytes // dtype.value.itemsize * dtype.value.itemsize
    typed = Storage(storage.values.view(np.uint8)[:whole].view(dtype.value))
    return _tensor(typed, offset, size, stride, requires_grad, hooks, metadata)


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _parameter(data: Any, requires_grad: Any, hooks: Any, state: Any = None) -> np.ndarray:
    if type(data) is not np.ndarray:
        raise damaged("a parameter holds no tensor")
    return data


@dataclass(frozen=True)
class _DType:
    value: np.dtype


@dataclass(frozen=True)
class _Call:
    """A function a pickle may call."""

    build: Callable[..., Any]


_NAMES: dict[str, _Call | StorageType | _DType] = {
    "collections OrderedDict": _Call(_ordered_dict),
    "torch Size": _Call(lambda sizes=(): sizes),
    "torch device": _Call(lambda kind, index=None: kind),
    "torch._utils _rebuild_tensor_v2": _Call(_tensor),
    "torch._utils _rebuild_tensor_v3": _Call(_tensor_with_dtype),
    "torch._utils _rebuild_parameter": _Call(_parameter),
    "torch._utils _rebuild_parameter_with_state": _Call(_parameter),
    "torch.storage UntypedStorage": StorageType(np.dtype(np.uint8)),
    **{f"torch {name}": StorageType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch {name}": _DType(dtype) for name, dtype in DTYPES.items()},
}


def _look_up(name: str) -> _Call | StorageType | _DType:
    if name not in _NAMES:
        raise UnpicklingError(
            f"the file refers to {name.replace(' ', '.')!r}, and only tensors and plain containers are read: "
            f"code in a file is never run. {RESAVE}"
        )
    return _NAMES[name]


# The machine


@dataclass
class _Machine:
    """A pickle machine without import, attributes or classes: a stack, marks into it, and a memo."""

    storage: Callable[[Any], Storage]
    stack: list = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, program: bytes | BinaryIO) -> Any:
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
            case "BUILD":
                self.pop(1)  # the state of a state dict is OrderedDict's `_metadata`, the modules' versions
                self.top(dict)
            case "BINPERSID":
                push(self.storage(*self.pop(1)))
            case _:
                raise UnpicklingError(f"the file uses opcode {opcode}, which no checkpoint needs. {RESAVE}")

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
