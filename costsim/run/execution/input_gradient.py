"""Gradients with respect to the inputs of a call, one function an operator kind.

Each gets the gradient of the call's output and what the program kept for it, and returns the
gradient of one input in memory of its own, or, where the program says so, written over the
gradient of the output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.operators import (
    ELU,
    GELU,
    AdaptiveAveragePool,
    Add,
    AveragePool,
    BatchNorm,
    Concatenate,
    Expand,
    GroupNorm,
    HardSwish,
    LayerNorm,
    Linear,
    LogSoftmax,
    MatMul,
    MaxPool,
    Mean,
    Multiply,
    Pad,
    Permute,
    Scale,
    Shape,
    Shapes,
    Sigmoid,
    SiLU,
    Slice,
    Softmax,
    Subtract,
    Tanh,
)
from costsim.ir.operators.activation import LogSigmoid, Mish, Softplus
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.ir.operators.elementwise import Divide, Larger, Where
from costsim.ir.operators.function import (
    Absolute,
    Exp,
    Log,
    Power,
    Reciprocal,
    ReciprocalSquareRoot,
    SquareRoot,
)
from costsim.ir.operators.pooling import Extremum, LogSumExp, Norm, Variance
from costsim.ir.operators.reading import Reading
from costsim.ir.operators.sampling import Embedding, Fold, Lookup, Resize, Unfold
from costsim.run.execution.forward import CONVOLUTIONS, Operands, torch_weight
from costsim.run.execution.in_place import by_channel, normalising_factor
from costsim.run.execution.resizing import folded, gradient_of_resized
from costsim.run.execution.saved_values import from_window_offsets, in_statistics_type

aten: Any = torch.ops.aten


@dataclass(slots=True)
class Backward:
    """What the gradient with respect to input `index` of one call works on.

    `dy` is the gradient of the output, to be written over with `in_place`. `kept` are the call's
    inputs that were kept, by index, `output` its output, `saved` what was stored beside it; what
    the operator does not need is empty. `into` is a gradient of the input to add to; `form` the
    memory format that the result should have.
    """

    dy: Tensor
    shapes: Shapes
    index: int
    in_place: bool
    kept: Mapping[int, Tensor]
    output: Tensor
    saved: Tensor
    into: Tensor | None
    own: Operands
    form: torch.memory_format

    @property
    def shape(self) -> Shape:
        """Shape of the input."""
        return self.shapes.inputs[self.index]

    @property
    def target(self) -> Tensor:
        """The gradient of the input: the output's, written over, or a new tensor like it."""
        return self.dy if self.in_place else torch.empty_like(self.dy)


INPUT_GRADIENT: Reading[[Backward], Tensor] = Reading("input gradient")
"""Every operator kind that is run and has inputs, but for those whose gradient takes no more than
that of the output: convolutions, which `costsim.run.execution.convolution` has, and what keeps one
bit an element (`costsim.run.execution.masks`). A view's gradient is its output's own."""


@INPUT_GRADIENT.of(Linear)
def _linear(o: Linear, t: Backward) -> Tensor:
    assert t.own.weight is not None
    return t.dy @ t.own.weight


@INPUT_GRADIENT.of(DynamicConvolution)
def _dynamic_convolution(o: DynamicConvolution, t: Backward) -> Tensor:
    """Of what is not wanted torch looks at the shape alone."""
    x, weight = (
        t.kept[i] if i in t.kept else t.dy.new_empty(()).expand(shape)
        for i, shape in enumerate(t.shapes.inputs)
    )
    result: Tensor = aten.convolution_backward(
        t.dy, x, weight, None, o.stride, o.padding, o.dilation, False, (0,) * len(o.stride),
        o.groups, (t.index == 0, t.index == 1, False),
    )[t.index]  # fmt: skip
    return result


@INPUT_GRADIENT.of(TransposedConvolution)
def _transposed_convolution(o: TransposedConvolution, t: Backward) -> Tensor:
    assert t.own.weight is not None
    convolve: Any = CONVOLUTIONS[len(o.stride)]
    weight = torch_weight(o, t.own.weight)
    result: Tensor = convolve(t.dy, weight, None, o.stride, o.padding, o.dilation, o.groups)
    return result


@INPUT_GRADIENT.of(MatMul)
def _matmul(o: MatMul, t: Backward) -> Tensor:
    other = t.kept[1 - t.index]
    if t.index == 0:
        product = t.dy @ (other if o.transpose_b else other.transpose(-2, -1))
    elif o.transpose_b:
        product = t.dy.transpose(-2, -1) @ other
    else:
        product = other.transpose(-2, -1) @ t.dy
    product = _summed(product, t.shape)
    return product if o.scale == 1.0 else product.mul_(o.scale)


