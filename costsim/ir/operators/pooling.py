"""Pooling over space, and means over any dimensions."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from costsim.ir.operators.base import Need, Operator, Saved, Shape, ShapeError, Shapes


@dataclass(frozen=True, slots=True)
class PoolWindow:
    """What a pool reads for each output, along its last `rank` dimensions.

    Without a kernel the windows tile the input. `counts_padding`: a mean counts the border too.
    """

    rank: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    counts_padding: bool = False


class Pool(Operator):
    """One number for each window of each channel."""

    any_memory_format = True

    @property
    @abstractmethod
    def window(self) -> PoolWindow:
        """What each output reads."""

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        return 0 if dimension == 0 else None


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
class MaxPool(Pool):
    """Maximum over a window; the gradient needs its place there, one byte an output element."""

    kind = "max_pool"

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False

    @property
    def window(self) -> PoolWindow:
        return PoolWindow(len(self.kernel), self.kernel, self.stride, self.padding, self.dilation)

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return _pooled(
            inputs[0], self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def saved(self, shapes: Shapes) -> Saved:
        return Saved(shapes.output, 8, "indices")

    def saved_places(self) -> int:
        return prod(self.kernel)

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("saved"),)


@dataclass(frozen=True, slots=True)
class AveragePool(Pool):
    """Mean over a window; the gradient needs nothing kept."""

    kind = "average_pool"
    averages = True

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_padding: bool = True

    @property
    def window(self) -> PoolWindow:
        return PoolWindow(
            len(self.kernel),
            self.kernel,
            self.stride,
            self.padding,
            counts_padding=self.count_padding,
        )

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        once = (1,) * len(self.kernel)
        return _pooled(inputs[0], self.kernel, self.stride, self.padding, once, self.ceil_mode)


@dataclass(frozen=True, slots=True)
class AdaptiveAveragePool(Pool):
    """Mean over windows that tile the input into `output` cells."""

    kind = "adaptive_average_pool"
    averages = True

    output: tuple[int, ...]

    @property
    def window(self) -> PoolWindow:
        return PoolWindow(len(self.output))

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        return (*inputs[0][: len(inputs[0]) - len(self.output)], *self.output)


@dataclass(frozen=True, slots=True)
class Reduction(Operator):
    """One number over `dimensions`, kept as size one with `keep_dimensions`."""

    any_memory_format = True

    dimensions: tuple[int, ...]
    keep_dimensions: bool = False

    def output_shape(self, inputs: Sequence[Shape], weight: Shape | None) -> Shape:
        (x,) = inputs
        if self.keep_dimensions:
            return tuple(1 if d in self.dimensions else size for d, size in enumerate(x))
        return tuple(size for d, size in enumerate(x) if d not in self.dimensions)

    def output_dimension(self, shapes: Shapes, index: int, dimension: int) -> int | None:
        if dimension in self.dimensions:
            return None
        dropped = 0 if self.keep_dimensions else sum(d < dimension for d in self.dimensions)
        return dimension - dropped


@dataclass(frozen=True, slots=True)
class Mean(Reduction):
    """Mean over the dimensions."""

    kind = "mean"
    averages = True


@dataclass(frozen=True, slots=True)
class Norm(Reduction):
    """Root of the sum of squares over the dimensions; its gradient is 0 where it is 0."""

    kind = "norm"

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"), Need("output"))

    @classmethod
    def usual(cls, shape: Shape) -> "Norm":
        return cls((1,), keep_dimensions=True)


@dataclass(frozen=True, slots=True)
class Extremum(Reduction):
    """Largest (or smallest) value over the dimensions; values that are equal share the gradient."""

    kind = "extremum"

    smallest: bool = False

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"), Need("output"))

    @classmethod
    def usual(cls, shape: Shape) -> "Extremum":
        return cls((1,), keep_dimensions=True)


@dataclass(frozen=True, slots=True)
class Variance(Reduction):
    """Mean of the squares of what is left without the mean, of `correction` elements fewer."""

    kind = "variance"

    correction: float = 1.0

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"),)

    @classmethod
    def usual(cls, shape: Shape) -> "Variance":
        return cls((1,), keep_dimensions=True)


@dataclass(frozen=True, slots=True)
class LogSumExp(Reduction):
    """Logarithm of the sum of exponentials over the dimensions."""

    kind = "log_sum_exp"

    def input_gradient_needs(self, shapes: Shapes, index: int) -> tuple[Need, ...]:
        return (Need("input"), Need("output"))

    @classmethod
    def usual(cls, shape: Shape) -> "LogSumExp":
        return cls((1,), keep_dimensions=True)
