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
    overwritable_inputs: ClassVar[tuple[int, ...]] = ()
    """Inputs whose storage the output may take over, when nothing else still needs it."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        """Shape of the output; raises `ShapeError` when the inputs do not fit."""

    def work_kind(self, shapes: Shapes) -> str:
        """The entry of `WORK_KINDS` a device's throughput is looked up under."""
        return "elementwise"

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