def _summed(gradient: Tensor, shape: Shape) -> Tensor:
    """`gradient` summed over the dimensions along which an input of `shape` was repeated."""
    return gradient if gradient.shape == shape else gradient.sum_to_size(shape)


@INPUT_GRADIENT.of(BatchNorm)
def _batch_norm(o: BatchNorm, t: Backward) -> Tensor:
    factor = by_channel(normalising_factor(o, t.own), t.dy)
    return torch.mul(t.dy, factor, out=t.target)


@INPUT_GRADIENT.of(LayerNorm)
def _layer_norm(o: LayerNorm, t: Backward) -> Tensor:
    x, shape = t.kept[0], t.shape[-o.dimensions :]
    mean, deviation = t.saved.view(2, *x.shape[: -o.dimensions], *(1,) * o.dimensions)
    weight = in_statistics_type(t.own.weight, x)
    result: Tensor = aten.native_layer_norm_backward(
        t.dy, x, shape, mean, deviation, weight, None, (True, False, False)
    )[0]
    return result


@INPUT_GRADIENT.of(GroupNorm)
def _group_norm(o: GroupNorm, t: Backward) -> Tensor:
    x = t.kept[0]
    n, c = x.shape[:2]
    mean, deviation = t.saved.view(2, n, o.groups)
    weight = in_statistics_type(t.own.weight, x)
    result: Tensor = aten.native_group_norm_backward(
        t.dy, x, mean, deviation, weight, n, c, x[0, 0, ...].numel(), o.groups,
        (True, False, False),
    )[0]  # fmt: skip
    return result


@INPUT_GRADIENT.of(HardSwish)
def _hard_swish(o: HardSwish, t: Backward) -> Tensor:
    gradient: Tensor = aten.hardswish_backward(t.dy, t.kept[0])
    return t.dy.copy_(gradient) if t.in_place else gradient


@INPUT_GRADIENT.of(GELU)
def _gelu(o: GELU, t: Backward) -> Tensor:
    result: Tensor = aten.gelu_backward.grad_input(
        t.dy, t.kept[0], approximate=o.approximate, grad_input=t.target
    )
    return result


@INPUT_GRADIENT.of(SiLU)
def _silu(o: SiLU, t: Backward) -> Tensor:
    result: Tensor = aten.silu_backward.grad_input(t.dy, t.kept[0], grad_input=t.target)
    return result


@INPUT_GRADIENT.of(ELU)
def _elu(o: ELU, t: Backward) -> Tensor:
    result: Tensor = aten.elu_backward.grad_input(
        t.dy, o.alpha, 1.0, 1.0, False, t.kept[0], grad_input=t.target
    )
    return result


@INPUT_GRADIENT.of(Softplus)
def _softplus(o: Softplus, t: Backward) -> Tensor:
    result: Tensor = aten.softplus_backward.grad_input(
        t.dy, t.kept[0], o.beta, o.threshold, grad_input=t.target
    )
    return result


@INPUT_GRADIENT.of(Mish)
def _mish(o: Mish, t: Backward) -> Tensor:
    gradient: Tensor = aten.mish_backward(t.dy, t.kept[0])
    return t.dy.copy_(gradient) if t.in_place else gradient


@INPUT_GRADIENT.of(SquareRoot)
def _square_root(o: SquareRoot, t: Backward) -> Tensor:
    return torch.div(t.dy, t.output * 2, out=t.target)


@INPUT_GRADIENT.of(ReciprocalSquareRoot)
def _reciprocal_square_root(o: ReciprocalSquareRoot, t: Backward) -> Tensor:
    return torch.mul(t.dy, t.output.pow(3).mul_(-0.5), out=t.target)


@INPUT_GRADIENT.of(Reciprocal)
def _reciprocal(o: Reciprocal, t: Backward) -> Tensor:
    return torch.mul(t.dy, t.output.square().neg_(), out=t.target)


@INPUT_GRADIENT.of(Power)
def _power(o: Power, t: Backward) -> Tensor:
    slope = t.kept[0].pow(o.exponent - 1).mul_(o.exponent)
    return torch.mul(t.dy, slope, out=t.target)


INPUT_GRADIENT.of(LogSigmoid)(
    lambda _o, t: torch.mul(t.dy, torch.sigmoid(-t.kept[0]), out=t.target)
)
INPUT_GRADIENT.of(Exp)(lambda _o, t: torch.mul(t.dy, t.output, out=t.target))
INPUT_GRADIENT.of(Log)(lambda _o, t: torch.div(t.dy, t.kept[0], out=t.target))
INPUT_GRADIENT.of(Absolute)(lambda _o, t: torch.mul(t.dy, t.kept[0].sgn(), out=t.target))


