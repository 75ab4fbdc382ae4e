"""Instructions of the forward pass."""

from costsim.base.errors import InputError
from costsim.ir.graph import Call
from costsim.ir.operators import Convolution, Expand, Permute, Scale, Slice, elements
from costsim.ir.program import Direction, Operation
from costsim.run.execution import convolution
from costsim.run.execution.binding import Binding, Buffers, Instruction, Reader
from costsim.run.execution.forward import FORWARD, Operands
from costsim.run.execution.in_place import IN_PLACE
from costsim.run.execution.masks import FLAT, PASSES, mask_of_flat
from costsim.run.execution.saved_values import SAVING
from costsim.run.execution.selection import Channels

_MAY_ALIAS = (Permute, Slice, Expand, Scale)
"""Operators whose function may return its argument's own memory."""


def forward(bound: Binding, op: Operation) -> Instruction:
    """A call of the model."""
    call = bound.call(op)
    if isinstance(call.operator, Convolution):
        return _convolution(bound, op, call, call.operator)
    if call.operator in PASSES:
        return _masked(bound, op, call)
    o, own = call.operator, bound.own(call)
    readers = [bound.reader(operand) for operand in op.reads[: len(call.inputs)]]
    saved = op.writes[1].buffer if len(op.writes) > 1 else None
    over = _overwrites(bound, op)
    out = bound.writes(op, call.shape)
    form = bound.format(call.shape)

    def operands(buffers: Buffers) -> Operands:
        inputs = tuple([read(buffers) for read in readers])
        return Operands(inputs, own.weight, own.bias, own.buffers)

    if over is not None:
        position, overwrite = over, IN_PLACE[o]

        def run(buffers: Buffers) -> None:
            t = operands(buffers)
            overwrite(t, position)
            buffers[out] = t.inputs[position]

    elif saved is not None:
        index, save = saved, SAVING[o]

        def run(buffers: Buffers) -> None:
            output, buffers[index] = save(operands(buffers))
            buffers[out] = output.contiguous(memory_format=form)

    else:
        compute, aliasing = FORWARD[o], isinstance(o, _MAY_ALIAS)

        def run(buffers: Buffers) -> None:
            output = compute(operands(buffers))
            if aliasing:
                output = output.clone(memory_format=form)
            buffers[out] = output.contiguous(memory_format=form)

    return run


def _overwrites(bound: Binding, op: Operation) -> int | None:
    """Which input of a call has the memory that its output takes over."""
    overwritable = bound.call(op).operator.overwritable_inputs
    out = op.writes[0].buffer
    return next((i for i in reversed(overwritable) if op.reads[i].buffer == out), None)


def _convolution(bound: Binding, op: Operation, call: Call, o: Convolution) -> Instruction:
    own, read, first = bound.own(call), bound.reader(op.reads[0]), op.reads[0].buffer
    assert own.weight is not None
    kernel = convolution.forward(
        o, own.weight, own.bias, bound.program.graph.shapes(call), bound.channels_last
    )
    out, form = bound.writes(op, call.shape), bound.format(call.shape)
    if first in bound.inputs and form != bound.input_format:

        def turning(buffers: Buffers) -> None:
            x = read(buffers).contiguous(memory_format=form)
            buffers[out] = kernel(x).contiguous(memory_format=form)

        return turning

    def run(buffers: Buffers) -> None:
        buffers[out] = kernel(read(buffers)).contiguous(memory_format=form)

    return run


def _masked(bound: Binding, op: Operation, call: Call) -> Instruction:
    """A piecewise linear function, with its mask where the backward pass needs it."""
    o, read, passes = call.operator, bound.reader(op.reads[0]), PASSES[call.operator]
    saved = op.writes[1].buffer if len(op.writes) > 1 else None
    over, size = _overwrites(bound, op) is not None, (elements(call.shape),)
    form, out = bound.format(call.shape), bound.writes(op, call.shape)
    overwrite, compute = IN_PLACE[o], FORWARD[o]

    def run(buffers: Buffers) -> None:
        x = read(buffers)
        if saved is not None:
            buffers[saved] = mask_of_flat(passes, x.as_strided(size, FLAT))
        if over:
            overwrite(Operands((x,)), 0)
            buffers[out] = x
        else:
            buffers[out] = compute(Operands((x,))).contiguous(memory_format=form)

    return run


def keep(bound: Binding, op: Operation) -> Instruction:
    """A value, or some of its channels, copied for the backward pass."""
    read, kept, channels = bound.reader(op.reads[0]), op.writes[0].buffer, op.writes[0].channels
    assert op.reads[0].value is not None
    if channels is None:
        return _keep_whole(bound, op, read)
    dimension, part = _kept_dimension(bound, kept), Channels(channels)
    shape = bound.program.graph[op.reads[0].value].shape
    form = bound.format(shape)
    bound.writes(op, (*shape[:dimension], len(channels), *shape[dimension + 1 :]))

    def run(buffers: Buffers) -> None:
        buffers[kept] = part.copied(read(buffers), dimension, form)

    return run


def _keep_whole(bound: Binding, op: Operation, read: Reader) -> Instruction:
    kept, value = op.writes[0].buffer, op.reads[0].value
    assert value is not None
    bound.writes(op, bound.program.graph[value].shape)

    def run(buffers: Buffers) -> None:
        buffers[kept] = read(buffers).clone()

    return run


def _kept_dimension(bound: Binding, kept: int) -> int:
    """The dimension along which channels of a value are kept: that of all who read them."""
    found = set()
    for op in bound.program.operations:
        if op.direction is Direction.WEIGHT_GRADIENT:
            call = bound.call(op)
            if any(operand.buffer == kept for operand in op.reads):
                shapes = bound.program.graph.shapes(call)
                found.add(call.operator.channel_axis(shapes, "input"))
    if len(found) != 1:
        raise InputError(
            f"{bound.program.buffers[kept].name}: its channels are read along different "
            "dimensions, which is not supported"
        )
    return found.pop()
