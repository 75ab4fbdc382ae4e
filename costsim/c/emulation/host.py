"""Emitted C on this machine: the same sources as on a core, many times faster than an emulated one.

With fused multiply-adds, as a Cortex-M7 has them, it computes the same bits as the core.
"""

import ctypes
import platform
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.c.emission import read_weights
from costsim.c.emission.options import COMPILER_FLAGS
from costsim.c.emulation.build import build_library
from costsim.c.emulation.toolchain import host_compiler
from costsim.ir.operators import elements
from costsim.ir.program import TrainingProgram, plan_arena

_FLOATS, _INTS = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_int32)


@cache
def fuses() -> bool:
    """Whether this machine has fused multiply-adds in single precision, and says so."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    return " fma " in flags.replace("\n", " ")


class HostModel:
    """Emitted `sources` of `program`, compiled for this machine.

    `weights` are those that they were emitted with: integers where they have 8 bits. Raises
    `InputError` where there is no compiler.
    """

    def __init__(
        self,
        program: TrainingProgram,
        sources: Mapping[str, str | bytes],
        weights: Mapping[str, Any],
    ) -> None:
        self.program, self.weights = program, weights
        graph = program.graph
        self.size, self.output_shape = graph.batch, graph[graph.output].shape
        contents = {name: text for name, text in sources.items() if name.endswith((".c", ".h"))}
        flags = (*COMPILER_FLAGS, *(("-mfma",) if fuses() and _is_x86() else ()))
        self.library = _loaded(build_library(contents, host_compiler(), flags))
        self.library.costsim_train_step.restype = ctypes.c_float
        self.init()

    def init(self) -> None:
        """Start from the weights as they were emitted."""
        self.library.costsim_init()

    def step(self, x: NDArray[np.float32], labels: NDArray[Any]) -> float:
        """One training step over `x` [batch, ...] and `labels` [batch]; the mean loss."""
        images, told = _floats(x), _ints(labels)
        return float(self.library.costsim_train_step(_at(images), _at(told)))

    def take_means(self, x: NDArray[np.float32], labels: NDArray[Any]) -> None:
        """Class means of the images `x` [N, ...] with `labels` 0, 1, ..., a pass at a time."""
        self.library.costsim_begin_means(int(labels.max()) + 1)
        for part, count in self._passes(x):
            told = np.full(self.size, -1, np.int32)
            told[:count] = labels[part : part + count]
            images = self._filled(x, part, count)
            self.library.costsim_add_to_means(_at(images), _at(told))
        self.library.costsim_end_means()

    def classify(self, x: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Class and score of each image of `x` [N, ...]."""
        classes, scores = [], []
        for part, count in self._passes(x):
            found, likely = np.zeros(self.size, np.int32), np.zeros(self.size, np.float32)
            images = self._filled(x, part, count)
            self.library.costsim_classify(_at(images), _at(found), _at(likely))
            classes.append(found[:count])
            scores.append(likely[:count])
        return np.concatenate(classes), np.concatenate(scores)

    def updated(self) -> dict[str, NDArray[Any]]:
        """The updated parameters as they are, whole."""
        size = plan_arena(self.program).size_bytes
        arena = (ctypes.c_char * size).in_dll(self.library, "costsim_arena")
        return read_weights(self.program, self.weights, bytes(arena))

    def class_means(self) -> NDArray[np.float32]:
        """The class means as they are, [classes, outputs]."""
        classes = ctypes.c_int32.in_dll(self.library, "costsim_classes").value
        features = elements(self.output_shape[1:])
        found = (ctypes.c_float * (classes * features)).in_dll(self.library, "costsim_class_means")
        return np.array(found, np.float32).reshape(classes, features)

    def _passes(self, x: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Where passes begin, and how many images are in each."""
        return [(i, min(self.size, len(x) - i)) for i in range(0, len(x), self.size)]

    def _filled(self, x: NDArray[np.float32], first: int, count: int) -> NDArray[np.float32]:
        images = np.zeros((self.size, *x.shape[1:]), np.float32)
        images[:count] = x[first : first + count]
        return images


def _loaded(path: Path) -> ctypes.CDLL:
    """A library with memory of its own: one that is loaded twice from a file is one."""
    with tempfile.TemporaryDirectory(prefix="costsim-host-") as folder:
        return ctypes.CDLL(str(shutil.copy(path, folder)))


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64", "i686")


def _floats(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(x, np.float32)


def _ints(x: NDArray[Any]) -> NDArray[np.int32]:
    return np.ascontiguousarray(x, np.int32)


def _at(array: NDArray[Any]) -> Any:
    return array.ctypes.data_as(_FLOATS if array.dtype == np.float32 else _INTS)
