"""Offsets for the buffers of a program in one arena.

Assigning offsets so that buffers live at the same time do not overlap, in the smallest arena, is
NP-hard (dynamic storage allocation). Each of a few orders of placement is tried and the best
kept: the approach of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference" (2020), section 5.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from costsim.program.program import Buffer, TrainingProgram
from costsim.program.timeline import working_buffers

ALIGNMENT_BYTES = 4
"""Buffers start at multiples of this, enough for 32-bit loads on every shipped device."""

_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.bytes, b.birth),
    lambda b: (-(b.death - b.birth), -b.bytes),
    lambda b: (-b.bytes * (b.death - b.birth + 1), b.birth),
    lambda b: (b.birth, -b.bytes),
    lambda b: (-b.death, -b.bytes),
)


@dataclass(frozen=True)
class Arena:
    """Where each buffer lies (index in the program to offset in bytes) and how much that takes.

    `lower_bound_bytes` is the greatest sum of live aligned buffers: no arena is smaller.
    """

    offsets_bytes: Mapping[int, int]
    size_bytes: int
    lower_bound_bytes: int


def plan_arena(program: TrainingProgram) -> Arena:
    """Offsets for every buffer but the frozen weights. The size is never less than the peak."""
    indices = working_buffers(program)
    buffers = {index: program.buffers[index] for index in indices}
    bound = _peak(buffers.values(), len(program.operations))
    best: tuple[int, dict[int, int]] | None = None
    for order in _ORDERS:
        offsets = _place(sorted(indices, key=lambda i: (*order(buffers[i]), i)), buffers)
        size = max((offsets[i] + _aligned(buffers[i].bytes) for i in indices), default=0)
        if best is None or size < best[0]:
            best = size, offsets
        if size == bound:
            break
    assert best is not None
    return Arena(best[1], best[0], bound)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _peak(buffers: Iterable[Buffer], steps: int) -> int:
    change = [0] * (steps + 1)
    for buffer in buffers:
        change[buffer.birth] += _aligned(buffer.bytes)
        change[buffer.death + 1] -= _aligned(buffer.bytes)
    live = peak = 0
    for delta in change:
        live += delta
        peak = max(peak, live)
    return peak


def _place(order: list[int], buffers: Mapping[int, Buffer]) -> dict[int, int]:
    """Place each buffer in the smallest gap that fits among those it lives beside."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end, birth, death; by offset
    offsets: dict[int, int] = {}
    for index in order:
        buffer = buffers[index]
        size = _aligned(buffer.bytes)
        end, best_gap, offset = 0, None, None
        for start, stop, birth, death in placed:
            if birth > buffer.death or death < buffer.birth:
                continue
            gap = start - end
            if gap >= size and (best_gap is None or gap < best_gap):
                best_gap, offset = gap, end
            end = max(end, stop)
        offsets[index] = end if offset is None else offset
        placed.append((offsets[index], offsets[index] + size, buffer.birth, buffer.death))
        placed.sort()
    return offsets