@INPUT_GRADIENT.of(Sigmoid)
def _sigmoid(o: Sigmoid, t: Backward) -> Tensor:
    result: Tensor = aten.sigmoid_backward.grad_input(t.dy, t.output, grad_input=t.target)
    return result


@INPUT_GRADIENT.of(Tanh)
def _tanh(o: Tanh, t: Backward) -> Tensor:
    result: Tensor = aten.tanh_backward.grad_input(t.dy, t.output, grad_input=t.target)
    return result


@INPUT_GRADIENT.of(Softmax)
def _softmax(o: Softmax, t: Backward) -> Tensor:
    row = (t.dy * t.output).sum(o.dimension, keepdim=True)
    return torch.sub(t.dy, row, out=t.target).mul_(t.output)


@INPUT_GRADIENT.of(LogSoftmax)
def _log_softmax(o: LogSoftmax, t: Backward) -> Tensor:
    gradient: Tensor = aten._log_softmax_backward_data(t.dy, t.output, o.dimension, t.dy.dtype)
    return t.dy.copy_(gradient) if t.in_place else gradient


@INPUT_GRADIENT.of(Subtract)
def _subtract(o: Subtract, t: Backward) -> Tensor:
    if t.shape == t.dy.shape:
        return torch.neg(t.dy, out=t.target)
    summed = _summed(t.dy, t.shape)
    return summed if t.index == 0 else summed.neg_()


@INPUT_GRADIENT.of(Multiply)
def _multiply(o: Multiply, t: Backward) -> Tensor:
    other = t.kept[1 - t.index]
    if t.shape == t.dy.shape:
        return torch.mul(t.dy, other, out=t.target)
    return _summed(t.dy * other, t.shape)


@INPUT_GRADIENT.of(Divide)
def _divide(o: Divide, t: Backward) -> Tensor:
    divisor = t.kept[1]
    if t.index == 1:
        slope = (t.kept[0] / divisor).div_(divisor).neg_()
        return _summed(slope.mul_(t.dy), t.shape)
    if t.shape == t.dy.shape:
        return torch.div(t.dy, divisor, out=t.target)
    return _summed(t.dy / divisor, t.shape)


@INPUT_GRADIENT.of(MaxPool)
def _max_pool(o: MaxPool, t: Backward) -> Tensor:
    indices = from_window_offsets(o, t.saved, t.shape[2:]).flatten(2)
    gradient = t.dy.new_zeros((*t.shape[:2], indices.new_empty(t.shape[2:]).numel()))
    return gradient.scatter_add_(2, indices, t.dy.flatten(2)).view(t.shape)


def _only_shape(t: Backward) -> Tensor:
    """Stands for the input where a kernel asks for it but reads its shape alone."""
    return t.dy.new_empty(()).expand(t.shape)


@INPUT_GRADIENT.of(AveragePool)
def _average_pool(o: AveragePool, t: Backward) -> Tensor:
    function = aten.avg_pool3d_backward if len(o.kernel) == 3 else aten.avg_pool2d_backward
    dy, x, kernel, stride, padding = t.dy, _only_shape(t), o.kernel, o.stride, o.padding
    if len(o.kernel) == 1:
        dy, x = dy.unsqueeze(-2), x.unsqueeze(-2)
        kernel, stride, padding = (1, *kernel), (1, *stride), (0, *padding)
    result: Tensor = function(dy, x, kernel, stride, padding, o.ceil_mode, o.count_padding, None)
    return result.view(t.shape)


@INPUT_GRADIENT.of(AdaptiveAveragePool)
def _adaptive_average_pool(o: AdaptiveAveragePool, t: Backward) -> Tensor:
    rank = len(o.output)
    function = (
        aten._adaptive_avg_pool3d_backward if rank == 3 else aten._adaptive_avg_pool2d_backward
    )
    dy, x = t.dy, _only_shape(t)
    if rank == 1:
        dy, x = dy.unsqueeze(-2), x.unsqueeze(-2)
    result: Tensor = function(dy, x)
    return result.view(t.shape)


@INPUT_GRADIENT.of(Mean)
def _mean(o: Mean, t: Backward) -> Tensor:
    collapsed = [1 if d in o.dimensions else size for d, size in enumerate(t.shape)]
    count = 1
    for d in o.dimensions:
        count *= t.shape[d]
    return (t.dy.view(collapsed) / count).expand(t.shape).clone(memory_format=t.form)


@INPUT_GRADIENT.of(Norm)
def _norm(o: Norm, t: Backward) -> Tensor:
    collapsed = [1 if d in o.dimensions else size for d, size in enumerate(t.shape)]
    norm = t.output.reshape(collapsed)
    slope = (t.dy.reshape(collapsed) / norm).masked_fill_(norm == 0, 0)
    return t.kept[0] * slope


