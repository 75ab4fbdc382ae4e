"""Convolution in one, two or three spatial dimensions, with groups.

PyTorch's CPU backend keeps several kernels for it and chooses by shape (`ConvParams::use_mkldnn` in
ATen's Convolution.cpp): a single small image is unfolded and multiplied, others go to oneDNN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from costsim.ir.operators.base import Axis, Need, Operator, Shape, ShapeError, Shapes, elements

SMALL_IMAGE = 20480
"""Elements up to which one image alone is small."""
MANY_SAMPLES = 16
"""Samples from which on a pointwise convolution is treated as any other."""


class _WithKernels(Operator):
    """What a convolution and its transpose have in common: a weight `[C_out, C_in/groups, *]`."""

    groups: int

    @property
    def weight_groups(self) -> int:
        return self.groups

    def is_depthwise(self, shapes: Shapes) -> bool:
        return self.groups > 1 and self.groups == shapes.inputs[0][1] == shapes.output[1]

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if dimension == 0 else None

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        return self.forward_macs(shapes)

    def weight_gradient_macs(self, shapes: Shapes) -> int:
        return self.forward_macs(shapes)

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        return (Need("input", selected_only=axis == "input" or self.is_depthwise(shapes)),)

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        if axis == "output":
            return shapes.output[1]
        return 0 if self.is_depthwise(shapes) else shapes.inputs[0][1]


@dataclass(frozen=True, slots=True)
class Convolution(_WithKernels):
    """Cross-correlation of `[N, C_in, *spatial]` with a weight `[C_out, C_in/groups, *kernel]`.

    MACs are `N * C_out * C_in/groups * prod(kernel) * prod(output spatial)` in each of the three
    directions, padding taps included: the convention of every published table.
    """

    kind = "convolution"
    any_memory_format = True

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

    def work_kind(self, shapes: Shapes) -> str:
        assert shapes.weight is not None
        if self.is_depthwise(shapes):
            return "depthwise_convolution"
        return "pointwise_convolution" if prod(shapes.weight[2:]) == 1 else "convolution"

    def label(self, shapes: Shapes) -> str:
        assert shapes.weight is not None
        kernel = "×".join(map(str, shapes.weight[2:]))
        ends = f"{shapes.inputs[0][1]}→{shapes.output[1]}"
        if self.is_depthwise(shapes):
            return f"depthwise {kernel}"
        grouped = f"/{self.groups}" if self.groups > 1 else ""
        if prod(shapes.weight[2:]) == 1:
            return f"pointwise {ends}{grouped}"
        return f"conv {kernel} {ends}{grouped}"

    def kernel_name(self, direction: str, shapes: Shapes) -> str:
        if direction == "bias_gradient":
            return f"{self.kind} {direction}"
        assert shapes.weight is not None
        kind, taps = self.work_kind(shapes), shapes.weight[2:]
        strided = set(self.stride) != {1}
        name = f"{kind} {direction}"
        if self.is_depthwise(shapes):
            name += f", {'x'.join(map(str, taps))}"
            return f"{name}, strided" if strided and direction != "forward" else name
        if prod(taps) == 1 and direction != "forward" and not strided:
            return f"{name}, product"
        x = shapes.output if direction == "input_gradient" else shapes.inputs[0]
        name += f", {self._choice(x, taps)}"
        return f"{name}, strided" if strided else name

    def _choice(self, x: Shape, taps: Shape) -> str:
        """What PyTorch's choice depends on beside the number of threads."""
        one = self.groups == 1 and x[0] == 1
        if one and min(taps) <= 3 and prod(x) <= SMALL_IMAGE:
            return "one small image"
        light = set(self.stride) == {1} and prod(taps) == 1 and x[0] < MANY_SAMPLES
        return "few samples" if light else "any"

    def forward_macs(self, shapes: Shapes) -> int:
        assert shapes.weight is not None
        return elements(shapes.output) * prod(shapes.weight[1:])

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
            taps_inside *= _taps_inside(size, outputs, kernel, stride, pad, dilation)
        return taps_inside, prod(shapes.output[2:]) * prod(shapes.weight[2:])


