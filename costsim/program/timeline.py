"""The price of a program in memory: live bytes at each operation, by category."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.program.program import TrainingProgram
from costsim.program.schedule import Category


@dataclass(frozen=True)
class MemoryTimeline:
    """Live bytes of each category at each operation; `peak_position` is the first maximum."""

    by_category: Mapping[Category, NDArray[np.int64]]
    total_bytes: NDArray[np.int64]

    @property
    def peak_position(self) -> int:
        """Index of the operation at which most bytes are live."""
        return int(np.argmax(self.total_bytes))

    @property
    def peak_bytes(self) -> int:
        """The greatest number of live bytes."""
        return int(self.total_bytes.max())

    def at_peak(self) -> dict[Category, int]:
        """Live bytes of each category at the peak."""
        return {c: int(live[self.peak_position]) for c, live in self.by_category.items()}


def ram_buffers(program: TrainingProgram, *, frozen_in_ram: bool) -> list[int]:
    """Indices of the buffers that occupy RAM: all but frozen weights that stay in flash."""
    return [
        index
        for index, buffer in enumerate(program.buffers)
        if buffer.bytes and (frozen_in_ram or buffer.category is not Category.FROZEN_WEIGHTS)
    ]


def memory_timeline(program: TrainingProgram, *, frozen_in_ram: bool) -> MemoryTimeline:
    """Live bytes through the program.

    `frozen_in_ram`: count frozen weights, as where the device keeps them in RAM.
    """
    steps = len(program.operations)
    by_category = {category: np.zeros(steps + 1, dtype=np.int64) for category in Category}
    for index in ram_buffers(program, frozen_in_ram=frozen_in_ram):
        buffer = program.buffers[index]
        change = by_category[buffer.category]
        change[buffer.birth] += buffer.bytes
        change[buffer.death + 1] -= buffer.bytes
    live = {category: np.cumsum(change)[:-1] for category, change in by_category.items()}
    return MemoryTimeline(live, np.sum(list(live.values()), axis=0))
