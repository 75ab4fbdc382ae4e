"""What an operator kind must say about itself so that a step with it can be priced.

An operator is a frozen value: its attributes (stride, groups, ...) are fields, its rules are
methods over `Shapes`. Everything that compiles, prices or executes a step asks these methods
and knows no operator by name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Axis: TypeAlias = Literal["output", "input"]
UpdateKind: TypeAlias = Literal["output", "input", "bias"]
"""What of a layer is updated: channels of its weight along an axis, or its whole bias."""

GradientForm: TypeAlias = Literal["new", "same", "in_place", "scatter"]

WORK_KINDS = (
    "convolution",
    "depthwise_convolution",
    "pointwise_convolution",
    "linear",
    "matmul",
    "elementwise",
)
"""The kinds of work a device has a throughput for; `elementwise` is everything without MACs."""


class ShapeError(ValueError):
    """Shapes that an operator cannot take."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes one call sees: inputs and output with the batch dimension, and the weight."""

    inputs: tuple[Shape, ...]
    output: Shape
    weight: Shape | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a gradient must find kept from the forward pass.

    `input` is the call's input `index`, `output` its output, `saved` what the forward pass
    stored beside the output (`Operator.saved`). `selected_only`: of the input, only the
    channels in the update plan's subset.
    """

    source: Literal["input", "output", "saved"]
    index: int = 0
    selected_only: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """What the forward pass stores beside its output for the gradient; no tensor of the model."""

    shape: Shape
    bits: int
    name: Literal["mask", "indices", "statistics"]


def elements(shape: Shape) -> int:
    """Number of elements of a tensor of this shape (1 for a scalar)."""
    return math.prod(shape)


class Operator(ABC):
    """One kind of operator; subclasses are frozen dataclasses whose fields are its attributes."""

    kind: ClassVar[str]
    is_view: ClassVar[bool] = False
    """The output is the storage of input 0, read with another shape."""
    averages: ClassVar[bool] = False
    """The output is made of means over places or channels of input 0."""
    overwritable_inputs: ClassVar[tuple[int, ...]] = ()
    """Inputs whose storage the output may take over, when nothing else still needs it."""
    operands: ClassVar[int] = 1
    """Inputs that `usual` is one for."""
    whole_inputs: ClassVar[tuple[int, ...]] = ()
    """Inputs that are whole numbers, which have no gradient: they come from the sample alone."""
    source: ClassVar[Literal["sample", "parameter"] | None] = None
    """Where the value comes from, if nothing computes it: from outside, or from the model."""
    adds_bias: ClassVar[bool] = True
    """The bias is added to products, and is as wide as their sums: 32 bits where factors have 8.

    Not where what is called the bias is itself the value.
    """
    any_memory_format: ClassVar[bool] = False
    """Runs on images with channels first or last in memory, and gives one of the same."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        """Shape of the output; raises `ShapeError` when the inputs do not fit."""

    def work_kind(self, shapes: Shapes) -> str:
        """The entry of `WORK_KINDS` a device's throughput is looked up under."""
        return "elementwise"

    @classmethod
    def usual(cls, shape: Shape) -> "Operator | None":
        """One as networks have it on `operands` values of this shape, for a calibration to measure.

        The last of them has elements from 1/4 to 3/4; the output is of their shape or broadcasts
        to it.
        None where a probe is written for it, such as for what has a weight.
        """
        return None

    # What it is called.

    def label(self, shapes: Shapes) -> str:
        """What a layer does, in a few characters, for reports."""
        return self.kind.replace("_", " ")

    def kernel_name(self, direction: str, shapes: Shapes) -> str:
        """The kernel of a library that does a direction: what its calibrated law is filed under.

        `direction` is `forward`, `input_gradient`, `weight_gradient` or `bias_gradient`. What
        stands before the first comma is known by `costsim.device.calibration`.
        """
        return f"{self.kind} {direction}"

    # How values and weights lie.

    def keeps_memory_format(self, shapes: Shapes) -> bool:
        """Whether a call of these shapes does what `any_memory_format` says."""
        return self.any_memory_format

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        """Where a dimension of input `index` is in the output, element by element.

        None where elements along it meet, or where they are in no dimension of their own.
        """
        return dimension + len(shapes.output) - len(shapes.inputs[index])

    @property
    def weight_groups(self) -> int:
        """Groups of a weight `[outputs, inputs / groups, *taps]` that see their own inputs alone.

        Output channels run along dimension 0 of every weight, those of a group side by side.
        """
        return 1

    def is_depthwise(self, shapes: Shapes) -> bool:
        """One filter for each input channel: output channel `c` reads input channel `c` alone."""
        return False

    # Multiply-accumulates, for the whole batch, padding taps included.

    def forward_macs(self, shapes: Shapes) -> int:
        """MACs of the forward pass."""
        return 0

    def input_gradient_macs(self, shapes: Shapes, index: int) -> int:
        """MACs of the gradient with respect to input `index`."""
        return 0

    def weight_gradient_macs(self, shapes: Shapes) -> int:
        """MACs of the gradient with respect to the whole weight."""
        return 0

    def unpadded_share(self, shapes: Shapes) -> tuple[int, int]:
        """MACs without padding taps over MACs with them, as (numerator, denominator).

        The same taps are skipped in all three directions.
        """
        return 1, 1

    # What is kept from forward to backward.

    def saved(self, shapes: Shapes) -> Saved | None:
        """What the forward pass stores beside its output, when a gradient will need it."""
        return None

    def saved_places(self) -> int:
        """How many places a saved index tells apart; 0 where none is saved."""
        return 0

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        """What the gradient with respect to input `index` reads besides the output's gradient."""
        return ()

    def weight_gradient_needs(self, shapes: Shapes, axis: Axis) -> tuple[Need, ...]:
        """What the weight gradient of a channel subset reads besides the output's gradient."""
        return ()

    # What can be updated, and how gradients flow.

    def selectable_channels(self, shapes: Shapes, axis: Axis) -> int:
        """Channels of the weight an update plan may select along `axis`; 0 if none."""
        return 0

    def channel_axis(self, shapes: Shapes, source: Literal["input", "output"]) -> int:
        """Dimension of input 0 (or of the output) that the selectable channels run along."""
        return 1

    def bias_dimensions(self, shapes: Shapes) -> tuple[int, ...]:
        """Dimensions of the output that the bias runs along; its gradient is summed over others."""
        return (self.channel_axis(shapes, "output"),)

    def gradient_form(self, shapes: Shapes, index: int) -> GradientForm:
        """How the gradient of input `index` relates to the gradient of the output.

        `same`: it is that gradient, perhaps reshaped; no work, no memory. `in_place`: it may be
        written over it. `scatter`: it adds into a part of the input's gradient. `new`: it needs
        a buffer of its own.
        """
        return "new"


def broadcast(inputs: Sequence[Shape]) -> Shape:
    """The shape elementwise operators give inputs of these shapes; raises `ShapeError`."""
    rank = max(len(shape) for shape in inputs)
    padded = [(1,) * (rank - len(shape)) + shape for shape in inputs]
    result = []
    for sizes in zip(*padded, strict=True):
        size = max(sizes)
        if any(s not in (1, size) for s in sizes):
            raise ShapeError(f"shapes {', '.join(map(str, inputs))} do not broadcast")
        result.append(size)
    return tuple(result)
