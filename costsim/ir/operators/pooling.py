"""Pooling over space, and means over any dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from costsim.ir.operators.base import Need, Operator, Saved, Shape, ShapeError, Shapes


def _pooled(
    x: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
) -> Shape:
    spatial = []
    for size, k, s, p, d in zip(x[2:], kernel, stride, padding, dilation, strict=True):
        reach = size + 2 * p - d * (k - 1) - 1
        count = (ceil(reach / s) if ceil_mode else reach // s) + 1
        if ceil_mode and (count - 1) * s >= size + p:  # the last window must start inside
            count -= 1
        if count < 1:
            raise ShapeError(f"window {kernel} is larger than input {x}")
        spatial.append(count)
    return (*x[:2], *spatial)


@dataclass(frozen=True, slots=True)
class MaxPool(Operator):
    """Maximum over a window; the gradient needs its place there, one byte an output element."""

    kind = "max_pool"

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return _pooled(
            inputs[0], self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def saved(self, shapes: Shapes) -> Saved:
        return Saved(shapes.output, 8, "indices")

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("saved"),)


@dataclass(frozen=True, slots=True)
class AveragePool(Operator):
    """Mean over a window; the gradient needs nothing kept."""

    kind = "average_pool"

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_padding: bool = True

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        once = (1,) * len(self.kernel)
        return _pooled(inputs[0], self.kernel, self.stride, self.padding, once, self.ceil_mode)


@dataclass(frozen=True, slots=True)
class AdaptiveAveragePool(Operator):
    """Mean over windows that tile the input into `output` cells."""

    kind = "adaptive_average_pool"

    output: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return (*inputs[0][: len(inputs[0]) - len(self.output)], *self.output)


@dataclass(frozen=True, slots=True)
class Mean(Operator):
    """Mean over `dimensions`, kept as size one with `keep_dimensions`."""

    kind = "mean"

    dimensions: tuple[int, ...]
    keep_dimensions: bool = False

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if self.keep_dimensions:
            return tuple(1 if d in self.dimensions else size for d, size in enumerate(x))
        return tuple(size for d, size in enumerate(x) if d not in self.dimensions)
