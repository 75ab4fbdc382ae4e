"""Normalisation layers. Their affine parameters can be updated like a layer's weight and bias."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from costsim.ir.operators.base import (
    Axis,
    GradientForm,
    Need,
    Operator,
    Saved,
    Shape,
    ShapeError,
    Shapes,
    elements,
)


@dataclass(frozen=True, slots=True)
class BatchNorm(Operator):
    """Batch normalisation with frozen statistics: an affine map of each channel of `[N, C, ...]`.

    The input gradient needs the scale alone; the gradient of the scale needs the input of the
    selected channels.
    """

    kind = "batch_norm"
    any_memory_format = True
    overwritable_inputs = (0,)

    eps: float

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return inputs[0]

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if dimension == 0 else None

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input", selected_only=True),)

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        return shapes.output[1] if axis == "output" and shapes.weight is not None else 0

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "in_place"


@dataclass(frozen=True, slots=True)
class LayerNorm(Operator):
    """Normalisation over the last `dimensions` dimensions; mean and inverse deviation are saved."""

    kind = "layer_norm"

    dimensions: int
    eps: float

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if weight is not None and x[-self.dimensions :] != weight:
            raise ShapeError(f"a weight {weight} does not fit input {x}")
        return x

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if dimension >= len(shapes.output) - self.dimensions else dimension

    def saved(self, shapes: Shapes) -> Saved:
        rows = elements(shapes.output) // prod(shapes.output[-self.dimensions :])
        return Saved((2, rows), 32, "statistics")

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"), Need("saved"))

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input"), Need("saved"))

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        usable = axis == "output" and shapes.weight is not None and self.dimensions == 1
        return shapes.output[-1] if usable else 0

    def channel_axis(self, shapes: Shapes, source: Literal["input", "output"]) -> int:
        return len(shapes.output) - 1

    def bias_dimensions(self, shapes: Shapes) -> tuple[int, ...]:
        rank = len(shapes.output)
        return tuple(range(rank - self.dimensions, rank))


@dataclass(frozen=True, slots=True)
class GroupNorm(Operator):
    """Normalisation over groups of channels of `[N, C, ...]`; saves mean and inverse deviation."""

    kind = "group_norm"

    groups: int
    eps: float

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if x[1] % self.groups:
            raise ShapeError(f"{self.groups} groups do not divide the channels of {x}")
        return x

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if dimension == 0 else None

    def saved(self, shapes: Shapes) -> Saved:
        return Saved((2, shapes.output[0] * self.groups), 32, "statistics")

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"), Need("saved"))

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input", selected_only=True), Need("saved"))

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        return shapes.output[1] if axis == "output" and shapes.weight is not None else 0
