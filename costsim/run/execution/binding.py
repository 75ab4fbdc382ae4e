"""What does not change from step to step of a program, looked up before the first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from costsim.ir.graph import Call, Parameter
from costsim.ir.operators import Axis, Shape
from costsim.ir.program import Category, Direction, Operand, Operation, TrainingProgram
from costsim.run.execution.forward import Operands
from costsim.run.execution.layout import memory_format
from costsim.run.execution.selection import Channels

Buffers: TypeAlias = dict[int, Tensor]
"""The tensors that are live, by index of the buffer in the program."""

Instruction: TypeAlias = Callable[[Buffers], None]
Reader: TypeAlias = Callable[[Buffers], Tensor]


@dataclass
class Binding:
    """Where the operations of `program` find what they read, and what they write.

    `tensors` are the model's, by name. Images lie with `channels_last` or not, but for the input,
    which has `input_format`. Operations are bound in their order: what a buffer was last written
    as is known only then.
    """

    program: TrainingProgram
    tensors: Mapping[str, Tensor]
    channels_last: bool
    input_format: torch.memory_format
    inputs: frozenset[int] = field(init=False)
    _fixed: dict[int, Tensor] = field(init=False)
    _kept_channels: dict[int, tuple[int, ...]] = field(init=False)
    _shapes: dict[int, Shape] = field(init=False)
    """What each buffer was last written as: a value may be read in another shape than that."""

    def __post_init__(self) -> None:
        program = self.program
        self._fixed = {
            i: self.tensors[buffer.name.removeprefix("parameter:")].detach()
            for i, buffer in enumerate(program.buffers)
            if buffer.category is Category.FROZEN_WEIGHTS
        }
        self._kept_channels = {
            op.writes[0].buffer: op.writes[0].channels or ()
            for op in program.operations
            if op.direction is Direction.KEEP and op.writes[0].channels is not None
        }
        self.inputs = frozenset(
            i for i, buffer in enumerate(program.buffers) if buffer.category is Category.INPUT
        )
        shape = program.graph[program.graph.input].shape
        self._shapes = dict.fromkeys(self.inputs, shape)

    def reader(self, operand: Operand) -> Reader:
        """Looks an operand up, in the shape of the value that is read."""
        index = operand.buffer
        shape = self.program.graph[operand.value].shape if operand.value is not None else None
        if index in self._fixed:
            tensor = self._fixed[index]
            if shape in (None, tuple(tensor.shape)):
                return lambda _buffers: tensor
            return lambda _buffers: tensor.reshape(shape)
        if shape is None:
            return lambda buffers: buffers[index]
        if self._shapes[index] == shape:
            return lambda buffers: buffers[index]
        return lambda buffers: buffers[index].view(shape)

    def reader_of(self, op: Operation, role: str) -> Reader:
        """Looks up the operand in a role; an empty tensor if there is none."""
        nothing = torch.empty(0)
        found = (self.reader(operand) for operand in op.reads if operand.role.startswith(role))
        return next(found, lambda _buffers: nothing)

    def writes(self, op: Operation, shape: Shape) -> int:
        """The buffer an operation writes first, from now on of this shape."""
        index = op.writes[0].buffer
        self._shapes[index] = shape
        return index

    def format(self, shape: Shape) -> torch.memory_format:
        """The memory format of a value of this shape."""
        return memory_format(shape, self.channels_last)

    def call(self, op: Operation) -> Call:
        """The call of the model that an operation belongs to."""
        assert op.call is not None
        return self.program.graph[op.call]

    def own(self, call: Call) -> Operands:
        """A call's own tensors, without inputs."""

        def tensor(parameter: Parameter | None) -> Tensor | None:
            return None if parameter is None else self.tensors[parameter.name].detach()

        extra = tuple(self.tensors[buffer.name].detach() for buffer in call.buffers)
        return Operands((), tensor(call.weight), tensor(call.bias), extra)

    def input_reader(self, op: Operation, call: Call, axis: Axis) -> Reader:
        """The call's input as its weight gradient needs it: cut to the channels or whole."""
        operand = next(r for r in op.reads if r.role == "kept input 0")
        shapes = self.program.graph.shapes(call)
        needs = call.operator.weight_gradient_needs(shapes, axis)
        whole = self.in_format(operand)
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

    def in_format(self, operand: Operand) -> Reader:
        """A value as the others lie, even if it is the input."""
        if operand.buffer in self._kept_channels:
            return lambda buffers: buffers[operand.buffer]
        read = self.reader(operand)
        if operand.buffer not in self.inputs or operand.value is None:
            return read
        form = self.format(self.program.graph[operand.value].shape)
        if form == self.input_format:
            return read
        return lambda buffers: read(buffers).contiguous(memory_format=form)

    def takes(self, buffer: int, shape: Shape) -> None:
        """From now on the buffer holds a tensor of this shape."""
        self._shapes[buffer] = shape
