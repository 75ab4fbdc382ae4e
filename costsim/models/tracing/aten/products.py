"""Convolutions, linear layers, matrix products, attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from costsim.ir.operators import (
    Add,
    Concatenate,
    Convolution,
    Expand,
    Linear,
    MatMul,
    Pad,
    Permute,
    Slice,
    Softmax,
)
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.models.tracing.aten.common import Handler, Result, as_tuple
from costsim.models.tracing.aten.elementwise import scaled
from costsim.models.tracing.builder import Builder, Handle, Stored, Value


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
    strides, dilations = as_tuple(stride, rank), as_tuple(dilation, rank)
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
        paddings = as_tuple(padding, rank)
    if isinstance(weight, Value):
        computed = DynamicConvolution(strides, paddings, dilations, groups)
        return _shifted(b, b.emit(computed, x, weight), bias, rank)
    operator = Convolution(strides, paddings, dilations, groups)
    return b.emit(operator, x, weight=weight, bias=bias)


def _shifted(b: Builder, product: Value, bias: Handle | None, behind: int) -> Value:
    """With a bias along the dimension before `behind` others."""
    if bias is None:
        return product
    return b.emit(Add(), product, b.reshape(bias, (*bias.shape, *(1,) * behind)))


def general_convolution(
    b: Builder,
    x: Handle,
    weight: Handle,
    bias: Handle | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Result:
    if transposed:
        return transposed_convolution(
            b, x, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return convolution(b, x, weight, bias, stride, padding, dilation, groups)


def transposed_convolution(
    b: Builder,
    x: Handle,
    weight: Handle,
    bias: Handle | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Result:
    """Its weight is torch's with the first two dimensions exchanged: a view.

    Groups are layers of their own, side by side, but where each has one channel in and out.
    """
    rank = len(weight.shape) - 2
    own = b.required(weight, "weight")
    inputs, a_group, *_ = own.shape
    alone = TransposedConvolution(
        as_tuple(stride, rank),
        as_tuple(padding, rank),
        as_tuple(output_padding, rank),
        as_tuple(dilation, rank),
    )
    if groups == 1:
        return b.emit(alone, x, weight=b.transposed(own), bias=bias)
    if groups == inputs and a_group == 1:
        return b.emit(replace(alone, groups=groups), x, weight=own, bias=bias)
    whole, parts = b.value(x), []
    biases = b.stored(bias, "bias")
    for group in range(groups):
        first, last = inputs // groups * group, inputs // groups * (group + 1)
        outputs = (a_group * group, a_group * (group + 1))
        parts.append(
            b.emit(
                alone,
                b.emit(Slice(1, first, last), whole),
                weight=b.transposed(b.part(own, first, last)),
                bias=None if biases is None else b.part(biases, *outputs),
            )
        )
    return b.emit(Concatenate(1), *parts)


def linear(b: Builder, x: Handle, weight: Handle, bias: Handle | None) -> Result:
    if isinstance(weight, Value):
        return _shifted(b, b.emit(MatMul(transpose_b=True), x, weight), bias, 0)
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


def matrix_by_vector(b: Builder, matrix: Handle, vector: Handle) -> Result:
    column = b.reshape(vector, (*vector.shape, 1))
    return b.reshape(b.emit(MatMul(), matrix, column), matrix.shape[:1])


def dot(b: Builder, left: Handle, right: Handle) -> Result:
    row, column = b.reshape(left, (1, *left.shape)), b.reshape(right, (*right.shape, 1))
    return b.reshape(b.emit(MatMul(), row, column), ())


def addmm(
    b: Builder, bias: Handle, left: Handle, right: Handle, beta: float, alpha: float
) -> Result:
    plain = beta == 1 and alpha == 1 and isinstance(right, Stored) and right.trainable
    if plain and isinstance(bias, Stored) and bias.shape == (right.shape[-1],) and bias.trainable:
        return _product(b, left, right, bias=bias)
    product = _product(b, left, right, scale=float(alpha))
    return product if beta == 0 else b.emit(Add(), product, scaled(b, bias, beta))


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
    if dropout_p:
        b.unsupported(
            "with dropout; dropout_p must be 0 in evaluation mode (an exported program needs "
            "model.eval() before exporting)"
        )
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    if enable_gqa:
        key, value = _for_each_head(b, query, key), _for_each_head(b, query, value)
    scores = b.emit(MatMul(transpose_b=True, scale=factor), query, key)
    if is_causal:
        lower = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = b.emit(Add(), scores, b.lift(_added(lower, b.dtype)))
    if mask is not None:
        scores = b.emit(Add(), scores, _additive(b, mask))
    return b.emit(MatMul(), b.emit(Softmax(len(scores.shape) - 1), scores), value)


def _for_each_head(b: Builder, query: Handle, shared: Handle) -> Handle:
    """Keys or values `[..., groups, L, D]` that several heads of the queries share, for each."""
    *ahead, groups, length, depth = shared.shape
    heads = query.shape[-3]
    if heads == groups:
        return shared
    apart = b.reshape(shared, (*ahead, groups, 1, length, depth))
    spread = b.emit(Expand((*ahead, groups, heads // groups, length, depth)), apart)
    return b.reshape(spread, (*ahead, heads, length, depth))


def _added(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores so that only those that are allowed count."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -math.inf)


def _additive(b: Builder, mask: Handle) -> Handle:
    if not isinstance(mask, Stored) or mask.trainable:
        return mask
    tensor = b.tensors[mask.parameter.name]
    added = _added(tensor, b.dtype) if tensor.dtype == torch.bool else tensor
    if bool((added == -math.inf).all(-1).any()):
        b.unsupported("with a mask that lets a row see nothing")  # torch gives 0, a softmax NaN
    return b.lift(added) if tensor.dtype == torch.bool else mask


HANDLERS: Mapping[str, Handler] = {
    "aten.conv1d.default": convolution,
    "aten.conv2d.default": convolution,
    "aten.conv3d.default": convolution,
    "aten.conv1d.padding": convolution,
    "aten.conv2d.padding": convolution,
    "aten.conv3d.padding": convolution,
    "aten.convolution.default": general_convolution,
    "aten.conv_transpose1d.default": transposed_convolution,
    "aten.conv_transpose2d.input": transposed_convolution,
    "aten.conv_transpose3d.input": transposed_convolution,
    "aten.linear.default": linear,
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.matmul.default": matmul,
    "aten.mv.default": matrix_by_vector,
    "aten.dot.default": dot,
    "aten.vdot.default": dot,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.scaled_dot_product_attention.default": attention,
}
