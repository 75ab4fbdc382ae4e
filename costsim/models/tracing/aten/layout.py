"""Operators that move or cut values and compute nothing."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from costsim.ir.operators import (
    Concatenate,
    Expand,
    Pad,
    Permute,
    Shape,
    Slice,
)
from costsim.ir.operators.sampling import Lookup
from costsim.models.tracing.aten.common import Handler, Result, dimension_of
from costsim.models.tracing.builder import Builder, Handle, Stored


def reshape(b: Builder, x: Handle, *_: Any) -> Result:
    return b.reshape(x, b.output_shape())


def _permuted(b: Builder, x: Handle, dimensions: tuple[int, ...]) -> Handle:
    if isinstance(x, Stored) and dimensions == (1, 0):
        return b.transposed(x)
    moved = [dimension for dimension in dimensions if x.shape[dimension] != 1]
    if moved == sorted(moved):  # only sizes of one change places: the elements stay
        return b.reshape(x, tuple(x.shape[dimension] for dimension in dimensions))
    return b.emit(Permute(dimensions), x)


def permute(b: Builder, x: Handle, dimensions: Sequence[int]) -> Result:
    return _permuted(b, x, tuple(dimension_of(d, len(x.shape)) for d in dimensions))


def transpose(b: Builder, x: Handle, first: int, second: int) -> Result:
    order = list(range(len(x.shape)))
    i, j = dimension_of(first, len(order)), dimension_of(second, len(order))
    order[i], order[j] = order[j], order[i]
    return _permuted(b, x, tuple(order))


def matrix_transpose(b: Builder, x: Handle) -> Result:
    return x if len(x.shape) < 2 else transpose(b, x, -2, -1)


def _sliced(b: Builder, x: Handle, dimension: int, start: int, stop: int, step: int = 1) -> Handle:
    if (start, stop, step) == (0, x.shape[dimension], 1):
        return x
    if isinstance(x, Stored) and dimension == 0 and step == 1 and x.origin is None:
        return b.part(x, start, stop)
    return b.emit(Slice(dimension, start, stop, step), x)


def take_slice(
    b: Builder, x: Handle, dimension: int, start: int | None, stop: int | None, step: int
) -> Result:
    d = dimension_of(dimension, len(x.shape))
    first, last, stride = slice(start, stop, step).indices(x.shape[d])
    return _sliced(b, x, d, first, last, stride)


def select(b: Builder, x: Handle, dimension: int, index: int) -> Result:
    d = dimension_of(dimension, len(x.shape))
    at = index + x.shape[d] if index < 0 else index
    part = _sliced(b, x, d, at, at + 1)
    return b.reshape(part, (*x.shape[:d], *x.shape[d + 1 :]))


def _parts(b: Builder, x: Handle, dimension: int, sizes: Sequence[int]) -> list[Handle | None]:
    edges = [0, *accumulate(sizes)]
    return [_sliced(b, x, dimension, start, stop) for start, stop in pairwise(edges)]


def split(b: Builder, x: Handle, size: int, dimension: int) -> Result:
    d = dimension_of(dimension, len(x.shape))
    total = x.shape[d]
    return _parts(b, x, d, [min(size, total - start) for start in range(0, total, size)])


def split_with_sizes(b: Builder, x: Handle, sizes: Sequence[int], dimension: int) -> Result:
    return _parts(b, x, dimension_of(dimension, len(x.shape)), sizes)


def chunk(b: Builder, x: Handle, chunks: int, dimension: int) -> Result:
    size = math.ceil(x.shape[dimension_of(dimension, len(x.shape))] / chunks)
    return split(b, x, size, dimension)


def unbind(b: Builder, x: Handle, dimension: int) -> Result:
    d = dimension_of(dimension, len(x.shape))
    rest = (*x.shape[:d], *x.shape[d + 1 :])
    return [b.reshape(part, rest) for part in _parts(b, x, d, [1] * x.shape[d]) if part is not None]


def concatenate(b: Builder, inputs: Sequence[Handle], dimension: int) -> Result:
    # torch takes an empty vector beside anything, and decoders begin their caches with one.
    inputs = [x for x in inputs if x.shape != (0,)] or inputs
    if len(inputs) == 1:
        return inputs[0]
    return b.emit(Concatenate(dimension_of(dimension, len(inputs[0].shape))), *inputs)


def stack(b: Builder, inputs: Sequence[Handle], dimension: int) -> Result:
    d = dimension_of(dimension, len(inputs[0].shape) + 1)
    shape: Shape = (*inputs[0].shape[:d], 1, *inputs[0].shape[d:])
    return concatenate(b, [b.reshape(x, shape) for x in inputs], d)


def expand(b: Builder, x: Handle, *_: Any) -> Result:
    shape = b.output_shape()
    x = b.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return x if x.shape == shape else b.emit(Expand(shape), x)


def repeat(b: Builder, x: Handle, times: Sequence[int]) -> Result:
    """Every dimension so many times over: behind a size of one, expanded."""
    sizes = (1,) * (len(times) - len(x.shape)) + x.shape
    apart = [n for size in sizes for n in (1, size)]
    repeated = tuple(n for pair in zip(times, sizes, strict=True) for n in pair)
    whole = tuple(many * size for many, size in zip(times, sizes, strict=True))
    if whole == sizes:
        return b.reshape(x, sizes)
    return b.reshape(b.emit(Expand(repeated), b.reshape(x, tuple(apart))), whole)


MOST_RUNS = 64
"""Slices that one operator may become; more are looked up."""


def taken(b: Builder, x: Handle, dimension: int, places: Sequence[int]) -> Handle:
    """Elements of `x` at `places` along a dimension, as slices one after another."""
    starts = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    if len(starts) > MOST_RUNS:
        return b.emit(Lookup(dimension, tuple(places)), x)
    runs = [places[start:stop] for start, stop in pairwise([*starts, len(places)])]
    value = b.value(x)
    parts = [_sliced(b, value, dimension, run[0], run[-1] + 1) for run in runs]
    return parts[0] if len(parts) == 1 else b.emit(Concatenate(dimension), *parts)


def roll(b: Builder, x: Handle, shifts: Sequence[int], dimensions: Sequence[int]) -> Result:
    if not dimensions:
        flat = b.reshape(x, (math.prod(x.shape),))
        return b.reshape(_rolled(b, flat, 0, shifts[0]), x.shape)
    for shift, dimension in zip(shifts, dimensions, strict=True):
        x = _rolled(b, x, dimension_of(dimension, len(x.shape)), shift)
    return x


def _rolled(b: Builder, x: Handle, dimension: int, shift: int) -> Handle:
    size = x.shape[dimension]
    return taken(b, x, dimension, [(place - shift) % size for place in range(size)])


def flip(b: Builder, x: Handle, dimensions: Sequence[int]) -> Result:
    for dimension in dimensions:
        d = dimension_of(dimension, len(x.shape))
        x = taken(b, x, d, range(x.shape[d])[::-1])
    return x


def pixel_shuffle(b: Builder, x: Handle, factor: int) -> Result:
    *samples, c, height, width = x.shape
    rank, channels = len(samples), c // factor**2
    cut = b.reshape(x, (*samples, channels, factor, factor, height, width))
    order = (*range(rank), rank, rank + 3, rank + 1, rank + 4, rank + 2)
    return b.reshape(
        _permuted(b, cut, order), (*samples, channels, height * factor, width * factor)
    )


def upsample_nearest(b: Builder, x: Handle, *_: Any) -> Result:
    """Every pixel repeated, by whole factors: a view with sizes of one, expanded."""
    shape = b.output_shape()
    factors = [new // old for new, old in zip(shape[2:], x.shape[2:], strict=True)]
    between = [size for pair in zip(x.shape[2:], (1,) * len(factors), strict=True) for size in pair]
    repeated = [size for pair in zip(x.shape[2:], factors, strict=True) for size in pair]
    spread = b.reshape(x, (*x.shape[:2], *between))
    return b.reshape(b.emit(Expand((*x.shape[:2], *repeated)), spread), shape)


def pad(b: Builder, x: Handle, padding: Sequence[int], value: float | None = None) -> Result:
    if min(padding, default=0) < 0:
        b.unsupported("with a negative border")
    pairs = [(padding[i], padding[i + 1]) for i in range(0, len(padding), 2)][::-1]
    border = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    if not any(map(any, border)):
        return x
    return b.emit(Pad(tuple(border), float(value or 0.0)), x)


def pad_in_mode(
    b: Builder, x: Handle, padding: Sequence[int], mode: str, value: float | None
) -> Result:
    if mode == "constant":
        return pad(b, x, padding, value)
    result = x
    for i in range(0, len(padding), 2):
        d = len(x.shape) - 1 - i // 2
        places = range(-padding[i], x.shape[d] + padding[i + 1])
        result = taken(b, result, d, [_inside(place, x.shape[d], mode) for place in places])
    return result


def _inside(place: int, size: int, mode: str) -> int:
    """The place that stands for one in the border."""
    if mode == "circular":
        return place % size
    if mode == "reflect":
        return (size - 1) - abs((size - 1) - abs(place))
    return min(max(place, 0), size - 1)


HANDLERS: Mapping[str, Handler] = {
    "aten.view.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.reshape.default": reshape,
    "aten.flatten.using_ints": reshape,
    "aten.unflatten.int": reshape,
    "aten.squeeze.default": reshape,
    "aten.squeeze.dim": reshape,
    "aten.squeeze.dims": reshape,
    "aten.unsqueeze.default": reshape,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.t.default": matrix_transpose,
    "aten.mT.default": matrix_transpose,
    "aten.numpy_T.default": lambda b, x: permute(b, x, range(len(x.shape))[::-1]),
    "aten.slice.Tensor": take_slice,
    "aten.select.int": select,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split_with_sizes,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "aten.cat.default": concatenate,
    "aten.stack.default": stack,
    "aten.expand.default": expand,
    "aten.expand_as.default": expand,
    "aten.repeat.default": repeat,
    "aten.constant_pad_nd.default": pad,
    "aten.pad.default": pad_in_mode,
    "aten.roll.default": roll,
    "aten.flip.default": flip,
    "aten.pixel_shuffle.default": pixel_shuffle,
}
