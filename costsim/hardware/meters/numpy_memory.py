"""Numpy's own allocations, which PyTorch's allocator does not see.

Numpy lets a process replace the functions that array data comes from (NEP 49, "Data allocation
strategies in NumPy"). Here they are the C library's, with a note of each block's size.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SET_HANDLER = 304  # of `PyDataMem_SetHandler` in numpy's table of C functions
_CAPSULE = b"mem_handler"

_Malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Calloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_Realloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Functions(ctypes.Structure):
    _fields_ = (
        ("context", ctypes.c_void_p),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    )


class _Handler(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("functions", _Functions),
    )


class _Watch:
    """A handler whose every allocation and release is told to `listener` while there is one."""

    def __init__(self, listener: Callable[[int], None]) -> None:
        self.listener: Callable[[int], None] | None = listener
        self.sizes: dict[int, int] = {}
        self.libc = _libc()
        functions = _Functions(
            None,
            _Malloc(lambda _context, size: self.made(self.libc.malloc(size), size)),
            _Calloc(lambda _context, n, size: self.made(self.libc.calloc(n, size), n * size)),
            _Realloc(lambda _context, block, size: self.moved(block, size)),
            _Free(lambda _context, block, _size: self.freed(block)),
        )
        self.handler = _Handler(b"costsim", 1, functions)

    def made(self, block: int | None, size: int) -> int | None:
        if block is not None:
            self.sizes[block] = size
            self.tell(size)
        return block

    def moved(self, block: int | None, size: int) -> int | None:
        moved: int | None = self.libc.realloc(block, size)
        if moved is not None:
            self.tell(-self.sizes.pop(block or 0, 0))
            self.made(moved, size)
        return moved

    def freed(self, block: int | None) -> None:
        self.tell(-self.sizes.pop(block or 0, 0))
        self.libc.free(block)

    def tell(self, size: int) -> None:
        if size and self.listener is not None:
            self.listener(size)


def _libc() -> Any:
    libc = ctypes.CDLL(None)
    for name, result, arguments in (
        ("malloc", ctypes.c_void_p, [ctypes.c_size_t]),
        ("calloc", ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]),
        ("realloc", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]),
        ("free", None, [ctypes.c_void_p]),
    ):
        function = getattr(libc, name)
        function.restype, function.argtypes = result, arguments
    return libc


@contextmanager
def watch_numpy(listener: Callable[[int], None]) -> Iterator[None]:
    """Call `listener` with the bytes of each block that numpy takes (+) or gives back (-).

    In this thread, until the end of the block. Releases of arrays that are older are not seen;
    arrays made here may outlive it. Each use costs a few hundred bytes for ever, since arrays
    that remain still go through its functions when they die.
    """
    watch = _Watch(listener)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(watch))
    set_handler = _set_handler()
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    previous = set_handler(new_capsule(ctypes.addressof(watch.handler), _CAPSULE, None))
    try:
        yield
    finally:
        set_handler(previous)
        watch.listener = None


def _set_handler() -> Callable[[Any], Any]:
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(
        pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    function: Callable[[Any], Any] = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(
        table[_SET_HANDLER]
    )
    return function
