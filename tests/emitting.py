"""Compiling emitted C for this machine and calling it."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costsim.emission import COMPILER_FLAGS, Memory, emit, kernel_source, read_weights

WARNINGS = ("-Wall", "-Wextra", "-Werror")
CACHE = Path(tempfile.gettempdir()) / f"costsim-emission-{os.getuid()}"
FLOATS = ctypes.POINTER(ctypes.c_float)
INTS = ctypes.POINTER(ctypes.c_int32)


@cache
def compiler() -> tuple[str, ...]:
    """A C compiler for this machine; the test that asks is skipped where there is none."""
    CACHE.mkdir(exist_ok=True)
    if found := shutil.which(os.environ.get("CC", "cc")):
        return (found,)
    return zig()


@cache
def zig() -> tuple[str, ...]:
    if find_spec("ziglang") is None:
        pytest.skip("no C compiler: install cc or costsim[emulator]")
    CACHE.mkdir(exist_ok=True)
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(CACHE / "zig"))
    os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(CACHE / "zig"))
    return (sys.executable, "-m", "ziglang", "cc")


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return done.stdout


def compile_c(source: Path, out: Path, *flags: str, cc: Sequence[str] | None = None) -> None:
    run(
        [*(cc or compiler()), *COMPILER_FLAGS, *WARNINGS, *flags, "-c", str(source), "-o", str(out)]
    )


@cache
def kernels_object() -> Path:
    """The kernels, compiled once: they are the same for every model."""
    cc = compiler()
    header = emit_kernels_header()
    key = hashlib.sha256("\0".join([kernel_source(), header, *cc, *COMPILER_FLAGS]).encode())
    folder = CACHE / key.hexdigest()[:16]
    if not (folder / "kernels.so").exists():
        folder.mkdir(exist_ok=True)
        own = Path(tempfile.mkdtemp(dir=folder))
        (own / "costsim_kernels.h").write_text(header)
        (own / "costsim_kernels.c").write_text(kernel_source())
        compile_c(own / "costsim_kernels.c", own / "kernels.o", "-fPIC")
        run([*cc, "-shared", str(own / "kernels.o"), "-o", str(own / "kernels.so")])
        (own / "kernels.o").rename(folder / "kernels.o")
        (own / "kernels.so").rename(folder / "kernels.so")
        shutil.rmtree(own)
    return folder / "kernels.o"


def emit_kernels_header() -> str:
    import costsim.emission

    folder = Path(costsim.emission.__file__).parent / "kernels"
    return (folder / "costsim_kernels.h").read_text()


@cache
def kernels() -> ctypes.CDLL:
    """The kernels alone, to be called one by one."""
    return ctypes.CDLL(str(kernels_object().with_suffix(".so")))


class Emitted:
    """A program compiled for this machine: `step`, `predict`, and the weights as they are."""

    def __init__(self, program, weights: Mapping[str, Any], **options: Any) -> None:
        self.program, self.weights = program, weights
        self.files = emit(program, weights, **options)
        self.memory = Memory(program)
        with tempfile.TemporaryDirectory(dir=CACHE if compiler() else None) as name:
            folder = Path(name)
            for file, content in self.files.items():
                (folder / file).write_text(content)
            both = folder / "both.c"
            both.write_text('#include "costsim_model.c"\n#include "costsim_weights.c"\n')
            compile_c(both, folder / "model.o", "-fPIC", "-O0")
            parts = [str(folder / "model.o"), str(kernels_object())]
            run([*compiler(), "-shared", *parts, "-o", str(folder / "model.so")])
            self.library = ctypes.CDLL(str(folder / "model.so"))
        self.library.costsim_train_step.restype = ctypes.c_float
        self.library.costsim_init()

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        images = np.ascontiguousarray(images, np.float32)
        labels = np.ascontiguousarray(labels, np.int32)
        loss = self.library.costsim_train_step(
            images.ctypes.data_as(FLOATS), labels.ctypes.data_as(INTS)
        )
        return float(loss)

    def predict(self, images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, np.float32)
        graph = self.program.graph
        out = np.empty(graph[graph.output].shape, np.float32)
        self.library.costsim_predict(images.ctypes.data_as(FLOATS), out.ctypes.data_as(FLOATS))
        return out

    def arena(self) -> bytes:
        size = self.memory.arena.size_bytes
        return bytes((ctypes.c_char * size).in_dll(self.library, "costsim_arena"))

    def updated(self) -> dict[str, np.ndarray]:
        return read_weights(self.program, self.weights, self.arena())
