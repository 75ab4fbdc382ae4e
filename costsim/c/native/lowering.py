"""A training program as records for the native kernels, position by position.

What has no kernel keeps its place: whoever runs the program runs it there in its own way. An
operation that its predecessor can do while the sums are still in registers is joined to it
(`joining`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from costsim.c.native.draft import Draft
from costsim.c.native.forward import FORWARD
from costsim.c.native.input_gradient import INPUT_GRADIENT
from costsim.c.native.joining import joined
from costsim.c.native.record import Kind, Place, Record
from costsim.c.native.site import IMAGES, Lists, Site, pixels
from costsim.c.native.weight_gradient import WEIGHT_GRADIENT
from costsim.c.native.weights import PackedWeights
from costsim.ir.graph import Parameter
from costsim.ir.operators import Shape
from costsim.ir.program import (
    Atom,
    Buffer,
    Category,
    Direction,
    Operation,
    TrainingProgram,
    plan_atoms,
)
from costsim.ir.program.arena import Arena, plan_arena

HELD = frozenset({Category.FROZEN_WEIGHTS, Category.UPDATED_WEIGHTS, Category.OPTIMIZER})
"""What lies in the model's memory and the optimizer's, and not in the arena."""


@dataclass(frozen=True)
class Lowered:
    """The drafts of each position: None where there is no kernel, none where others do its work.

    `arena` says where the buffers that they name lie.
    """

    drafts: tuple[tuple[Draft, ...] | None, ...]
    arena: Arena
    lists: Lists

    def records(self) -> tuple[tuple[Record, ...] | None, ...]:
        """As the kernels read them."""
        offsets = self.arena.offsets_bytes
        return tuple(
            None if drafts is None else tuple(draft.record(offsets) for draft in drafts)
            for drafts in self.drafts
        )

    def without_kernel(self, program: TrainingProgram) -> list[Operation]:
        """The operations that are not run here, but for the loss."""
        return [
            op
            for op, drafts in zip(program.operations, self.drafts, strict=True)
            if drafts is None and op.direction is not Direction.LOSS
        ]


def lower(
    program: TrainingProgram,
    weights: PackedWeights,
    states: Mapping[Atom, int],
    *,
    joins: bool = True,
) -> Lowered:
    """Records of a program of 32-bit floats whose images lie with their channels last.

    `weights` are the model's; `states` the addresses of the optimizer's. Without `joins` each
    operation has its own record.
    """
    lists = Lists()
    alone = [_lowered(program, weights, states, lists, op) for op in program.operations]
    arena = plan_arena(program, HELD)
    if not joins:
        return Lowered(tuple(alone), arena, lists)
    earlier = plan_arena(_with_early_masks(program), HELD)
    if earlier.size_bytes <= arena.size_bytes:
        arena = earlier
    return Lowered(joined(program, alone, arena), arena, lists)


def _with_early_masks(program: TrainingProgram) -> TrainingProgram:
    """The program with each mask there an operation earlier, when its elements are computed."""
    buffers = tuple(
        Buffer(b.name, b.category, b.shape, b.bits, b.bytes, max(0, b.birth - 1), b.death)
        if b.category is Category.SAVED
        else b
        for b in program.buffers
    )
    return TrainingProgram(program.graph, program.plan, program.step, program.operations, buffers)


def _lowered(
    program: TrainingProgram,
    weights: PackedWeights,
    states: Mapping[Atom, int],
    lists: Lists,
    op: Operation,
) -> tuple[Draft, ...] | None:
    site = Site(program, weights, lists, op)
    draft: Draft | None = None
    match op.direction:
        case Direction.FORWARD | Direction.RECOMPUTE:
            if site.call.operator in FORWARD and not site.reads_parameter():
                draft = FORWARD[site.call.operator](site)
        case Direction.INPUT_GRADIENT:
            if site.call.operator in INPUT_GRADIENT and not site.reads_parameter():
                draft = INPUT_GRADIENT[site.call.operator](site)
        case Direction.WEIGHT_GRADIENT:
            if site.call.operator in WEIGHT_GRADIENT:
                draft = WEIGHT_GRADIENT[site.call.operator](site)
        case Direction.BIAS_GRADIENT:
            draft = _bias_gradient(site)
        case Direction.ACCUMULATE:
            draft = _accumulate(site)
        case Direction.KEEP:
            draft = _keep(site)
        case Direction.UPDATE:
            return _update(site, states)
        case Direction.LOSS | Direction.SCORE:
            pass
    return None if draft is None else (draft,)


def _bias_gradient(s: Site) -> Draft | None:
    shapes = s.shapes
    last = 1 if len(shapes.output) == IMAGES else len(shapes.output) - 1
    if s.call.operator.bias_dimensions(shapes) != (last,):
        return None
    rows, columns = pixels(shapes.output)
    return Draft(
        Kind.COLUMN_SUMS,
        {Place.X: s.op.reads[0].buffer, Place.Y: s.out},
        rows=rows,
        columns=columns,
    )


def _accumulate(s: Site) -> Draft:
    one, other = (read.buffer for read in s.op.reads)
    return Draft(
        Kind.ADD,
        {Place.X: one, Place.ADDED: other, Place.Y: s.out},
        count=s.op.writes[0].bytes // 4,
    )


def _keep(s: Site) -> Draft | None:
    (read,), (write,) = s.op.reads, s.op.writes
    if read.value is None or write.channels is None or s.reads_parameter():
        return None
    shape = s.program.graph[read.value].shape
    rows, columns = pixels(shape)
    if s.program.buffers[write.buffer].bytes != 4 * rows * len(write.channels):
        return None  # channels of another dimension
    return Draft(
        Kind.KEEP,
        {Place.X: read.buffer, Place.Y: write.buffer},
        {Place.LIST: s.lists.address(write.channels)},
        rows=rows,
        columns=columns,
        count=len(write.channels),
    )


def atom_of(program: TrainingProgram, update: Operation) -> Atom:
    """What an update changes, as the buffer of its gradient is named."""
    kind, layer = program.buffers[update.reads[0].buffer].name.split(":", 2)[1:]
    return kind, layer  # type: ignore[return-value]


def updated_parameter(program: TrainingProgram, atom: Atom) -> Parameter:
    """The parameter that an update writes to."""
    layer = program.graph.layers[atom[1]]
    parameter = layer.bias if atom[0] == "bias" else layer.weight
    assert parameter is not None
    return parameter


def _update(s: Site, states: Mapping[Atom, int]) -> tuple[Draft, ...] | None:
    atom = atom_of(s.program, s.op)
    parameter = updated_parameter(s.program, atom)
    weight = s.weights.tensors[parameter.name]
    call = s.program.graph[s.program.graph.layers[atom[1]].calls[0]]
    if not weight.flags.c_contiguous:
        return None
    if atom[0] == "bias":
        starts, length = [0], parameter.size
    else:
        found = _runs(parameter.shape, atom[0], s.op.channels or (), call.operator.weight_groups)
        if found is None:
            return None
        starts, length = found
    addresses = {Place.LIST: s.lists.address(starts), Place.Y: int(weight.ctypes.data)}
    if atom in states:
        addresses[Place.ADDED] = states[atom]
    gradient = {Place.X: s.op.reads[0].buffer}
    update = Draft(Kind.UPDATE, gradient, addresses, rows=len(starts), depth=length)
    if not _packs_columns(s.weights, atom, parameter):
        return (update,)
    repack = Draft(
        Kind.REPACK,
        {},
        {
            Place.X: int(weight.ctypes.data),
            Place.Y: s.weights.transposed(parameter.name),
            Place.LIST: s.lists.address(s.op.channels or ()),
        },
        rows=len(s.op.channels or ()),
        columns=parameter.shape[0],
        depth=prod(parameter.shape[1:]),
    )
    return update, repack


def _packs_columns(weights: PackedWeights, atom: Atom, parameter: Parameter) -> bool:
    """Whether all that is packed of a weight are its rows as columns, which can change alone."""
    return atom[0] == "output" and weights.forms(parameter.name) == {"transposed"}


def left_to_pack(program: TrainingProgram, weights: PackedWeights) -> frozenset[str]:
    """The weights that have a packed form which is not kept up by their update."""
    found = set()
    for atom in plan_atoms(program.plan):
        parameter = updated_parameter(program, atom)
        if weights.forms(parameter.name) and not _packs_columns(weights, atom, parameter):
            found.add(parameter.name)
    return frozenset(found)


def _runs(
    shape: Shape, axis: str, channels: tuple[int, ...], groups: int
) -> tuple[list[int], int] | None:
    """Where the selected part of a weight begins, again and again, and how long each run is."""
    if axis == "output":
        length = prod(shape[1:])
        return [channel * length for channel in channels], length
    if groups > 1:
        return None
    length = prod(shape[2:])
    rows = range(shape[0])
    return [(row * shape[1] + channel) * length for row in rows for channel in channels], length
