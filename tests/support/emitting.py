"""Compiling emitted C for this machine and calling it."""

import ctypes
import hashlib
import os
import re
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
from torch import Tensor

from costsim.c.emission import COMPILER_FLAGS, Memory, emit, integers, kernel_source, read_weights
from costsim.ir.graph import LayerGraph
from costsim.ir.program import TrainingProgram
from costsim.ir.step import BitWidths
from costsim.run.execution.forward import evaluate

WARNINGS = ("-Wall", "-Wextra", "-Werror")
CACHE = Path(tempfile.gettempdir()) / f"costsim-emission-{os.getuid()}"
FLOATS = ctypes.POINTER(ctypes.c_float)
INTS = ctypes.POINTER(ctypes.c_int32)


WIDE, NARROW = BitWidths(), BitWidths(8, 8, 32, 32)


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Copies in floats, as C and numpy take them."""
    return {name: tensor.detach().float().numpy().copy() for name, tensor in tensors.items()}


def ranges_of(
    graph: LayerGraph, tensors: Mapping[str, Tensor], images: Tensor
) -> dict[str, tuple[float, float]]:
    """What every value is at least and at most on these images, in passes of the graph's batch."""
    names = [call.name for call in graph.calls]
    parts = [evaluate(graph, tensors, part, names)[1] for part in images.split(graph.batch)]
    return {
        name: (
            min(p[name].min().item() for p in parts),
            max(p[name].max().item() for p in parts),
        )
        for name in names
    }


@cache
def compiler() -> tuple[str, ...]:
    """A C compiler for this machine; the test that asks is skipped where there is none."""
    CACHE.mkdir(exist_ok=True)
    if found := shutil.which(os.environ.get("CC", "cc")):
        return (found,)
    return zig()


@cache
def zig() -> tuple[str, ...]:
    """The compiler from the package index; skips the test that asks where it is missing."""
    if find_spec("ziglang") is None:
        pytest.skip("no C compiler: install cc or costsim[emulator]")
    CACHE.mkdir(exist_ok=True)
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(CACHE / "zig"))
    os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(CACHE / "zig"))
    return (sys.executable, "-m", "ziglang", "cc")


