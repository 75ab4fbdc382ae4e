"""The kernels of this machine, loaded."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.native.build import build_kernels
from costsim.c.native.instruction_sets import InstructionSet, instruction_set
from costsim.c.native.record import Record, Settings


@dataclass(frozen=True)
class Library:
    """The loaded kernels and what they were compiled for."""

    target: InstructionSet
    _loaded: Any

    def packed_floats(self, columns: int, depth: int) -> int:
        """Floats that a packed matrix `[depth, columns]` takes."""
        return int(self._loaded.costsim_native_packed_floats(columns, depth))

    def pack(self, matrix: NDArray[np.float32], packed: NDArray[np.float32]) -> None:
        """Pack a matrix `[depth, columns]`, of any strides, for the kernels."""
        depth, columns = matrix.shape
        self._loaded.costsim_native_pack(
            matrix.ctypes.data,
            packed.ctypes.data,
            columns,
            depth,
            *(step // matrix.itemsize for step in matrix.strides),
        )

    def interleave(self, source: int, target: int, shape: tuple[int, ...]) -> None:
        """Images `[N, C, H, W]` at the address `source` to the same with channels last."""
        sizes = (shape[0], shape[1], shape[2] * shape[3])
        self._loaded.costsim_native_interleave(source, target, *sizes)

    def cross_entropy(
        self,
        logits: int,
        labels: NDArray[np.int64],
        columns: int,
        scale: float,
        gradient: int | None,
    ) -> float:
        """The mean over rows of `[rows, columns]`, and `scale` times its gradient, at addresses."""
        found: float = self._loaded.costsim_native_cross_entropy(
            logits, labels.ctypes.data, len(labels), columns, scale, gradient
        )
        return found

    def changed(self, samples: NDArray[np.void], first: int) -> int:
        """The first sample from `first` on that is not as it was; their number if there is none."""
        found: int = self._loaded.costsim_native_changed(samples.ctypes.data, first, len(samples))
        return found

    @property
    def run(self) -> Any:
        """`costsim_native_run`: (records, how many, arena, settings, threads)."""
        return self._loaded.costsim_native_run


@cache
def load_library(target: InstructionSet | None = None) -> Library:
    """The kernels for this machine, built where they are not there yet.

    Raises `InputError` for a machine without an instruction set or without a compiler.
    """
    target = target or instruction_set()
    path = build_kernels(target)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise InputError(f"{path}: the native kernels cannot be loaded: {error}") from error
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    for name, arguments, result in (
        ("packed_floats", (size, size), size),
        ("pack", (pointer, pointer, size, size, size, size), None),
        ("interleave", (pointer, pointer, size, size, size), None),
        (
            "cross_entropy",
            (pointer, pointer, size, size, ctypes.c_double, pointer),
            ctypes.c_double,
        ),
        ("changed", (pointer, size, size), size),
        ("operation_bytes", (), size),
        ("lanes", (), size),
        ("run", (pointer, size, pointer, ctypes.POINTER(Settings), size), None),
    ):
        function = getattr(loaded, f"costsim_native_{name}")
        function.argtypes, function.restype = arguments, result
    if loaded.costsim_native_operation_bytes() != ctypes.sizeof(Record):
        raise InputError(f"{path}: the native kernels read other records than are written here")
    return Library(target, loaded)
