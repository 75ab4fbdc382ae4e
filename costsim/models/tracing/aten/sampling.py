"""Resized images, windows and look-ups."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from costsim.ir.operators.sampling import Embedding, Fold, Interpolation, Lookup, Resize, Unfold
from costsim.models.tracing.aten.common import Handler, Result, as_tuple, dimension_of
from costsim.models.tracing.aten.layout import permute, upsample_nearest
from costsim.models.tracing.builder import Builder, Handle, Stored, Value


def _resized(
    b: Builder, x: Handle, mode: Interpolation, corners: bool, factors: Sequence[Any]
) -> Result:
    """`factors` are None, one for each dimension, or one list of them."""
    size = b.output_shape()[2:]
    flat = [one for f in factors for one in (f if isinstance(f, Sequence) else [f])]
    told = tuple(float(factor) for factor in flat if factor is not None)
    between = tuple(new / old for new, old in zip(size, x.shape[2:], strict=True))
    if size == x.shape[2:] and told in ((), between):
        return x
    return b.emit(Resize(size, mode, bool(corners), () if told == between else told), x)


def _with_corners(mode: Interpolation) -> Handler:
    """`upsample_bilinear2d` and its kind."""

    def handler(b: Builder, x: Handle, _size: Any, corners: bool, *factors: Any) -> Result:
        return _resized(b, x, mode, corners, factors)

    return handler


def _of_pixels(mode: Interpolation) -> Handler:
    """`upsample_nearest2d` and its kind; by whole factors pixels are repeated."""

    def handler(b: Builder, x: Handle, _size: Any, *factors: Any) -> Result:
        if not any(new % old for new, old in zip(b.output_shape()[2:], x.shape[2:], strict=True)):
            return upsample_nearest(b, x)
        return _resized(b, x, mode, False, factors)

    return handler


def _places(b: Builder, indices: Handle) -> torch.Tensor:
    if not isinstance(indices, Stored) or indices.trainable:
        b.unsupported("with indices that are computed from activations; constant ones are")
    return b.tensors[indices.parameter.name]


def _looked_up(b: Builder, x: Handle, dimension: int, indices: torch.Tensor) -> Handle:
    """`x` at `indices`, whose dimensions take the place of `dimension`."""
    size = x.shape[dimension]
    flat = tuple(int(i) + size if i < 0 else int(i) for i in indices.reshape(-1).tolist())
    shape = (*x.shape[:dimension], *indices.shape, *x.shape[dimension + 1 :])
    return b.reshape(b.emit(Lookup(dimension, flat), x), shape)


def index(b: Builder, x: Handle, indices: Sequence[Handle | None]) -> Result:
    """`x[..., indices, ...]`: of several, which follow one another, one of them all."""
    told = [i for i, one in enumerate(indices) if one is not None]
    if told != list(range(told[0], told[-1] + 1)):
        b.unsupported("with indices of dimensions that do not follow one another")
    places = [_places(b, one) for one in indices if one is not None]
    if any(one.dtype == torch.bool for one in places):
        b.unsupported("with a mask for an index")
    first, sizes = told[0], x.shape[told[0] : told[-1] + 1]
    together = torch.zeros((), dtype=torch.int64)
    for size, one in zip(sizes, torch.broadcast_tensors(*places), strict=True):
        together = together * size + torch.where(one < 0, one + size, one)
    whole = (*x.shape[:first], math.prod(sizes), *x.shape[told[-1] + 1 :])
    return _looked_up(b, b.reshape(x, whole), first, together)


def index_select(b: Builder, x: Handle, dimension: int, indices: Handle) -> Result:
    return _looked_up(b, x, dimension_of(dimension, len(x.shape)), _places(b, indices))


def embedding(
    b: Builder,
    table: Handle,
    tokens: Handle,
    padding: int = -1,
    by_frequency: bool = False,
    _sparse: bool = False,
) -> Result:
    if by_frequency:
        b.unsupported("with scale_grad_by_freq, which divides the gradients of rows")
    if isinstance(tokens, Value):
        if not b.are_tokens(tokens):
            b.unsupported("of tokens that are computed; those of the sample are")
        return b.emit(Embedding(None if padding < 0 else padding), table, tokens)
    places = _places(b, tokens)
    if padding >= 0 and bool((places == padding).any()):
        b.unsupported("of constant tokens with padding among them, whose row has no gradient")
    return _looked_up(b, table, 0, places)


def unfold(
    b: Builder,
    x: Handle,
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Result:
    if len(x.shape) != 4:
        b.unsupported(f"of {x.shape}; images [N, C, H, W] are")
    operator = Unfold(
        as_tuple(kernel, 2), as_tuple(stride, 2), as_tuple(padding, 2), as_tuple(dilation, 2)
    )
    return b.emit(operator, x)


def fold(
    b: Builder,
    x: Handle,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Result:
    if len(x.shape) != 3:
        b.unsupported(f"of {x.shape}; columns [N, C * taps, windows] are")
    operator = Fold(
        as_tuple(kernel, 2), as_tuple(stride, 2), as_tuple(padding, 2), as_tuple(dilation, 2),
        as_tuple(size, 2),
    )  # fmt: skip
    return b.emit(operator, x)


def sliding(b: Builder, x: Handle, dimension: int, size: int, step: int) -> Result:
    """Windows of one dimension, as `Tensor.unfold` has them: inside them is the last dimension."""
    d, rank = dimension_of(dimension, len(x.shape)), len(x.shape)
    starts = torch.arange(0, x.shape[d] - size + 1, step)
    windows = _looked_up(b, x, d, starts[:, None] + torch.arange(size))
    order = [*range(d + 1), *range(d + 2, rank + 1), d + 1]
    return permute(b, windows, order)


def repeat_interleave(
    b: Builder, x: Handle, times: int, dimension: int | None, _size: Any = None
) -> Result:
    """Every element so many times, one after another."""
    flat: Handle = x if dimension is not None else b.reshape(x, (math.prod(x.shape),))
    d = 0 if dimension is None else dimension_of(dimension, len(x.shape))
    return _looked_up(b, flat, d, torch.arange(flat.shape[d]).repeat_interleave(times))


_SMOOTH: Mapping[str, Interpolation] = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "linear",
    "upsample_trilinear3d": "linear",
    "upsample_bicubic2d": "cubic",
}

_OF_PIXELS: Mapping[str, Interpolation] = {
    "upsample_nearest": "nearest",
    "_upsample_nearest_exact": "nearest-exact",
}

_FORMS = ("vec", "default")

HANDLERS: Mapping[str, Handler] = {
    **{
        f"aten.{name}.{form}": _with_corners(mode)
        for name, mode in _SMOOTH.items()
        for form in _FORMS
    },
    **{
        f"aten.{name}{rank}d.{form}": _of_pixels(mode)
        for name, mode in _OF_PIXELS.items()
        for rank in (1, 2, 3)
        for form in _FORMS
    },
    "aten.index.Tensor": index,
    "aten.index_select.default": index_select,
    "aten.embedding.default": embedding,
    "aten.im2col.default": unfold,
    "aten.col2im.default": fold,
    "aten.unfold.default": sliding,
    "aten.repeat_interleave.self_int": repeat_interleave,
}
