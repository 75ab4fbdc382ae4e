"""Operations of a training program as functions of its buffers.

Everything that does not change from step to step is looked up, decided and bound before the first:
which tensors, which kernel, which shapes, which format. At batch 1 the kernels take microseconds,
and whatever stands around them counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from costsim.errors import InputError
from costsim.execution import convolution
from costsim.execution.forward import FORWARD, Operands
from costsim.execution.in_place import IN_PLACE
from costsim.execution.input_gradient import INPUT_GRADIENT, Backward
from costsim.execution.layout import memory_format
from costsim.execution.masks import PASSES, mask_of_flat, multiply_flat_, slopes
from costsim.execution.saving import SAVING
from costsim.execution.selection import Channels, Selection
from costsim.execution.update import UPDATES, Hyperparameters
from costsim.execution.weight_gradient import WEIGHT_GRADIENT, WeightBackward, bias_gradient
from costsim.graph import Call, Parameter
from costsim.operators import Axis, Convolution, Shape, elements
from costsim.program import Atom, Category, Direction, Operand, Operation, TrainingProgram

Buffers: TypeAlias = dict[int, Tensor]
"""The tensors that are live, by index of the buffer in the program."""

Instruction: TypeAlias = Callable[[Buffers], None]
Reader: TypeAlias = Callable[[Buffers], Tensor]

_FLAT = (1,)
"""The stride of a dense tensor's elements in the order of memory."""

_MAY_ALIAS = frozenset({"permute", "slice", "expand", "scale"})
"""Kinds whose function may return its argument's own memory."""


