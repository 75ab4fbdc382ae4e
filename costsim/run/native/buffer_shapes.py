"""What the buffers that kernels wrote look like to torch, where it reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from costsim.ir.operators import Shape
from costsim.ir.program import Atom, Direction, Operation, TrainingProgram
from costsim.run.execution.selection import Selection


@dataclass(frozen=True)
class Seen:
    """A buffer as a tensor: its index in the program, shape and type.

    Values and their gradients have channels last, gradients of weights lie as weights do.
    """

    buffer: int
    shape: Shape
    dtype: torch.dtype = torch.float32
    channels_last: bool = True


def written_by(
    program: TrainingProgram, op: Operation, selections: Mapping[Atom, Selection]
) -> list[Seen]:
    """What an operation writes, each as the tensor it is; updates write nothing in the arena."""
    if not op.writes or op.direction is Direction.UPDATE:
        return []
    first, *saved = op.writes
    masks = [Seen(operand.buffer, (operand.bytes,), torch.uint8) for operand in saved]
    shape = _shape(program, op, selections)
    return [Seen(first.buffer, shape, channels_last=not of_a_weight(program, op)), *masks]


def of_a_weight(program: TrainingProgram, op: Operation) -> bool:
    """Whether an operation writes the gradient of a weight or a bias."""
    return program.buffers[op.writes[0].buffer].name.startswith("dweights:")


def _shape(program: TrainingProgram, op: Operation, selections: Mapping[Atom, Selection]) -> Shape:
    graph, first = program.graph, op.writes[0]
    if op.direction is Direction.LOSS:
        return graph[graph.output].shape
    if op.direction is Direction.KEEP:
        assert op.reads[0].value is not None
        return _kept_shape(graph[op.reads[0].value].shape, first.channels)
    if op.direction is Direction.ACCUMULATE and op.reads[0].value is not None:
        return graph[op.reads[0].value].shape
    assert op.call is not None
    call = graph[op.call]
    shapes = graph.shapes(call)
    if op.direction is Direction.INPUT_GRADIENT:
        return shapes.inputs[op.input_index]
    if op.direction in (Direction.FORWARD, Direction.RECOMPUTE):
        return call.shape
    # A gradient, or what is added to it: `dweights:kind:layer`, perhaps with a call after it.
    name = program.buffers[first.buffer].name
    return next(
        selection.shape
        for (kind, layer), selection in selections.items()
        if f"{name}:".startswith(f"dweights:{kind}:{layer}:") and layer == call.layer
    )


def _kept_shape(shape: Shape, channels: tuple[int, ...] | None) -> Shape:
    """Of a value [.., C, ..] with some of its channels: along the dimension that fits."""
    if channels is None:
        return shape
    along = 1 if len(shape) == 4 else len(shape) - 1
    return (*shape[:along], len(channels), *shape[along + 1 :])


def seen_by_torch(
    program: TrainingProgram,
    selections: Mapping[Atom, Selection],
    is_native: Sequence[bool],
) -> tuple[tuple[Seen, ...], ...]:
    """For each operation that torch runs, the buffers it reads that a kernel wrote last."""
    last: dict[int, Seen] = {}
    found = []
    for op, native in zip(program.operations, is_native, strict=True):
        reads = {operand.buffer for operand in op.reads}
        found.append(() if native else tuple(last[i] for i in sorted(reads & last.keys())))
        for seen in written_by(program, op, selections):
            if native:
                last[seen.buffer] = seen
            else:
                last.pop(seen.buffer, None)
    return tuple(found)
