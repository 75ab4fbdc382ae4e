"""Unpickling of dictionaries of numpy arrays, and of nothing else.

The few names that numpy's own pickles ask for are replaced by the stand-ins below, so that
loading calls no code but this file's; every other name is an error that says which.
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.base.files import why

_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "b1")


def loads_restricted(data: bytes) -> Any:
    """The value pickled in `data`: containers, numbers, text and numpy arrays.

    Raises `InputError` for any other content, and for data that end early.
    """
    try:
        _check_memo(data)
        return _Resolver().resolved(_RestrictedUnpickler(io.BytesIO(data)).load())
    except InputError:
        raise
    except Exception as error:  # malformed pickles raise nearly anything
        raise InputError(f"the pickle is damaged: {why(error)}") from error


def _check_memo(data: bytes) -> None:
    """Raise `InputError` where places are asked for that the data cannot fill: all are made."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise InputError(f"the pickle numbers an object {argument} in {len(data)} bytes")


class _Dtype:
    """Stands in for `numpy.dtype`: a type code, then the byte order from its state."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in _TYPES:
            raise InputError(f"the pickle has an array of type {code!r}; numbers are allowed")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands in for `numpy.ndarray` while its state is being read."""

    value: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise InputError("the pickle has an array that is not one of numbers")
        if len(data) != math.prod(shape) * dtype.dtype.itemsize:
            raise InputError(f"the pickle has an array of shape {shape} in {len(data)} bytes")
        flat = np.frombuffer(data, dtype.dtype)
        self.value = flat.reshape(shape, order="F" if fortran_order else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise InputError(f"the pickle encodes bytes as {encoding!r}; latin1 is allowed")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(f"the pickle asks for {module}.{name}; only arrays are read")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("the pickle refers to data outside itself; only arrays are read")


@dataclass
class _Resolver:
    """Replaces stand-ins by their arrays, at any depth; what is shared stays shared.

    So that a few bytes that stand for one list many times are gone through once.
    """

    done: dict[int, Any] = field(default_factory=dict)
    within: set[int] = field(default_factory=set)
    looked_at: int = 0

    def resolved(self, value: Any) -> Any:
        if isinstance(value, _Array):
            return value.value
        if not isinstance(value, dict | list | tuple):
            return value
        key = id(value)
        if key in self.within:
            raise InputError("the pickle holds a list or dictionary inside itself")
        if key not in self.done:
            self.within.add(key)
            self.looked_at += len(value)
            if isinstance(value, dict):
                self.done[key] = {name: self.resolved(item) for name, item in value.items()}
            else:
                self.done[key] = type(value)([self.resolved(item) for item in value])
            self.within.remove(key)
        return self.done[key]