def run(command: Sequence[str]) -> str:
    """What a command prints; fails with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return done.stdout


def compile_c(source: Path, out: Path, *flags: str, cc: Sequence[str] | None = None) -> None:
    """One source as an object, warnings being errors."""
    run(
        [*(cc or compiler()), *COMPILER_FLAGS, *WARNINGS, *flags, "-c", str(source), "-o", str(out)]
    )


COUNTING = """
#include <stdint.h>
extern int64_t costsim_macs;
int64_t costsim_macs;
#define COSTSIM_MAC(sum, a, b) (costsim_macs++, (sum) += (a) * (b))
#define COSTSIM_Q_MAC(sum, a, b) (costsim_macs++, (sum) += (a) * (b))
"""
"""Put before the kernels, counts every multiply-accumulate."""


@cache
def kernels_object(*, counting: bool = False) -> Path:
    """The kernels, compiled once: they are the same for every model."""
    cc = compiler()
    header, source = emit_kernels_header(), kernel_source()
    if counting:
        source = COUNTING + source
    key = hashlib.sha256("\0".join([source, header, *cc, *COMPILER_FLAGS]).encode())
    folder = CACHE / key.hexdigest()[:16]
    if not (folder / "kernels.so").exists():
        folder.mkdir(exist_ok=True)
        own = Path(tempfile.mkdtemp(dir=folder))
        (own / "costsim_kernels.h").write_text(header)
        (own / "costsim_kernels.c").write_text(source)
        compile_c(own / "costsim_kernels.c", own / "kernels.o", "-fPIC")
        run([*cc, "-shared", str(own / "kernels.o"), "-o", str(own / "kernels.so")])
        (own / "kernels.o").rename(folder / "kernels.o")
        (own / "kernels.so").rename(folder / "kernels.so")
        shutil.rmtree(own)
    return folder / "kernels.o"


def emit_kernels_header() -> str:
    """The header of the kernels as it is written beside a model."""
    import costsim.c.emission

    folder = Path(costsim.c.emission.__file__).parent / "kernels"
    return (folder / "costsim_kernels.h").read_text()


@cache
def kernels() -> ctypes.CDLL:
    """The kernels alone, to be called one by one."""
    return ctypes.CDLL(str(kernels_object().with_suffix(".so")))


LARGE = 500_000
"""Characters of weights from which on they are filled in later: compiling them takes seconds."""

_ARRAY = re.compile(r"^const float (\w+)\[(\d+)\] = \{([^}]*)\};", re.MULTILINE)


def _emptied(text: str) -> str:
    return "\n".join(f"float {name}[{count}];" for name, count, _ in _ARRAY.findall(text))


def _fill(library: ctypes.CDLL, text: str) -> None:
    for name, count, body in _ARRAY.findall(text):
        values = np.array(body.replace("f", "").split(","), np.float32)
        array = (ctypes.c_float * int(count)).in_dll(library, name)
        ctypes.memmove(array, values.ctypes.data, values.nbytes)


class Emitted:
    """A program compiled for this machine: `step`, `predict`, and the weights as they are.

    `beside` are the files that it is compiled with beside the model's own, as `costsim_adapt` (the
    loop of a device) and `costsim_store` (what it saves): half of the compiler's work.
    """

    def __init__(
        self,
        program: TrainingProgram,
        weights: Mapping[str, Any],
        *,
        counting: bool = False,
        beside: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.program, self.weights = program, weights
        if (quantization := options.get("quantization")) is not None:
            self.weights = integers(program.graph, weights, quantization)
        self.files = emit(program, weights, **options)
        self.memory = Memory(program)
        with tempfile.TemporaryDirectory(dir=CACHE if compiler() else None) as name:
            folder = Path(name)
            for file, content in self.files.items():
                (folder / file).write_bytes(
                    content if isinstance(content, bytes) else content.encode()
                )
            text = str(self.files["costsim_weights.c"])
            large = len(text) > LARGE
            if large:
                (folder / "costsim_weights.c").write_text(_emptied(text))
            parts = [
                str(folder / f"{part}.c") for part in ("costsim_model", "costsim_weights", *beside)
            ]
            build = [*compiler(), *COMPILER_FLAGS, *WARNINGS, "-fPIC", "-O0", "-shared"]
            kernels = str(kernels_object(counting=counting))
            run([*build, *parts, kernels, "-o", str(folder / "model.so")])
            self.library = ctypes.CDLL(str(folder / "model.so"))
            if large:
                _fill(self.library, text)
        self.library.costsim_train_step.restype = ctypes.c_float
        self.library.costsim_init()

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The loss of one training step on `images` `[N, C, H, W]` and `labels` `[N]`."""
        images = np.ascontiguousarray(images, np.float32)
        labels = np.ascontiguousarray(labels, np.int32)
        assert min(len(images), len(labels)) >= self.program.step.batch  # C reads so many
        loss = self.library.costsim_train_step(
            images.ctypes.data_as(FLOATS), labels.ctypes.data_as(INTS)
        )
        return float(loss)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """What the network answers to the `images` `[N, C, H, W]` of one pass."""
        images = np.ascontiguousarray(images, np.float32)
        graph = self.program.graph
        out = np.empty(graph[graph.output].shape, np.float32)
        self.library.costsim_predict(images.ctypes.data_as(FLOATS), out.ctypes.data_as(FLOATS))
        return out

    def begin_means(self, classes: int) -> int:
        """0, or 1 for a number of classes that there cannot be."""
        return int(self.library.costsim_begin_means(classes))

    def add_to_means(self, images: np.ndarray, labels: np.ndarray) -> None:
        """The images of one pass, to the means of their classes."""
        images = np.ascontiguousarray(images, np.float32)
        labels = np.ascontiguousarray(labels, np.int32)
        assert not self.library.costsim_add_to_means(
            images.ctypes.data_as(FLOATS), labels.ctypes.data_as(INTS)
        )

    def take_means(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Means of all these images, a pass of them at a time."""
        assert self.begin_means(int(labels.max()) + 1) == 0
        size = self.program.step.samples_a_pass
        for i in range(0, len(images), size):
            self.add_to_means(images[i : i + size], labels[i : i + size])
        self.library.costsim_end_means()

    def means(self, classes: int) -> np.ndarray:
        """The class means as they are."""
        graph = self.program.graph
        size = classes * int(np.prod(graph[graph.output].shape[1:]))
        found = (ctypes.c_float * size).in_dll(self.library, "costsim_class_means")
        return np.array(found, np.float32).reshape(classes, -1)

    def classify(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class and score of each image of one pass."""
        images = np.ascontiguousarray(images, np.float32)
        classes, scores = np.empty(len(images), np.int32), np.empty(len(images), np.float32)
        assert not self.library.costsim_classify(
            images.ctypes.data_as(FLOATS), classes.ctypes.data_as(INTS),
            scores.ctypes.data_as(FLOATS),
        )  # fmt: skip
        return classes, scores

    def _table(self) -> Any:
        class Entry(ctypes.Structure):
            _fields_ = (("name", ctypes.c_char_p), ("run", ctypes.CFUNCTYPE(None)))

        return (Entry * len(self.program.operations)).in_dll(self.library, "costsim_operations")

    def stray_writes(self, images: np.ndarray, labels: np.ndarray) -> list[str]:
        """Operations that change a byte of the arena outside the buffers they write."""
        self.step(images, labels)
        found = []
        for entry, op in zip(self._table(), self.program.operations, strict=True):
            before = np.frombuffer(self.arena(), np.uint8)
            entry.run()
            changed = before != np.frombuffer(self.arena(), np.uint8)
            for write in op.writes:
                start = self.memory.arena.offsets_bytes[write.buffer]
                changed[start : start + self.program.buffers[write.buffer].bytes] = False
            if changed.any():
                found.append(op.name)
        return found

    def operation_macs(self, images: np.ndarray, labels: np.ndarray) -> list[int]:
        """Multiply-accumulates that each operation of a pass executes (with `counting`)."""
        self.step(images, labels)
        macs = ctypes.c_int64.in_dll(self.library, "costsim_macs")
        found = []
        for entry, op in zip(self._table(), self.program.operations, strict=True):
            assert entry.name.decode() == op.name
            before = macs.value
            entry.run()
            found.append(macs.value - before)
        return found

    def arena(self) -> bytes:
        """Every byte of the arena as it is now."""
        size = self.memory.arena.size_bytes
        return bytes((ctypes.c_char * size).in_dll(self.library, "costsim_arena"))

    def updated(self) -> dict[str, np.ndarray]:
        """The weights that the plan updates, as they are in the arena."""
        return read_weights(self.program, self.weights, self.arena())
