"""Instructions of the backward pass."""

from collections.abc import Mapping

from costsim.ir.operators import Convolution, elements
from costsim.ir.program import Atom, Operation
from costsim.run.execution import convolution
from costsim.run.execution.binding import Binding, Buffers, Instruction
from costsim.run.execution.input_gradient import INPUT_GRADIENT, Backward
from costsim.run.execution.masks import FLAT, PASSES, SLOPES, multiply_flat_
from costsim.run.execution.selection import Selection
from costsim.run.execution.weight_gradient import WEIGHT_GRADIENT, WeightBackward
from costsim.run.execution.weight_gradient import bias_gradient as gradient_of_bias


def input_gradient(bound: Binding, op: Operation) -> Instruction:
    """The gradient of one input of a call."""
    call = bound.call(op)
    o, own, shapes = call.operator, bound.own(call), bound.program.graph.shapes(call)
    index, dy = op.input_index, bound.reader(op.reads[0])
    in_place = op.reads[0].buffer == op.writes[0].buffer
    saved = bound.reader_of(op, "saved")
    form = bound.format(shapes.inputs[index])
    if isinstance(o, Convolution):
        assert own.weight is not None
        kernel = convolution.input_gradient(o, own.weight, shapes, bound.channels_last)
        out = bound.writes(op, shapes.inputs[index])

        def convolve(buffers: Buffers) -> None:
            buffers[out] = kernel(dy(buffers)).contiguous(memory_format=form)

        return convolve
    if o in PASSES:
        factors, size = SLOPES[o](), (elements(call.shape),)
        out = bound.writes(op, shapes.inputs[index])

        def mask(buffers: Buffers) -> None:
            gradient = dy(buffers) if in_place else dy(buffers).clone()
            multiply_flat_(gradient.as_strided(size, FLAT), saved(buffers), factors)
            buffers[out] = gradient

        return mask
    kept = {
        int(operand.role.split()[-1]): bound.reader(operand)
        for operand in op.reads
        if operand.role.startswith("kept input")
    }
    output = bound.reader_of(op, "kept output")
    into = bound.reader(op.reads[-1]) if op.reads[-1].role == "into" else None
    function = INPUT_GRADIENT[o]
    out = bound.writes(op, shapes.inputs[index])

    def run(buffers: Buffers) -> None:
        t = Backward(
            dy(buffers),
            shapes,
            index,
            in_place,
            {i: read(buffers) for i, read in kept.items()},
            output(buffers),
            saved(buffers),
            None if into is None else into(buffers),
            own,
            form,
        )
        buffers[out] = function(t).contiguous(memory_format=form)

    return run


def weight_gradient(
    bound: Binding, op: Operation, selections: Mapping[Atom, Selection]
) -> Instruction:
    """The gradient of the selected part of a weight."""
    call = bound.call(op)
    assert call.layer is not None
    axis = bound.program.plan.by_layer[call.layer].axis
    selection = selections[axis, call.layer]
    o, own, shapes = call.operator, bound.own(call), bound.program.graph.shapes(call)
    dy, x = bound.reader(op.reads[0]), bound.input_reader(op, call, axis)
    if isinstance(o, Convolution):
        assert own.weight is not None
        kernel = convolution.weight_gradient(o, own.weight, shapes, selection, bound.channels_last)
        out = bound.writes(op, selection.shape)

        def convolve(buffers: Buffers) -> None:
            buffers[out] = kernel(dy(buffers), x(buffers)).contiguous()

        return convolve
    saved, function = bound.reader_of(op, "saved"), WEIGHT_GRADIENT[o]
    out = bound.writes(op, selection.shape)

    def run(buffers: Buffers) -> None:
        t = WeightBackward(dy(buffers), x(buffers), saved(buffers), shapes, selection, own)
        buffers[out] = function(t).contiguous()

    return run


def bias_gradient(bound: Binding, op: Operation) -> Instruction:
    """The gradient of a bias."""
    call = bound.call(op)
    dy, shapes = bound.reader(op.reads[0]), bound.program.graph.shapes(call)
    along = call.operator.bias_dimensions(shapes)
    bias = bound.own(call).bias
    assert bias is not None
    out = bound.writes(op, tuple(bias.shape))

    def run(buffers: Buffers) -> None:
        buffers[out] = gradient_of_bias(dy(buffers), bias, along)

    return run


def accumulate(bound: Binding, op: Operation) -> Instruction:
    """The sum of two gradients, in place where the program says so."""
    target, (left, right) = op.writes[0].buffer, op.reads
    one, other = bound.reader(left), bound.reader(right)
    if left.value is not None:
        bound.takes(target, bound.program.graph[left.value].shape)
    if target == right.buffer:
        one, other = other, one
    elif target != left.buffer:

        def add(buffers: Buffers) -> None:
            buffers[target] = one(buffers) + other(buffers)

        return add

    def run(buffers: Buffers) -> None:
        buffers[target] = one(buffers).add_(other(buffers))

    return run