@INPUT_GRADIENT.of(Permute)
def _permute(o: Permute, t: Backward) -> Tensor:
    inverse = sorted(range(len(o.dimensions)), key=o.dimensions.__getitem__)
    return t.dy.permute(inverse).clone(memory_format=t.form)


@INPUT_GRADIENT.of(Slice)
def _slice(o: Slice, t: Backward) -> Tensor:
    whole = t.dy.new_zeros(t.shape) if t.into is None else t.into
    whole[(*(slice(None),) * o.dimension, slice(o.start, o.stop, o.step))] += t.dy
    return whole


@INPUT_GRADIENT.of(Concatenate)
def _concatenate(o: Concatenate, t: Backward) -> Tensor:
    d = o.dimension
    start = sum(shape[d] for shape in t.shapes.inputs[: t.index])
    return t.dy.narrow(d, start, t.shape[d]).clone(memory_format=t.form)


@INPUT_GRADIENT.of(Expand)
def _expand(o: Expand, t: Backward) -> Tensor:
    return t.dy.clone() if t.dy.shape == t.shape else _summed(t.dy, t.shape)


@INPUT_GRADIENT.of(Pad)
def _pad(o: Pad, t: Backward) -> Tensor:
    borders = [-size for pair in reversed(o.padding) for size in pair]
    return torch.constant_pad_nd(t.dy, borders)


def _kept_sizes(value: Tensor, o: Extremum | Variance | LogSumExp) -> Tensor:
    """The result of a reduction with the dimensions that it dropped as sizes of one."""
    if o.keep_dimensions:
        return value
    for dimension in sorted(o.dimensions):
        value = value.unsqueeze(dimension)
    return value


@INPUT_GRADIENT.of(Extremum)
def _extremum(o: Extremum, t: Backward) -> Tensor:
    share = (t.kept[0] == _kept_sizes(t.output, o)).to(t.dy.dtype)
    share /= share.sum(o.dimensions, keepdim=True)
    return share.mul_(_kept_sizes(t.dy, o))


@INPUT_GRADIENT.of(Variance)
def _variance(o: Variance, t: Backward) -> Tensor:
    x, dy = t.kept[0], _kept_sizes(t.dy, o)
    count = x.numel() // dy.numel() - o.correction
    return (x - x.mean(o.dimensions, keepdim=True)).mul_(dy * (2 / count))


@INPUT_GRADIENT.of(LogSumExp)
def _log_sum_exp(o: LogSumExp, t: Backward) -> Tensor:
    share = (t.kept[0] - _kept_sizes(t.output, o)).exp_()
    return share.mul_(_kept_sizes(t.dy, o))


@INPUT_GRADIENT.of(Larger)
def _larger(o: Larger, t: Backward) -> Tensor:
    own, other = t.kept[t.index], t.kept[1 - t.index]
    wins = own < other if o.smallest else own > other
    share = wins.to(t.dy.dtype).add_(own == other, alpha=0.5)
    return _summed(share.mul_(t.dy), t.shape)


@INPUT_GRADIENT.of(Where)
def _where(o: Where, t: Backward) -> Tensor:
    holds = (t.own.buffers[0] > 0) == (t.index == 0)
    return _summed(t.dy * holds, t.shape)


@INPUT_GRADIENT.of(Lookup)
def _lookup(o: Lookup, t: Backward) -> Tensor:
    places = torch.tensor(o.places, device=t.dy.device)
    return t.dy.new_zeros(t.shape).index_add_(o.dimension, places, t.dy)


@INPUT_GRADIENT.of(Embedding)
def _embedding(o: Embedding, t: Backward) -> Tensor:
    places = t.kept[1].to(torch.int64).reshape(-1)
    rows = t.dy.reshape(len(places), *t.shape[1:])
    gradient = t.dy.new_zeros(t.shape).index_add_(0, places, rows)
    if o.padding is not None:
        gradient[o.padding] = 0
    return gradient


@INPUT_GRADIENT.of(Resize)
def _resize(o: Resize, t: Backward) -> Tensor:
    return gradient_of_resized(o, t.dy, t.shape)


@INPUT_GRADIENT.of(Unfold)
def _unfold(o: Unfold, t: Backward) -> Tensor:
    return folded(o, t.dy, t.shape[2:])


@INPUT_GRADIENT.of(Fold)
def _fold(o: Fold, t: Backward) -> Tensor:
    return F.unfold(t.dy, o.kernel, o.dilation, o.padding, o.stride)


INPUT_GRADIENT.of(Add)(lambda _o, t: _summed(t.dy, t.shape))
INPUT_GRADIENT.of(Scale)(lambda o, t: torch.mul(t.dy, o.factor, out=t.target))
