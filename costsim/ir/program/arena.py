"""Offsets for the buffers of a program in one arena.

Assigning offsets so that buffers live at the same time do not overlap, in the smallest arena, is
NP-hard (dynamic storage allocation). A few orders of placement are tried and the best kept: the
approach of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020),
section 5. Where that leaves a gap to the lower bound, what lies on top is placed earlier, again
and again: on the networks this was written for, that closes it.
"""

import random
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from costsim.ir.program.program import Buffer, TrainingProgram
from costsim.ir.program.schedule import Category
from costsim.ir.program.timeline import working_buffers

ALIGNMENT_BYTES = 4
"""Buffers start at multiples of this, enough for 32-bit loads on every shipped device."""

ATTEMPTS = 100
"""Steps of each walk that looks for a smaller arena: fewer where buffers are many."""

GOOD_ENOUGH = 1.01
"""An arena within one percent of its lower bound is not worth a walk."""

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


def plan_arena(program: TrainingProgram, without: Collection[Category] = ()) -> Arena:
    """Offsets for every buffer but the frozen weights. The size is never less than the peak.

    `without`: the categories that lie elsewhere, such as weights in the model's own memory.
    """
    indices = [i for i in working_buffers(program) if program.buffers[i].category not in without]
    buffers = {index: program.buffers[index] for index in indices}
    bound = _peak(buffers.values(), len(program.operations))
    orders = [sorted(indices, key=lambda i: (*key(buffers[i]), i)) for key in _ORDERS]
    best = _placed(orders[0], buffers)
    for order in orders[1:]:
        if best[0] == bound:
            break
        best = min(best, _placed(order, buffers, best[0]), key=_size)
    for order in orders:
        if best[0] <= bound * GOOD_ENOUGH:
            break
        best = min(best, _improved(order, buffers, bound), key=_size)
    return Arena(best[1], best[0], bound)


def _improved(
    order: list[int], buffers: Mapping[int, Buffer], bound: int
) -> tuple[int, dict[int, int]]:
    """The best of a walk through orders: one buffer, mostly one on top, moves to the front part.

    A step that makes the arena no larger is taken. The walk is the same every time.
    """
    generator = random.Random(0)
    best = _placed(order, buffers)
    for _ in range(min(ATTEMPTS, 10**7 // len(order) ** 2)):
        size, offsets = best
        if size == bound:
            break
        top = [
            place
            for place, index in enumerate(order)
            if offsets[index] + _aligned(buffers[index].bytes) == size
        ]
        choices = [*top, int(generator.random() * len(order))]
        place = choices[int(generator.random() * len(choices))]
        tried = list(order)
        tried.insert(int(generator.random() * (place + 1)), tried.pop(place))
        placed = _placed(tried, buffers, size)
        if placed[0] <= size:
            order, best = tried, placed
    return best


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


def _size(placed: tuple[int, dict[int, int]]) -> int:
    return placed[0]


def _placed(
    order: list[int], buffers: Mapping[int, Buffer], enough: int | None = None
) -> tuple[int, dict[int, int]]:
    """The arena of placing each buffer in this order, as low as it fits among those it lives
    beside, and the offsets.

    Nothing more is placed once the arena is larger than `enough`.
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, birth, death; by offset
    offsets: dict[int, int] = {}
    arena = 0
    for index in order:
        buffer = buffers[index]
        size, first, last = _aligned(buffer.bytes), buffer.birth, buffer.death
        end = 0
        for start, stop, birth, death in placed:
            if birth > last or death < first:
                continue
            if start - end >= size:
                break
            if stop > end:  # as max() would have it, which is called too often to be
                end = stop
        offsets[index] = end
        arena = max(arena, end + size)
        if enough is not None and arena > enough:
            break
        insort(placed, (end, end + size, first, last))
    return arena, offsets
