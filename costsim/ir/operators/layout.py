"""Operators that move or rename elements and compute nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from costsim.ir.operators.base import GradientForm, Operator, Shape, ShapeError, Shapes, elements


@dataclass(frozen=True, slots=True)
class Reshape(Operator):
    """The same elements in the same order under another shape: no work, no memory."""

    kind = "reshape"
    is_view = True

    shape: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        if elements(inputs[0]) != elements(self.shape):
            raise ShapeError(f"{inputs[0]} does not reshape to {self.shape}")
        return self.shape

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "same"

    def keeps_memory_format(self, shapes: Shapes) -> bool:
        # Of single pixels, both formats are one.
        images = [shape for shape in (*shapes.inputs, shapes.output) if len(shape) == 4]
        return all(shape[2:] == (1, 1) for shape in images)

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        before, after = shapes.inputs[0], shapes.output
        ahead = prod(before[:dimension])
        places = (
            place
            for place, size in enumerate(after)
            if size == before[dimension] and prod(after[:place]) == ahead
        )
        return next(places, None)


@dataclass(frozen=True, slots=True)
class Permute(Operator):
    """Dimensions in another order, as a copy."""

    kind = "permute"

    dimensions: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return tuple(inputs[0][d] for d in self.dimensions)

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return self.dimensions.index(dimension)


@dataclass(frozen=True, slots=True)
class Slice(Operator):
    """`x[..., start:stop:step, ...]` along one dimension, as a copy."""

    kind = "slice"

    dimension: int
    start: int
    stop: int
    step: int = 1

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        size = len(range(self.start, self.stop, self.step))
        return (*inputs[0][: self.dimension], size, *inputs[0][self.dimension + 1 :])

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        return "scatter"

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if self.dimension % len(shapes.output) == dimension else dimension


@dataclass(frozen=True, slots=True)
class Concatenate(Operator):
    """Inputs one after another along one dimension."""

    kind = "concatenate"
    any_memory_format = True

    dimension: int

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        d = self.dimension
        if len({(*shape[:d], *shape[d + 1 :]) for shape in inputs}) != 1:
            raise ShapeError(f"shapes {', '.join(map(str, inputs))} do not concatenate along {d}")
        return (*inputs[0][:d], sum(shape[d] for shape in inputs), *inputs[0][d + 1 :])

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if self.dimension % len(shapes.output) == dimension else dimension


@dataclass(frozen=True, slots=True)
class Expand(Operator):
    """Dimensions of size one repeated, as a copy."""

    kind = "expand"

    shape: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return self.shape


@dataclass(frozen=True, slots=True)
class Pad(Operator):
    """A constant border: `padding` is (before, after) for every dimension."""

    kind = "pad"
    any_memory_format = True

    padding: tuple[tuple[int, int], ...]
    value: float = 0.0

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return tuple(
            before + size + after
            for size, (before, after) in zip(inputs[0], self.padding, strict=True)
        )

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if any(self.padding[dimension]) else dimension
