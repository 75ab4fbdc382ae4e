"""The fully connected layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from costsim.ir.operators.base import Axis, Need, Operator, Shape, ShapeError, Shapes, elements


@dataclass(frozen=True, slots=True)
class Linear(Operator):
    """`y = x W^T + b`, weight `[out_features, in_features]`, over the last dimension of `x`."""

    kind = "linear"

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if weight is None or x[-1] != weight[1]:
            raise ShapeError(f"a weight {weight} does not fit input {x}")
        return (*x[:-1], weight[0])

    def work_kind(self, shapes: Shapes) -> str:
        return "linear"

    def label(self, shapes: Shapes) -> str:
        assert shapes.weight is not None
        return f"linear {shapes.weight[1]}→{shapes.weight[0]}"

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if dimension == len(shapes.inputs[0]) - 1 else dimension

    def forward_macs(self, shapes: Shapes) -> int:
        return elements(shapes.inputs[0]) * shapes.output[-1]

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        return self.forward_macs(shapes)

    def weight_gradient_macs(self, shapes: Shapes) -> int:
        return self.forward_macs(shapes)

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input", selected_only=axis == "input"),)

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        return shapes.output[-1] if axis == "output" else shapes.inputs[0][-1]

    def channel_axis(self, shapes: Shapes, source: Literal["input", "output"]) -> int:
        return len(shapes.output) - 1
