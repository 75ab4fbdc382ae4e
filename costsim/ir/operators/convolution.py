"""Convolution in one, two or three spatial dimensions, with groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from costsim.ir.operators.base import Axis, Need, Operator, Shape, ShapeError, Shapes, elements


@dataclass(frozen=True, slots=True)
class Convolution(Operator):
    """Cross-correlation of `[N, C_in, *spatial]` with a weight `[C_out, C_in/groups, *kernel]`.

    MACs are `N * C_out * C_in/groups * prod(kernel) * prod(output spatial)` in each of the three
    directions, padding taps included: the convention of every published table.
    """

    kind = "convolution"

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if weight is None or len(x) != len(weight) or x[1] != weight[1] * self.groups:
            raise ShapeError(f"a weight {weight} with {self.groups} groups does not fit input {x}")
        spatial = tuple(
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                x[2:], weight[2:], self.stride, self.padding, self.dilation, strict=True
            )
        )
        if min(spatial, default=1) < 1:
            raise ShapeError(f"kernel {weight[2:]} is larger than input {x}")
        return (x[0], weight[0], *spatial)

    def is_depthwise(self, shapes: Shapes) -> bool:
        """One filter for each input channel: output channel `c` reads input channel `c` alone."""
        return self.groups > 1 and self.groups == shapes.inputs[0][1] == shapes.output[1]

    def work_kind(self, shapes: Shapes) -> str:
        assert shapes.weight is not None
        if self.is_depthwise(shapes):
            return "depthwise_convolution"
        return "pointwise_convolution" if prod(shapes.weight[2:]) == 1 else "convolution"

    def forward_macs(self, shapes: Shapes) -> int:
        assert shapes.weight is not None
        return elements(shapes.output) * prod(shapes.weight[1:])

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        return self.forward_macs(shapes)

    def weight_gradient_macs(self, shapes: Shapes) -> int:
        return self.forward_macs(shapes)

    def unpadded_share(self, shapes: Shapes) -> tuple[int, int]:
        assert shapes.weight is not None
        taps_inside = 1
        for size, outputs, kernel, stride, pad, dilation in zip(
            shapes.inputs[0][2:],
            shapes.output[2:],
            shapes.weight[2:],
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        ):
            taps_inside *= sum(
                0 <= position * stride - pad + tap * dilation < size
                for position in range(outputs)
                for tap in range(kernel)
            )
        return taps_inside, prod(shapes.output[2:]) * prod(shapes.weight[2:])

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input", selected_only=axis == "input" or self.is_depthwise(shapes)),)

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        if axis == "output":
            return shapes.output[1]
        return 0 if self.is_depthwise(shapes) else shapes.inputs[0][1]
