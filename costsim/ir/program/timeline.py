"""The price of a program in memory: live bytes at each operation, by category."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costsim.ir.program.program import TrainingProgram
from costsim.ir.program.schedule import Category


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


def working_buffers(program: TrainingProgram) -> list[int]:
    """Indices of the buffers a step works in: all but the frozen weights."""
    return [
        index
        for index, buffer in enumerate(program.buffers)
        if buffer.bytes and buffer.category is not Category.FROZEN_WEIGHTS
    ]


def memory_timeline(program: TrainingProgram) -> MemoryTimeline:
    """Live bytes through the program.

    Frozen weights are not among them: they are there all the time, in flash or in RAM, whatever
    the plan, and are counted where the device keeps them (`costsim.pricing.cost`).
    """
    steps = len(program.operations)
    by_category = {category: np.zeros(steps + 1, dtype=np.int64) for category in Category}
    for index in working_buffers(program):
        buffer = program.buffers[index]
        change = by_category[buffer.category]
        change[buffer.birth] += buffer.bytes
        change[buffer.death + 1] -= buffer.bytes
    live = {category: np.cumsum(change)[:-1] for category, change in by_category.items()}
    return MemoryTimeline(live, np.sum(list(live.values()), axis=0))