@dataclass
class Compiler:
    """Turns the operations of `program`, in their order, into instructions.

    `tensors` are the model's, by name; what updates write to is found by `selections`, their
    states in `optimizer_state`, their settings and the number of the step, from 1, in `clock`.
    Images lie with `channels_last` or not, but for the input, which has `input_format`.
    """

    program: TrainingProgram
    tensors: Mapping[str, Tensor]
    selections: Mapping[Atom, Selection]
    optimizer_state: Mapping[Atom, Tensor]
    clock: Callable[[], tuple[Hyperparameters, int]]
    channels_last: bool
    input_format: torch.memory_format
    _fixed: dict[int, Tensor] = field(init=False)
    _kept_channels: dict[int, tuple[int, ...]] = field(init=False)
    _shapes: dict[int, Shape] = field(init=False, default_factory=dict)
    """What each buffer was last written as: a value may be read in another shape than that."""

    def compile(self) -> tuple[Instruction, ...]:
        """One instruction for each operation."""
        program = self.program
        self._fixed = {
            i: self.tensors[buffer.name.removeprefix("parameter:")].detach()
            for i, buffer in enumerate(program.buffers)
            if buffer.category is Category.FROZEN_WEIGHTS
        }
        self._kept_channels = {
            op.writes[0].buffer: op.writes[0].channels or ()
            for op in program.operations
            if op.direction is Direction.KEEP
        }
        self._inputs = {
            i for i, buffer in enumerate(program.buffers) if buffer.category is Category.INPUT
        }
        shape = program.graph[program.graph.input].shape
        self._shapes = dict.fromkeys(self._inputs, shape)
        return tuple(self._instruction(op) for op in program.operations)

    def _instruction(self, op: Operation) -> Instruction:
        match op.direction:
            case Direction.FORWARD | Direction.RECOMPUTE:
                return self._forward(op)
            case Direction.KEEP:
                return self._keep(op)
            case Direction.LOSS:
                for operand in op.writes:
                    self._shapes[operand.buffer] = self.program.graph[
                        self.program.graph.output
                    ].shape
                return lambda buffers: None
            case Direction.INPUT_GRADIENT:
                return self._input_gradient(op)
            case Direction.WEIGHT_GRADIENT:
                return self._weight_gradient(op)
            case Direction.BIAS_GRADIENT:
                return self._bias_gradient(op)
            case Direction.ACCUMULATE:
                return self._accumulate(op)
            case Direction.UPDATE:
                return self._update(op)

    # Operands.

    def reader(self, operand: Operand) -> Reader:
        """Looks an operand up, in the shape of the value that is read."""
        index = operand.buffer
        if index in self._fixed:
            tensor = self._fixed[index]
            return lambda buffers: tensor
        if operand.value is None:
            return lambda buffers: buffers[index]
        shape = self.program.graph[operand.value].shape
        if self._shapes[index] == shape:
            return lambda buffers: buffers[index]
        return lambda buffers: buffers[index].view(shape)

    def _reader_of(self, op: Operation, role: str) -> Reader:
        """Looks up the operand in a role; an empty tensor if there is none."""
        nothing = torch.empty(0)
        found = (self.reader(operand) for operand in op.reads if operand.role.startswith(role))
        return next(found, lambda buffers: nothing)

    def _writes(self, op: Operation, shape: Shape) -> int:
        """The buffer an operation writes first, from now on of this shape."""
        index = op.writes[0].buffer
        self._shapes[index] = shape
        return index

    def _format(self, shape: Shape) -> torch.memory_format:
        return memory_format(shape, self.channels_last)

    def _call(self, op: Operation) -> Call:
        assert op.call is not None
        return self.program.graph[op.call]

    def _own(self, call: Call) -> Operands:
        def tensor(parameter: Parameter | None) -> Tensor | None:
            return None if parameter is None else self.tensors[parameter.name].detach()

        extra = tuple(self.tensors[buffer.name].detach() for buffer in call.buffers)
        return Operands((), tensor(call.weight), tensor(call.bias), extra)

    # Forward.

    def _forward(self, op: Operation) -> Instruction:
        call = self._call(op)
        if isinstance(call.operator, Convolution):
            return self._convolution(op, call, call.operator)
        if call.operator.kind in PASSES:
            return self._masked(op, call)
        o, own, kind = call.operator, self._own(call), call.operator.kind
        readers = [self.reader(operand) for operand in op.reads[: len(call.inputs)]]
        saved = op.writes[1].buffer if len(op.writes) > 1 else None
        over = self._overwrites(op)
        out = self._writes(op, call.shape)
        form = self._format(call.shape)

        def operands(buffers: Buffers) -> Operands:
            inputs = tuple([read(buffers) for read in readers])
            return Operands(inputs, own.weight, own.bias, own.buffers)

        if over is not None:
            position, overwrite = over, IN_PLACE[kind]

            def run(buffers: Buffers) -> None:
                t = operands(buffers)
                overwrite(o, t, position)
                buffers[out] = t.inputs[position]

        elif saved is not None:
            index, save = saved, SAVING[kind]

            def run(buffers: Buffers) -> None:
                output, buffers[index] = save(o, operands(buffers))
                buffers[out] = output.contiguous(memory_format=form)

        else:
            compute, aliasing = FORWARD[kind], kind in _MAY_ALIAS

            def run(buffers: Buffers) -> None:
                output = compute(o, operands(buffers))
                if aliasing:
                    output = output.clone(memory_format=form)
                buffers[out] = output.contiguous(memory_format=form)

        return run

    def _overwrites(self, op: Operation) -> int | None:
        """Which input of a call has the memory that its output takes over."""
        overwritable = self._call(op).operator.overwritable_inputs
        out = op.writes[0].buffer
        return next((i for i in reversed(overwritable) if op.reads[i].buffer == out), None)

    def _convolution(self, op: Operation, call: Call, o: Convolution) -> Instruction:
        own, read, first = self._own(call), self.reader(op.reads[0]), op.reads[0].buffer
        assert own.weight is not None
        kernel = convolution.forward(
            o, own.weight, own.bias, self.program.graph.shapes(call), self.channels_last
        )
        out, form = self._writes(op, call.shape), self._format(call.shape)
        if first in self._inputs and form != self.input_format:

            def turning(buffers: Buffers) -> None:
                x = read(buffers).contiguous(memory_format=form)
                buffers[out] = kernel(x).contiguous(memory_format=form)

            return turning

        def run(buffers: Buffers) -> None:
            buffers[out] = kernel(read(buffers)).contiguous(memory_format=form)

        return run

    def _masked(self, op: Operation, call: Call) -> Instruction:
        """A piecewise linear function, with its mask where the backward pass needs it."""
        o, read, passes = call.operator, self.reader(op.reads[0]), PASSES[call.operator.kind]
        saved = op.writes[1].buffer if len(op.writes) > 1 else None
        over, size = self._overwrites(op) is not None, (elements(call.shape),)
        form, out = self._format(call.shape), self._writes(op, call.shape)
        overwrite, compute = IN_PLACE[o.kind], FORWARD[o.kind]

        def run(buffers: Buffers) -> None:
            x = read(buffers)
            if saved is not None:
                buffers[saved] = mask_of_flat(passes, o, x.as_strided(size, _FLAT))
            if over:
                overwrite(o, Operands((x,)), 0)
                buffers[out] = x
            else:
                buffers[out] = compute(o, Operands((x,))).contiguous(memory_format=form)

        return run

    def _keep(self, op: Operation) -> Instruction:
        read, kept, channels = self.reader(op.reads[0]), op.writes[0].buffer, op.writes[0].channels
        assert channels is not None
        assert op.reads[0].value is not None
        dimension, part = self._kept_dimension(kept), Channels(channels)
        shape = self.program.graph[op.reads[0].value].shape
        form = self._format(shape)
        self._writes(op, (*shape[:dimension], len(channels), *shape[dimension + 1 :]))

        def run(buffers: Buffers) -> None:
            buffers[kept] = part.copied(read(buffers), dimension, form)

        return run

    def _kept_dimension(self, kept: int) -> int:
        """The dimension along which channels of a value are kept: that of all who read them."""
        found = set()
        for op in self.program.operations:
            if op.direction is Direction.WEIGHT_GRADIENT:
                call = self._call(op)
                if any(operand.buffer == kept for operand in op.reads):
                    shapes = self.program.graph.shapes(call)
                    found.add(call.operator.channel_axis(shapes, "input"))
        if len(found) != 1:
            raise InputError(
                f"{self.program.buffers[kept].name}: its channels are read along different "
                "dimensions, which is not supported"
            )
        return found.pop()

    # Backward.

    def _input_gradient(self, op: Operation) -> Instruction:
        call = self._call(op)
        o, own, shapes = call.operator, self._own(call), self.program.graph.shapes(call)
        index, dy = op.input_index, self.reader(op.reads[0])
        in_place = op.reads[0].buffer == op.writes[0].buffer
        saved = self._reader_of(op, "saved")
        form = self._format(shapes.inputs[index])
        if isinstance(o, Convolution):
            assert own.weight is not None
            kernel = convolution.input_gradient(o, own.weight, shapes, self.channels_last)
            out = self._writes(op, shapes.inputs[index])

            def convolve(buffers: Buffers) -> None:
                buffers[out] = kernel(dy(buffers)).contiguous(memory_format=form)

            return convolve
        if o.kind in PASSES:
            factors, size = slopes(o), (elements(call.shape),)
            out = self._writes(op, shapes.inputs[index])

            def mask(buffers: Buffers) -> None:
                gradient = dy(buffers) if in_place else dy(buffers).clone()
                multiply_flat_(gradient.as_strided(size, _FLAT), saved(buffers), factors)
                buffers[out] = gradient

            return mask
        kept = {
            int(operand.role.split()[-1]): self.reader(operand)
            for operand in op.reads
            if operand.role.startswith("kept input")
        }
        output = self._reader_of(op, "kept output")
        into = self.reader(op.reads[-1]) if op.reads[-1].role == "into" else None
        function = INPUT_GRADIENT[o.kind]
        out = self._writes(op, shapes.inputs[index])

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
            buffers[out] = function(o, t).contiguous(memory_format=form)

        return run

    def _weight_gradient(self, op: Operation) -> Instruction:
        call = self._call(op)
        assert call.layer is not None
        axis = self.program.plan.by_layer[call.layer].axis
        selection = self.selections[axis, call.layer]
        o, own, shapes = call.operator, self._own(call), self.program.graph.shapes(call)
        dy, x = self.reader(op.reads[0]), self._input_reader(op, call, axis)
        if isinstance(o, Convolution):
            assert own.weight is not None
            kernel = convolution.weight_gradient(
                o, own.weight, shapes, selection, self.channels_last
            )
            out = self._writes(op, selection.shape)

            def convolve(buffers: Buffers) -> None:
                buffers[out] = kernel(dy(buffers), x(buffers)).contiguous()

            return convolve
        saved, function = self._reader_of(op, "saved"), WEIGHT_GRADIENT[o.kind]
        out = self._writes(op, selection.shape)

        def run(buffers: Buffers) -> None:
            t = WeightBackward(dy(buffers), x(buffers), saved(buffers), shapes, selection, own)
            buffers[out] = function(o, t).contiguous()

        return run

    def _input_reader(self, op: Operation, call: Call, axis: Axis) -> Reader:
        """The call's input as its weight gradient needs it: cut to the channels or whole."""
        operand = next(r for r in op.reads if r.role == "kept input 0")
        shapes = self.program.graph.shapes(call)
        needs = call.operator.weight_gradient_needs(shapes, axis)
        whole = self._in_format(operand)
        if not any(need.source == "input" and need.selected_only for need in needs):
            return whole
        dimension = call.operator.channel_axis(shapes, "input")
        assert op.channels is not None
        channels = Channels(op.channels)
        if operand.buffer not in self._kept_channels:
            return lambda buffers: channels.of(whole(buffers), dimension)
        union, index = self._kept_channels[operand.buffer], operand.buffer
        if union == op.channels:
            return lambda buffers: buffers[index]
        places = Channels([union.index(channel) for channel in op.channels])
        return lambda buffers: places.of(buffers[index], dimension)

    def _in_format(self, operand: Operand) -> Reader:
        """A value as the others lie, even if it is the input."""
        if operand.buffer in self._kept_channels:
            return lambda buffers: buffers[operand.buffer]
        read = self.reader(operand)
        if operand.buffer not in self._inputs or operand.value is None:
            return read
        form = self._format(self.program.graph[operand.value].shape)
        if form == self.input_format:
            return read
        return lambda buffers: read(buffers).contiguous(memory_format=form)

    def _bias_gradient(self, op: Operation) -> Instruction:
        call = self._call(op)
        dy, kind = self.reader(op.reads[0]), call.operator.kind
        bias = self._own(call).bias
        assert bias is not None
        out = self._writes(op, tuple(bias.shape))

        def run(buffers: Buffers) -> None:
            buffers[out] = bias_gradient(dy(buffers), bias, kind)

        return run

    def _accumulate(self, op: Operation) -> Instruction:
        target, (left, right) = op.writes[0].buffer, op.reads
        a, b = self.reader(left), self.reader(right)
        if left.value is not None:
            self._shapes[target] = self.program.graph[left.value].shape
        if target == right.buffer:
            a, b = b, a
        elif target != left.buffer:

            def add(buffers: Buffers) -> None:
                buffers[target] = a(buffers) + b(buffers)

            return add

        def run(buffers: Buffers) -> None:
            buffers[target] = a(buffers).add_(b(buffers))

        return run

    def _update(self, op: Operation) -> Instruction:
        gradient = op.reads[0].buffer
        kind, layer = self.program.buffers[gradient].name.split(":", 2)[1:]
        atom: Atom = (kind, layer)  # type: ignore[assignment]
        selection, weight = self.selections[atom], updated_tensor(self.program, self.tensors, atom)
        states, clock = self.optimizer_state.get(atom), self.clock
        function, add = UPDATES[self.program.step.optimizer], selection.adder(weight)

        def run(buffers: Buffers) -> None:
            settings, step = clock()
            function(settings, add, buffers[gradient], states, step)
            increment_version(weight)

        return run


def updated_tensor(program: TrainingProgram, tensors: Mapping[str, Tensor], atom: Atom) -> Tensor:
    """The model's tensor that an update writes to."""
    layer = program.graph.layers[atom[1]]
    parameter = layer.bias if atom[0] == "bias" else layer.weight
    assert parameter is not None
    return tensors[parameter.name]
