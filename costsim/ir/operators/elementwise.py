"""Arithmetic of two activations, or of one and a constant."""

from collections.abc import Sequence
from dataclasses import dataclass

from costsim.ir.operators.base import GradientForm, Need, Operator, Shape, Shapes, broadcast


@dataclass(frozen=True, slots=True)
class Add(Operator):
    """`a + b` with broadcasting; the gradient of an operand of full shape is the output's own."""

    kind = "add"
    any_memory_format = True
    overwritable_inputs = (0, 1)

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast(inputs)

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "same" if shapes.inputs[index] == shapes.output else "new"


@dataclass(frozen=True, slots=True)
class Subtract(Operator):
    """`a - b` with broadcasting."""

    kind = "subtract"
    any_memory_format = True
    overwritable_inputs = (0, 1)

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast(inputs)

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        if shapes.inputs[index] != shapes.output:
            return "new"
        return "same" if index == 0 else "in_place"


@dataclass(frozen=True, slots=True)
class Multiply(Operator):
    """`a * b` with broadcasting, as in squeeze-and-excitation; gradients read the other factor."""

    kind = "multiply"
    any_memory_format = True
    overwritable_inputs = (0, 1)

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast(inputs)

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 1 - index),)

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "in_place" if shapes.inputs[index] == shapes.output else "new"


@dataclass(frozen=True, slots=True)
class Divide(Operator):
    """`a / b` with broadcasting; the gradient of the divisor reads both."""

    kind = "divide"
    any_memory_format = True
    overwritable_inputs = (0,)
    operands = 2

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast(inputs)

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 1),) if index == 0 else (Need("input", 0), Need("input", 1))

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "in_place" if shapes.inputs[index] == shapes.output else "new"

    @classmethod
    def usual(cls, shape: Shape) -> "Divide":
        return cls()


@dataclass(frozen=True, slots=True)
class Larger(Operator):
    """The larger (or smaller) of `a` and `b`; equal ones share the gradient."""

    kind = "larger"
    any_memory_format = True
    operands = 2

    smallest: bool = False

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast(inputs)

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 0), Need("input", 1))

    @classmethod
    def usual(cls, shape: Shape) -> "Larger":
        return cls()


@dataclass(frozen=True, slots=True)
class Where(Operator):
    """`a` where a condition holds, else `b`: a constant of the model, of the shape `condition`."""

    kind = "where"
    operands = 2

    condition: Shape

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return broadcast((*inputs, self.condition))


@dataclass(frozen=True, slots=True)
class Scale(Operator):
    """`factor * x + offset` with two constants."""

    kind = "scale"
    any_memory_format = True
    overwritable_inputs = (0,)

    factor: float = 1.0
    offset: float = 0.0

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return inputs[0]

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "same" if self.factor == 1.0 else "in_place"
