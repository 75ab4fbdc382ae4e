"""Which bytes of the arena were alive when, told from accesses alone.

A byte is alive at an operation that touches it, and between a write and the last read before the
next write. A step is followed by another one, so that what outlives it (updated weights, optimizer
state) is what the next step reads before writing it. Nothing of the plan is used: this is what a
planned timeline is held against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.c.emulation.trial import Touched

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Liveness:
    """Bytes alive and touched at each operation of a program; `after_loss` a flag for each byte."""

    live_bytes: NDArray[np.int64]
    touched_bytes: NDArray[np.int64]
    after_loss: Bits

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any operation."""
        return int(self.live_bytes.max(initial=0))


@dataclass(frozen=True)
class AccessBits:
    """What each operation wrote and read, one flag a byte: arrays [operations, arena]."""

    written: Bits
    read: Bits

    @classmethod
    def of(cls, touched: Touched, operations: int, arena_bytes: int) -> "AccessBits":
        """The flags of operations 0 to `operations`; what belongs to none comes first of all."""
        return cls(
            _flags(touched.written, operations, arena_bytes),
            _flags(touched.read, operations, arena_bytes),
        )

    @property
    def touched(self) -> Bits:
        """Written or read."""
        return self.written | self.read


def _flags(
    runs: Mapping[int, tuple[tuple[int, int], ...]], operations: int, arena_bytes: int
) -> Bits:
    # The first row is for what no operation did: the input is put where the step wants it.
    found = np.zeros((operations + 1, arena_bytes), dtype=np.bool_)
    for operation, spans in runs.items():
        for first, end in spans:
            found[operation + 1, first:end] = True
    return found


def liveness(bits: AccessBits, order: Sequence[int], kept_at: int) -> Liveness:
    """What was alive at each operation of a step that runs them in `order`, again and again.

    `order` are indices of operations, -1 for what belongs to none; some may come more than once.
    `kept_at` is the index of the loss.
    """
    count, size = bits.written.shape
    after = np.zeros(size, dtype=np.bool_)
    kept = after
    live = np.zeros(count, dtype=np.int64)
    for _ in range(2):  # the second round knows what the next step needs
        for operation in reversed(order):
            written, read = bits.written[operation + 1], bits.read[operation + 1]
            before = (after & ~written) | read
            alive = after | before | written
            if operation == kept_at:
                kept = after & ~written
            live[operation + 1] = max(live[operation + 1], int(alive.sum()))
            after = before
    touched = bits.touched.sum(axis=1)
    return Liveness(live[1:], touched[1:], kept)
