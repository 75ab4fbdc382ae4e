"""The allocators' own events of a stretch of work, cut into pieces.

PyTorch's come from its profiler, which is told of every block its allocator hands out, tensors
and kernels' scratch alike; numpy's come from `numpy_memory`. Both are put on one timeline by
marks in the profile.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch.autograd.profiler import profile, record_function

from costsim.hardware.meters.numpy_memory import watch_numpy

_PREFIX = "costsim "


@dataclass(frozen=True)
class Piece:
    """What happened between two marks, in order: bytes taken (+) and given back (-)."""

    name: str
    changes_bytes: tuple[int, ...]
    numpy_bytes: int

    @property
    def net_bytes(self) -> int:
        """What it took and did not give back."""
        return sum(self.changes_bytes)

    def peak_bytes(self, start_bytes: int = 0) -> int:
        """The most at any moment, beginning with `start_bytes`."""
        live = most = start_bytes
        for change in self.changes_bytes:
            live += change
            most = max(most, live)
        return most


@dataclass
class AllocationRecorder:
    """Call `mark` at the end of each piece; `pieces` are there once recording is over.

    What follows the last mark is a piece with an empty name.
    """

    pieces: list[Piece] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """End a piece here and name it."""
        _note(f"mark {name}")


def _note(text: str) -> None:
    with record_function(_PREFIX + text):
        pass


@contextmanager
def record_allocations() -> Iterator[AllocationRecorder]:
    """Record every allocation and release in this process until the end of the block.

    Releases of blocks that were there before are not seen. Garbage goes first: PyTorch remembers
    blocks of an earlier recording, and would show their release in this one.
    """
    gc.collect()
    recorder = AllocationRecorder()
    # What `torch.profiler` wraps; the wrapper would load PyTorch's compiler before it starts.
    profiler = profile(use_kineto=True, profile_memory=True)
    with _silence(), profiler, watch_numpy(lambda size: _note(f"numpy {size}")):
        yield recorder
    recorder.pieces.extend(_pieces(profiler))


def _pieces(profiler: profile) -> Iterator[Piece]:
    results: Any = profiler.kineto_results
    changes: list[int] = []
    numpy_bytes = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        name = event.name()
        if name == "[memory]":
            changes.append(event.nbytes())
        elif name.startswith(_PREFIX):
            kind, _, rest = name.removeprefix(_PREFIX).partition(" ")
            if kind == "numpy":
                changes.append(int(rest))
                numpy_bytes += max(int(rest), 0)
            else:
                yield Piece(rest, tuple(changes), numpy_bytes)
                changes, numpy_bytes = [], 0
    yield Piece("", tuple(changes), numpy_bytes)


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the profiler's C++ code prints to stderr; exceptions come through."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
