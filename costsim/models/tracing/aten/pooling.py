"""Pooling and means."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from costsim.ir.operators import (
    AdaptiveAveragePool,
    AveragePool,
    MaxPool,
    Mean,
    Permute,
    Scale,
)
from costsim.ir.operators.function import SquareRoot
from costsim.ir.operators.pooling import Extremum, LogSumExp, Norm, Reduction, Variance
from costsim.models.tracing.aten.common import Handler, Result, as_tuple, dimension_of
from costsim.models.tracing.builder import Builder, Handle, Value


def max_pool(
    b: Builder,
    x: Handle,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Result:
    rank = len(x.shape) - 2
    kernels = as_tuple(kernel, rank)
    strides = as_tuple(stride, rank) if stride else kernels
    operator = MaxPool(
        kernels, strides, as_tuple(padding, rank), as_tuple(dilation, rank), ceil_mode
    )
    return b.emit(operator, x)


def max_pool_with_indices(b: Builder, *arguments: Any) -> Result:
    return [max_pool(b, *arguments), None]  # type: ignore[list-item]


def average_pool(
    b: Builder,
    x: Handle,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None = None,
) -> Result:
    if divisor is not None:
        b.unsupported("with a divisor of its own")
    rank = len(x.shape) - 2
    kernels = as_tuple(kernel, rank)
    strides = as_tuple(stride, rank) if stride else kernels
    operator = AveragePool(kernels, strides, as_tuple(padding, rank), ceil_mode, count_padding)
    return b.emit(operator, x)


def adaptive_average_pool(b: Builder, x: Handle, _output: Sequence[int]) -> Result:
    shape, rank = b.output_shape(), len(x.shape)
    if shape == x.shape:
        return x
    if all(size == 1 for size in shape[2:]):
        return b.emit(Mean(tuple(range(2, rank)), keep_dimensions=True), x)
    return b.emit(AdaptiveAveragePool(shape[2:]), x)


def adaptive_max_pool(b: Builder, x: Handle, output: Sequence[int]) -> Result:
    rank = len(x.shape) - 2
    sizes = as_tuple(output, rank)
    if any(size % cells for size, cells in zip(x.shape[2:], sizes, strict=True)):
        b.unsupported(f"from {x.shape[2:]} to {sizes}; only where windows of one size tile is")
    window = tuple(size // cells for size, cells in zip(x.shape[2:], sizes, strict=True))
    once = (1,) * rank
    return [b.emit(MaxPool(window, window, (0,) * rank, once), x), None]


def maximum_along(b: Builder, x: Handle, dimension: int, keep: bool) -> Result:
    """A pool over a whole dimension, once that is the last."""
    d, rank = dimension_of(dimension, len(x.shape)), len(x.shape)
    rest = [i for i in range(rank) if i != d]
    last = x if d == rank - 1 else b.emit(Permute((*rest, d)), x)
    size = x.shape[d]
    lines = b.reshape(last, (math.prod(x.shape) // size, 1, size))
    best = b.emit(MaxPool((size,), (size,), (0,), (1,)), lines)
    kept = (*x.shape[:d], *((1,) if keep else ()), *x.shape[d + 1 :])
    return [b.reshape(best, kept), None]


def total(b: Builder, x: Handle, dimensions: Any, keep: bool = False, dtype: Any = None) -> Result:
    """As many times the mean."""
    average = mean(b, x, dimensions, keep, dtype)
    assert isinstance(average, Value)
    count = math.prod(x.shape) // math.prod(average.shape)
    return b.emit(Scale(factor=float(count)), average)


def mean(b: Builder, x: Handle, dimensions: Sequence[int] | None, keep: bool, dtype: Any) -> Result:
    rank = len(x.shape)
    every = dimensions if dimensions else range(rank)
    chosen = tuple(sorted(dimension_of(dimension, rank) for dimension in every))
    return b.emit(Mean(chosen, bool(keep)), x)


def mean_of_all(b: Builder, x: Handle, _dtype: Any) -> Result:
    return b.emit(Mean(tuple(range(len(x.shape)))), x)


def vector_norm(
    b: Builder, x: Handle, order: float, dimensions: Sequence[int] | None, keep: bool, dtype: Any
) -> Result:
    if order != 2:
        b.unsupported(f"of the order {order}; 2 is")
    rank = len(x.shape)
    every = dimensions if dimensions else range(rank)
    return b.emit(Norm(tuple(sorted(dimension_of(d, rank) for d in every)), bool(keep)), x)


def _over(x: Handle, dimensions: Sequence[int] | int | None) -> tuple[int, ...]:
    """The dimensions that are reduced, from the front: all of them where none are told."""
    rank = len(x.shape)
    several = [dimensions] if isinstance(dimensions, int) else dimensions
    return tuple(sorted(dimension_of(d, rank) for d in (several or range(rank))))


def variance(b: Builder, x: Handle, dimensions: Any, correction: float | None, keep: bool) -> Value:
    less = 1.0 if correction is None else float(correction)
    over = _over(x, dimensions)
    count = math.prod(x.shape[d] for d in over)
    if count <= less:
        b.unsupported(f"of {count} elements with a correction of {less:g}: it is not defined")
    return b.emit(Variance(over, bool(keep), less), x)


def deviation(b: Builder, x: Handle, *told: Any) -> Result:
    return b.emit(SquareRoot(), variance(b, x, *told))


def variance_and_mean(
    b: Builder, x: Handle, dimensions: Any, correction: float | None, keep: bool
) -> Result:
    average = b.emit(Mean(_over(x, dimensions), bool(keep)), x)
    return [variance(b, x, dimensions, correction, keep), average]


def _reduced(kind: type[Reduction], **told: bool) -> Handler:
    def handler(b: Builder, x: Handle, dimensions: Any = None, keep: bool = False) -> Result:
        return b.emit(kind(_over(x, dimensions), bool(keep), **told), x)

    return handler


HANDLERS: Mapping[str, Handler] = {
    "aten.max_pool1d.default": max_pool,
    "aten.max_pool2d.default": max_pool,
    "aten.max_pool3d.default": max_pool,
    "aten.max_pool2d_with_indices.default": max_pool_with_indices,
    "aten.max_pool3d_with_indices.default": max_pool_with_indices,
    "aten.avg_pool1d.default": average_pool,
    "aten.avg_pool2d.default": average_pool,
    "aten.avg_pool3d.default": average_pool,
    "aten.adaptive_avg_pool1d.default": adaptive_average_pool,
    "aten.adaptive_avg_pool2d.default": adaptive_average_pool,
    "aten.adaptive_avg_pool3d.default": adaptive_average_pool,
    "aten._adaptive_avg_pool2d.default": adaptive_average_pool,
    "aten.adaptive_max_pool1d.default": adaptive_max_pool,
    "aten.adaptive_max_pool2d.default": adaptive_max_pool,
    "aten.adaptive_max_pool3d.default": adaptive_max_pool,
    "aten.max.dim": maximum_along,
    "aten.sum.dim_IntList": total,
    "aten.sum.default": lambda b, x, dtype: total(b, x, None, dtype=dtype),
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.amax.default": _reduced(Extremum),
    "aten.amin.default": _reduced(Extremum, smallest=True),
    "aten.max.default": _reduced(Extremum),
    "aten.min.default": _reduced(Extremum, smallest=True),
    "aten.logsumexp.default": _reduced(LogSumExp),
    "aten.var.correction": variance,
    "aten.std.correction": deviation,
    "aten.var_mean.correction": variance_and_mean,
    "aten.mean.dim": mean,
    "aten.mean.default": mean_of_all,
}
