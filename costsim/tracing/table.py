"""What each aten operator is in terms of `costsim.operators`: one function an operator.

The empty decomposition table of `torch.export` leaves these whole. A handler takes the builder
and the operator's arguments in the order of its schema, defaults filled in.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import torch

from costsim.operators import (
    ELU,
    GELU,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Clamp,
    Concatenate,
    Convolution,
    Expand,
    GroupNorm,
    HardSigmoid,
    HardSwish,
    LayerNorm,
    LeakyReLU,
    Linear,
    MatMul,
    MaxPool,
    Mean,
    Multiply,
    Operator,
    Pad,
    Permute,
    ReLU,
    Scale,
    Shape,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
    Tanh,
)
from costsim.tracing.builder import Builder, Handle, Stored, Value

Result: TypeAlias = Handle | list[Handle | None]
Handler: TypeAlias = Callable[..., Result]

LARGEST = torch.finfo(torch.float32).max
"""The bound of a clamp without one: finite, so that a graph stays plain JSON."""


def _tuple(value: Sequence[int] | int, length: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * length if len(values) == 1 else values)


def _dimension(dimension: int, rank: int) -> int:
    return dimension + rank if dimension < 0 else dimension


def passed_through(b: Builder, x: Handle, *_: Any) -> Result:
    return x


def to_same_type(b: Builder, x: Handle, *_: Any) -> Result:
    assert b.node is not None
    before = b.node.all_input_nodes[0].meta["val"].dtype
    after = b.node.meta["val"].dtype
    if before != after:
        b.unsupported(f"from {before} to {after}; only conversions to the same type are")
    return x


def dropout(b: Builder, x: Handle, _p: float, train: bool) -> Result:
    if train:
        b.unsupported("in training mode; call model.eval() before")
    return x


# Convolution and products.


def convolution(
    b: Builder,
    x: Handle,
    weight: Handle,
    bias: Handle | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Result:
    rank = len(weight.shape) - 2
    strides, dilations = _tuple(stride, rank), _tuple(dilation, rank)
    if isinstance(padding, str):
        reaches = [
            d * (k - 1) if padding == "same" else 0
            for d, k in zip(dilations, weight.shape[2:], strict=True)
        ]
        # An odd total goes one more to the end, as torch does it.
        if any(reach % 2 for reach in reaches):
            border = [(reach // 2, reach - reach // 2) for reach in reaches]
            x = b.emit(Pad(((0, 0), (0, 0), *border)), x)
            paddings: tuple[int, ...] = (0,) * rank
        else:
            paddings = tuple(reach // 2 for reach in reaches)
    else:
        paddings = _tuple(padding, rank)
    operator = Convolution(strides, paddings, dilations, groups)
    return b.emit(operator, x, weight=weight, bias=bias)


def general_convolution(
    b: Builder,
    x: Handle,
    weight: Handle,
    bias: Handle | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
) -> Result:
    if transposed:
        b.unsupported("when it is transposed")
    return convolution(b, x, weight, bias, stride, padding, dilation, groups)


def linear(b: Builder, x: Handle, weight: Handle, bias: Handle | None) -> Result:
    return b.emit(Linear(), x, weight=weight, bias=bias)


def matmul(b: Builder, left: Handle, right: Handle) -> Result:
    return _product(b, left, right)


def _product(
    b: Builder, left: Handle, right: Handle, scale: float = 1.0, bias: Stored | None = None
) -> Value:
    if isinstance(right, Stored) and right.trainable and len(right.shape) == 2 and scale == 1.0:
        # The operator's weight is [out, in]: the transpose of the second factor, no copy.
        return b.emit(Linear(), left, weight=b.transposed(right), bias=bias)
    if min(len(left.shape), len(right.shape)) < 2:
        b.unsupported(f"of shapes {left.shape} and {right.shape}; matrices are")
    a, c = b.value(left), b.value(right)
    producer = b.operator_of(c)
    if isinstance(producer, Permute) and _swaps_last_two(producer.dimensions):
        return b.emit(MatMul(transpose_b=True, scale=scale), a, *b.inputs_of(c))
    return b.emit(MatMul(scale=scale), a, c)


def _swaps_last_two(dimensions: tuple[int, ...]) -> bool:
    rank = len(dimensions)
    return dimensions == (*range(rank - 2), rank - 1, rank - 2)


def addmm(
    b: Builder, bias: Handle, left: Handle, right: Handle, beta: float, alpha: float
) -> Result:
    plain = beta == 1 and alpha == 1 and isinstance(right, Stored) and right.trainable
    if plain and isinstance(bias, Stored) and bias.shape == (right.shape[-1],) and bias.trainable:
        return _product(b, left, right, bias=bias)
    product = _product(b, left, right, scale=float(alpha))
    return product if beta == 0 else b.emit(Add(), product, _scaled(b, bias, beta))


def attention(
    b: Builder,
    query: Handle,
    key: Handle,
    value: Handle,
    mask: Handle | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Result:
    if mask is not None or is_causal:
        b.unsupported("with a mask")
    if enable_gqa:
        b.unsupported("with grouped queries")
    if dropout_p:
        b.unsupported("with dropout; call model.eval() before")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    scores = b.emit(MatMul(transpose_b=True, scale=factor), query, key)
    return b.emit(MatMul(), b.emit(Softmax(len(scores.shape) - 1), scores), value)


# Normalisation.


def batch_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    mean: Handle,
    variance: Handle,
    _momentum: float,
    eps: float,
) -> Result:
    operator = BatchNorm(eps)
    return [b.emit(operator, x, weight=weight, bias=bias, buffers=(mean, variance)), None, None]


def layer_norm(
    b: Builder,
    x: Handle,
    normalized_shape: Sequence[int],
    weight: Handle | None,
    bias: Handle | None,
    eps: float,
    _cudnn: bool = True,
) -> Result:
    return b.emit(LayerNorm(len(normalized_shape), eps), x, weight=weight, bias=bias)


def native_layer_norm(b: Builder, *arguments: Any) -> Result:
    return [layer_norm(b, *arguments), None, None]  # type: ignore[list-item]


def group_norm(
    b: Builder,
    x: Handle,
    groups: int,
    weight: Handle | None,
    bias: Handle | None,
    eps: float,
    _cudnn: bool = True,
) -> Result:
    return b.emit(GroupNorm(groups, eps), x, weight=weight, bias=bias)


def native_group_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    _n: int,
    _c: int,
    _hxw: int,
    groups: int,
    eps: float,
) -> Result:
    return [b.emit(GroupNorm(groups, eps), x, weight=weight, bias=bias), None, None]


# Elementwise.


def _activation(operator: Operator) -> Handler:
    def handler(b: Builder, x: Handle) -> Result:
        return b.emit(operator, x)

    return handler


def leaky_relu(b: Builder, x: Handle, slope: float) -> Result:
    return b.emit(LeakyReLU(float(slope)), x)


def hardtanh(b: Builder, x: Handle, low: float, high: float) -> Result:
    return b.emit(Clamp(float(low), float(high), gradient_at_bounds=False), x)


def relu6(b: Builder, x: Handle) -> Result:
    return hardtanh(b, x, 0.0, 6.0)


def clamp(b: Builder, x: Handle, low: float | None, high: float | None) -> Result:
    minimum = -LARGEST if low is None else float(low)
    maximum = LARGEST if high is None else float(high)
    return b.emit(Clamp(minimum, maximum, gradient_at_bounds=True), x)


def clamp_min(b: Builder, x: Handle, low: float) -> Result:
    return clamp(b, x, low, None)


def clamp_max(b: Builder, x: Handle, high: float) -> Result:
    return clamp(b, x, None, high)


def gelu(b: Builder, x: Handle, approximate: str) -> Result:
    return b.emit(GELU(approximate), x)


def elu(b: Builder, x: Handle, alpha: float, scale: float, input_scale: float) -> Result:
    if scale != 1 or input_scale != 1:
        b.unsupported("with a scale")
    return b.emit(ELU(float(alpha)), x)


def softmax(b: Builder, x: Handle, dimension: int, dtype: Any) -> Result:
    if dtype not in (None, False, torch.float32):
        b.unsupported(f"in {dtype}")
    return b.emit(Softmax(_dimension(dimension, len(x.shape))), x)


def _number(b: Builder, x: Any) -> float | None:
    """`x` as a plain number: a Python one, or a constant of no dimensions."""
    if isinstance(x, Stored) and not x.trainable and x.shape == ():
        return float(b.tensors[x.parameter.name])
    return None if isinstance(x, Value | Stored) else float(x)


def _scaled(b: Builder, x: Handle, factor: float) -> Handle:
    return x if factor == 1 else b.emit(Scale(factor=float(factor)), x)


def add(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(offset=c * alpha), left)
    if a is not None:
        return b.emit(Scale(factor=float(alpha), offset=a), right)
    return b.emit(Add(), left, _scaled(b, right, alpha))


def subtract(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(offset=-c * alpha), left)
    if a is not None:
        return b.emit(Scale(factor=-float(alpha), offset=a), right)
    return b.emit(Subtract(), left, _scaled(b, right, alpha))


def reverse_subtract(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    """`right - alpha * left`."""
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=-float(alpha), offset=c), left)
    if a is not None:
        return b.emit(Scale(offset=-a * alpha), right)
    return b.emit(Subtract(), right, _scaled(b, left, alpha))


def multiply(b: Builder, left: Any, right: Any) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=c), left)
    if a is not None:
        return b.emit(Scale(factor=a), right)
    return b.emit(Multiply(), left, right)


def divide(b: Builder, left: Any, right: Any) -> Result:
    c = _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=1 / c), left) if c else b.unsupported("by zero")
    if isinstance(right, Stored) and not right.trainable:
        inverse = b.lift(torch.reciprocal(b.tensors[right.parameter.name]))
        return b.emit(Multiply(), left, inverse)
    b.unsupported("by an activation or a parameter")


def negate(b: Builder, x: Handle) -> Result:
    return b.emit(Scale(factor=-1.0), x)


# Pooling.


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
    kernels = _tuple(kernel, rank)
    strides = _tuple(stride, rank) if stride else kernels
    operator = MaxPool(kernels, strides, _tuple(padding, rank), _tuple(dilation, rank), ceil_mode)
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
    kernels = _tuple(kernel, rank)
    strides = _tuple(stride, rank) if stride else kernels
    operator = AveragePool(kernels, strides, _tuple(padding, rank), ceil_mode, count_padding)
    return b.emit(operator, x)


def adaptive_average_pool(b: Builder, x: Handle, _output: Sequence[int]) -> Result:
    shape, rank = b.output_shape(), len(x.shape)
    if shape == x.shape:
        return x
    if all(size == 1 for size in shape[2:]):
        return b.emit(Mean(tuple(range(2, rank)), keep_dimensions=True), x)
    return b.emit(AdaptiveAveragePool(shape[2:]), x)


def mean(b: Builder, x: Handle, dimensions: Sequence[int] | None, keep: bool, dtype: Any) -> Result:
    rank = len(x.shape)
    every = dimensions if dimensions else range(rank)
    chosen = tuple(sorted(_dimension(dimension, rank) for dimension in every))
    return b.emit(Mean(chosen, bool(keep)), x)


def mean_of_all(b: Builder, x: Handle, _dtype: Any) -> Result:
    return b.emit(Mean(tuple(range(len(x.shape)))), x)


# Layout.


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
    return _permuted(b, x, tuple(_dimension(d, len(x.shape)) for d in dimensions))


def transpose(b: Builder, x: Handle, first: int, second: int) -> Result:
    order = list(range(len(x.shape)))
    i, j = _dimension(first, len(order)), _dimension(second, len(order))
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
    d = _dimension(dimension, len(x.shape))
    first, last, stride = slice(start, stop, step).indices(x.shape[d])
    return _sliced(b, x, d, first, last, stride)


def select(b: Builder, x: Handle, dimension: int, index: int) -> Result:
    d = _dimension(dimension, len(x.shape))
    at = index + x.shape[d] if index < 0 else index
    part = _sliced(b, x, d, at, at + 1)
    return b.reshape(part, (*x.shape[:d], *x.shape[d + 1 :]))


def _parts(b: Builder, x: Handle, dimension: int, sizes: Sequence[int]) -> list[Handle | None]:
    edges = [0, *accumulate(sizes)]
    return [_sliced(b, x, dimension, start, stop) for start, stop in pairwise(edges)]


def split(b: Builder, x: Handle, size: int, dimension: int) -> Result:
    d = _dimension(dimension, len(x.shape))
    total = x.shape[d]
    return _parts(b, x, d, [min(size, total - start) for start in range(0, total, size)])


def split_with_sizes(b: Builder, x: Handle, sizes: Sequence[int], dimension: int) -> Result:
    return _parts(b, x, _dimension(dimension, len(x.shape)), sizes)


def chunk(b: Builder, x: Handle, chunks: int, dimension: int) -> Result:
    size = math.ceil(x.shape[_dimension(dimension, len(x.shape))] / chunks)
    return split(b, x, size, dimension)


def unbind(b: Builder, x: Handle, dimension: int) -> Result:
    d = _dimension(dimension, len(x.shape))
    rest = (*x.shape[:d], *x.shape[d + 1 :])
    return [b.reshape(part, rest) for part in _parts(b, x, d, [1] * x.shape[d]) if part is not None]


def concatenate(b: Builder, inputs: Sequence[Handle], dimension: int) -> Result:
    if len(inputs) == 1:
        return inputs[0]
    return b.emit(Concatenate(_dimension(dimension, len(inputs[0].shape))), *inputs)


def stack(b: Builder, inputs: Sequence[Handle], dimension: int) -> Result:
    d = _dimension(dimension, len(inputs[0].shape) + 1)
    shape: Shape = (*inputs[0].shape[:d], 1, *inputs[0].shape[d:])
    return concatenate(b, [b.reshape(x, shape) for x in inputs], d)


def expand(b: Builder, x: Handle, *_: Any) -> Result:
    shape = b.output_shape()
    x = b.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return x if x.shape == shape else b.emit(Expand(shape), x)


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
    if mode != "constant":
        b.unsupported(f"in mode {mode!r}; only 'constant' is")
    return pad(b, x, padding, value)


PASSED_THROUGH = frozenset(
    {
        "aten.alias.default",
        "aten.clone.default",
        "aten.contiguous.default",
        "aten.detach.default",
        "aten.detach_.default",
        "aten.lift_fresh_copy.default",
    }
)
"""Operators that hand on the value they are given."""

HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(PASSED_THROUGH, passed_through),
    "aten._to_copy.default": to_same_type,
    "aten.to.dtype": to_same_type,
    "aten.to.dtype_layout": to_same_type,
    "aten.to.device": to_same_type,
    "aten.dropout.default": dropout,
    "aten.feature_dropout.default": dropout,
    "aten.native_dropout.default": lambda b, *arguments: [dropout(b, *arguments), None],
    "aten.conv1d.default": convolution,
    "aten.conv2d.default": convolution,
    "aten.conv3d.default": convolution,
    "aten.conv1d.padding": convolution,
    "aten.conv2d.padding": convolution,
    "aten.conv3d.padding": convolution,
    "aten.convolution.default": general_convolution,
    "aten.linear.default": linear,
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.matmul.default": matmul,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.scaled_dot_product_attention.default": attention,
    "aten._native_batch_norm_legit_no_training.default": batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.relu.default": _activation(ReLU()),
    "aten.hardsigmoid.default": _activation(HardSigmoid()),
    "aten.hardswish.default": _activation(HardSwish()),
    "aten.silu.default": _activation(SiLU()),
    "aten.sigmoid.default": _activation(Sigmoid()),
    "aten.tanh.default": _activation(Tanh()),
    "aten.relu6.default": relu6,
    "aten.hardtanh.default": hardtanh,
    "aten.clamp.default": clamp,
    "aten.clamp_min.default": clamp_min,
    "aten.clamp_max.default": clamp_max,
    "aten.leaky_relu.default": leaky_relu,
    "aten.elu.default": elu,
    "aten.gelu.default": gelu,
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": subtract,
    "aten.sub.Scalar": subtract,
    "aten.rsub.Tensor": reverse_subtract,
    "aten.rsub.Scalar": reverse_subtract,
    "aten.mul.Tensor": multiply,
    "aten.mul.Scalar": multiply,
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.neg.default": negate,
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
    "aten.mean.dim": mean,
    "aten.mean.default": mean_of_all,
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
    "aten.constant_pad_nd.default": pad,
    "aten.pad.default": pad_in_mode,
}
"""By the name of the operator's overload, as `str(node.target)` writes it."""
