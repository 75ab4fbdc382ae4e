"""Values taken from other places than one's own: resized images, windows, look-ups."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from costsim.ir.operators.base import Need, Operator, Shape, ShapeError, Shapes

Interpolation: TypeAlias = Literal["nearest", "nearest-exact", "linear", "cubic"]
"""How values between pixels are made; over two dimensions linear is bilinear."""


@dataclass(frozen=True, slots=True)
class Resize(Operator):
    """Images of another size: the gradient is the transpose of the same weighted sums.

    `scales` are the factors that a model asked for, where they are not those of the sizes.
    """

    kind = "resize"

    size: tuple[int, ...]
    mode: Interpolation
    align_corners: bool = False
    scales: tuple[float, ...] = ()

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if len(x) != len(self.size) + 2:
            raise ShapeError(f"images of {len(self.size)} dimensions are needed; {x} is no such")
        return (*x[:2], *self.size)

    def label(self, shapes: Shapes) -> str:
        return f"resize {self.mode}"

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return dimension if dimension < 2 else None

    @classmethod
    def usual(cls, shape: Shape) -> "Resize | None":
        return None


@dataclass(frozen=True, slots=True)
class Lookup(Operator):
    """Elements at constant `places` along a dimension, as of a table of relative positions."""

    kind = "lookup"

    dimension: int
    places: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        size = x[self.dimension]
        if any(not 0 <= place < size for place in self.places):
            raise ShapeError(f"places of {size} elements go from 0 to {size - 1}")
        return (*x[: self.dimension], len(self.places), *x[self.dimension + 1 :])

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return None if dimension == self.dimension else dimension


@dataclass(frozen=True, slots=True)
class Embedding(Operator):
    """Rows of a table, input 0 `[rows, width]`, by tokens, input 1, that the sample holds.

    Tokens are whole numbers from 0 to rows - 1, kept as floating point as every sample is. The row
    of `padding` gets no gradient, and tokens have none.
    """

    kind = "embedding"
    operands = 2
    whole_inputs = (1,)

    padding: int | None = None

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        table, tokens = inputs
        if len(table) != 2:
            raise ShapeError(f"a table [rows, width] is needed; {table} is none")
        if self.padding is not None and not 0 <= self.padding < table[0]:
            raise ShapeError(f"a table of {table[0]} rows has no row {self.padding}")
        return (*tokens, table[1])

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        if index == 1:
            return dimension
        return dimension + len(shapes.inputs[1]) - 1 if dimension else None

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input", 1),) if index == 0 else ()


@dataclass(frozen=True, slots=True)
class _Windows(Operator):
    """Windows of images `[N, C, H, W]`, and back."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def places(self, image: Shape) -> int:
        """How many windows an image has; raises `ShapeError` where one is larger."""
        counts = [
            (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, spread in zip(
                image, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        if min(counts) < 1:
            raise ShapeError(f"windows {self.kernel} are larger than images {image}")
        return prod(counts)

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if dimension == 0 else None


@dataclass(frozen=True, slots=True)
class Unfold(_Windows):
    """Windows as columns: `[N, C * taps, windows]`."""

    kind = "unfold"

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        n, c, *image = inputs[0]
        return (n, c * prod(self.kernel), self.places(tuple(image)))


@dataclass(frozen=True, slots=True)
class Fold(_Windows):
    """Columns added up where their windows are: the transpose of `Unfold`."""

    kind = "fold"

    size: tuple[int, ...] = ()

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        n, rows, columns = inputs[0]
        taps = prod(self.kernel)
        if rows % taps or columns != self.places(self.size):
            raise ShapeError(f"{inputs[0]} is no set of windows {self.kernel} of {self.size}")
        return (n, rows // taps, *self.size)
