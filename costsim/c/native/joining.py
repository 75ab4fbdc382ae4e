"""Joining an operation to the one before it, while the sums of that are still in registers.

A bias, an addend, a clamp with its mask, and the mask of a gradient are done in one pass over what
a product or a convolution computes (`kernels/finish.h`), in this order. Values and bytes are what
they were: an operation is joined only where nothing it writes lies on what is still read.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

from costsim.c.native.draft import Draft
from costsim.c.native.record import Kind, Place
from costsim.ir.program import Direction, Operation, TrainingProgram
from costsim.ir.program.arena import Arena

Drafts = tuple[Draft, ...] | None


class Stage(IntEnum):
    """How far the finishing of sums has come."""

    SUMS = 0
    ADDED = 1
    CLAMPED = 2
    MASKED = 3


FINISHING = frozenset(
    {Kind.PRODUCT, Kind.CONVOLUTION, Kind.DEPTHWISE, Kind.DEPTHWISE_SPREAD, Kind.MEAN_SPREAD}
)
"""Kernels that end with `finish`."""

BITS = 8
"""Elements a byte of a mask has: of rows that are not whole bytes none is written by a tile."""


def joined(program: TrainingProgram, alone: Sequence[Drafts], arena: Arena) -> tuple[Drafts, ...]:
    """The drafts with what can be joined joined; an operation that was has none of its own."""
    found = list(alone)
    for position, drafts in enumerate(alone):
        if drafts is None or len(drafts) != 1 or found[position] == ():
            continue
        draft, stage = drafts[0], Stage.SUMS
        if draft.kind not in FINISHING:
            continue
        while (following := _following(program, found, position)) is not None:
            (next_draft,) = found[following] or (None,)
            if next_draft is None:
                break
            step = _step(program, draft, next_draft, program.operations[following], stage)
            if step is None:
                break
            whole, after = step
            skipped = any(found[i] for i in range(position + 1, following))
            moves = whole.buffers[Place.Y] != draft.buffers[Place.Y]
            if (skipped and moves) or not _is_safe(program, arena, whole):
                break
            draft, stage, found[following] = whole, after, ()
        found[position] = (draft,)
    return tuple(found)


def _following(program: TrainingProgram, found: Sequence[Drafts], position: int) -> int | None:
    """The next operation that is not joined already and no update, if it can be joined."""
    for i in range(position + 1, len(program.operations)):
        drafts = found[i]
        if drafts is None:
            return None
        if drafts and program.operations[i].direction is not Direction.UPDATE:
            return i if len(drafts) == 1 else None
    return None


def _step(
    program: TrainingProgram, draft: Draft, after: Draft, op: Operation, stage: Stage
) -> tuple[Draft, Stage] | None:
    """`draft` with what `after` does to its result, and the stage then; None if it cannot be."""
    y = draft.buffers[Place.Y]
    if after.kind is Kind.ADD and stage < Stage.ADDED:
        return _with_addend(program, draft, after, op, y)
    if after.kind is not Kind.ACTIVATION or after.buffers[Place.X] != y:
        return None
    if after.buffers[Place.Y] != y:
        return None
    masks: dict[Place, int] = {
        p: b for p, b in after.buffers.items() if p in (Place.MASK_OUT, Place.MASK_IN)
    }
    if masks and draft.columns % BITS:
        return None
    becomes = Stage.MASKED if Place.MASK_IN in masks else Stage.CLAMPED
    if stage >= becomes:
        return None
    return replace(
        draft,
        buffers={**draft.buffers, **masks},
        flags=draft.flags | after.flags,
        low=after.low if after.flags else draft.low,
        high=after.high if after.flags else draft.high,
    ), becomes


def _with_addend(
    program: TrainingProgram, draft: Draft, after: Draft, op: Operation, y: int
) -> tuple[Draft, Stage] | None:
    one, other, target = (after.buffers[p] for p in (Place.X, Place.ADDED, Place.Y))
    if y not in (one, other) or one == other:
        return None
    addend = other if y == one else one
    position = program.operations.index(op)
    if target != y and program.buffers[y].death != position:
        return None  # the sums themselves are read again
    return replace(
        draft, buffers={**draft.buffers, Place.ADDED: addend, Place.Y: target}
    ), Stage.ADDED


def _is_safe(program: TrainingProgram, arena: Arena, draft: Draft) -> bool:
    """Whether nothing that is written lies on what is read, but for an addend written over."""
    written = [draft.buffers[p] for p in (Place.Y, Place.MASK_OUT) if p in draft.buffers]
    spans = {b: _span(program, arena, b) for b in {*written, *draft.reads}}
    over = draft.buffers.get(Place.ADDED)
    others = [
        draft.buffers[p] for p in (Place.X, Place.WEIGHTS, Place.MASK_IN) if p in draft.buffers
    ]
    for target in written:
        for source in {*draft.reads}:
            if source == over == target and source not in others:
                continue
            if spans[source][0] < spans[target][1] and spans[target][0] < spans[source][1]:
                return False
    return True


def _span(program: TrainingProgram, arena: Arena, buffer: int) -> tuple[int, int]:
    start = arena.offsets_bytes[buffer]
    return start, start + program.buffers[buffer].bytes