@dataclass(frozen=True, slots=True)
class DynamicConvolution(Operator):
    """A convolution whose weight is computed: the second input, `[C_out, C_in/groups, *kernel]`.

    As of weights that are standardised or normed in every pass. What is updated is what makes the
    weight; the gradient of the weight is that of an input.
    """

    kind = "dynamic_convolution"

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def plain(self) -> Convolution:
        """The convolution by a weight of the model that computes the same."""
        return Convolution(self.stride, self.padding, self.dilation, self.groups)

    @staticmethod
    def _weighted(shapes: Shapes) -> Shapes:
        return Shapes(shapes.inputs[:1], shapes.output, shapes.inputs[1])

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        x, values = inputs
        return self.plain.output_shape([x], values)

    def is_depthwise(self, shapes: Shapes) -> bool:
        return self.plain.is_depthwise(self._weighted(shapes))

    def work_kind(self, shapes: Shapes) -> str:
        return self.plain.work_kind(self._weighted(shapes))

    def label(self, shapes: Shapes) -> str:
        return f"dynamic {self.plain.label(self._weighted(shapes))}"

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if index == 0 and dimension == 0 else None

    def forward_macs(self, shapes: Shapes) -> int:
        return self.plain.forward_macs(self._weighted(shapes))

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        return self.forward_macs(shapes)

    def unpadded_share(self, shapes: Shapes) -> tuple[int, int]:
        return self.plain.unpadded_share(self._weighted(shapes))

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 1 - index),)


@dataclass(frozen=True, slots=True)
class TransposedConvolution(_WithKernels):
    """The transpose of a convolution, which makes images larger.

    Its weight is `[C_out, C_in/groups, *kernel]`, as that of a convolution (torch keeps
    `[C_in, C_out/groups, *kernel]`, of which it is a view). MACs are those of the convolution that
    it is the transpose of, `N * C_in * C_out/groups * prod(kernel) * prod(input spatial)`.
    """

    kind = "transposed_convolution"

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if weight is None or len(x) != len(weight) or x[1] != weight[1] * self.groups:
            raise ShapeError(f"a weight {weight} with {self.groups} groups does not fit input {x}")
        spatial = tuple(
            (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + rest + 1
            for size, kernel, stride, pad, rest, dilation in zip(
                x[2:], weight[2:], self.stride, self.padding, self.output_padding, self.dilation,
                strict=True,
            )
        )  # fmt: skip
        if min(spatial, default=1) < 1:
            raise ShapeError(f"padding {self.padding} leaves nothing of input {x}")
        return (x[0], weight[0], *spatial)

    def work_kind(self, shapes: Shapes) -> str:
        return "depthwise_convolution" if self.is_depthwise(shapes) else "convolution"

    def label(self, shapes: Shapes) -> str:
        assert shapes.weight is not None
        kernel = "×".join(map(str, shapes.weight[2:]))
        if self.is_depthwise(shapes):
            return f"transposed depthwise {kernel}"
        return f"transposed conv {kernel} {shapes.inputs[0][1]}→{shapes.output[1]}"

    def forward_macs(self, shapes: Shapes) -> int:
        assert shapes.weight is not None
        outputs, _, *kernel = shapes.weight
        return elements(shapes.inputs[0]) * outputs // self.groups * prod(kernel)

    def unpadded_share(self, shapes: Shapes) -> tuple[int, int]:
        assert shapes.weight is not None
        taps_inside = 1
        for size, inputs, kernel, stride, pad, dilation in zip(
            shapes.output[2:], shapes.inputs[0][2:], shapes.weight[2:],
            self.stride, self.padding, self.dilation, strict=True,
        ):  # fmt: skip
            taps_inside *= _taps_inside(size, inputs, kernel, stride, pad, dilation)
        return taps_inside, prod(shapes.inputs[0][2:]) * prod(shapes.weight[2:])


@cache
def _taps_inside(size: int, outputs: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Of all positions along one dimension, how many taps of the kernel fall on the image.

    Asked again and again for the same few layers.
    """
    return sum(
        0 <= position * stride - pad + tap * dilation < size
        for position in range(outputs)
        for tap in range(kernel)
    )
