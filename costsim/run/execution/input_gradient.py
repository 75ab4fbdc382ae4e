"""Gradients with respect to the inputs of a call, one function an operator kind.

Each gets the gradient of the call's output and what the program kept for it, and returns the
gradient of one input in memory of its own, or, where the program says so, written over the
gradient of the output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from costsim.ir.operators import Shape, Shapes
from costsim.run.execution.forward import Operands
from costsim.run.execution.in_place import by_channel, normalising_factor
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


InputGradient: TypeAlias = Callable[[Any, Backward], Tensor]
"""(the call's operator, what it works on) to the gradient of the input."""


def _linear(o: Any, t: Backward) -> Tensor:
    assert t.own.weight is not None
    return t.dy @ t.own.weight


def _matmul(o: Any, t: Backward) -> Tensor:
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


def _batch_norm(o: Any, t: Backward) -> Tensor:
    factor = by_channel(normalising_factor(o, t.own), t.dy)
    return torch.mul(t.dy, factor, out=t.target)


def _layer_norm(o: Any, t: Backward) -> Tensor:
    x, shape = t.kept[0], t.shape[-o.dimensions :]
    mean, deviation = t.saved.view(2, *x.shape[: -o.dimensions], *(1,) * o.dimensions)
    weight = in_statistics_type(t.own.weight, x)
    result: Tensor = aten.native_layer_norm_backward(
        t.dy, x, shape, mean, deviation, weight, None, (True, False, False)
    )[0]
    return result


def _group_norm(o: Any, t: Backward) -> Tensor:
    x = t.kept[0]
    n, c = x.shape[:2]
    mean, deviation = t.saved.view(2, n, o.groups)
    weight = in_statistics_type(t.own.weight, x)
    result: Tensor = aten.native_group_norm_backward(
        t.dy, x, mean, deviation, weight, n, c, x[0, 0, ...].numel(), o.groups,
        (True, False, False),
    )[0]  # fmt: skip
    return result


def _hard_swish(o: Any, t: Backward) -> Tensor:
    gradient: Tensor = aten.hardswish_backward(t.dy, t.kept[0])
    return t.dy.copy_(gradient) if t.in_place else gradient


def _gelu(o: Any, t: Backward) -> Tensor:
    result: Tensor = aten.gelu_backward.grad_input(
        t.dy, t.kept[0], approximate=o.approximate, grad_input=t.target
    )
    return result


def _silu(o: Any, t: Backward) -> Tensor:
    result: Tensor = aten.silu_backward.grad_input(t.dy, t.kept[0], grad_input=t.target)
    return result


def _elu(o: Any, t: Backward) -> Tensor:
    result: Tensor = aten.elu_backward.grad_input(
        t.dy, o.alpha, 1.0, 1.0, False, t.kept[0], grad_input=t.target
    )
    return result


def _sigmoid(o: Any, t: Backward) -> Tensor:
    result: Tensor = aten.sigmoid_backward.grad_input(t.dy, t.output, grad_input=t.target)
    return result


def _tanh(o: Any, t: Backward) -> Tensor:
    result: Tensor = aten.tanh_backward.grad_input(t.dy, t.output, grad_input=t.target)
    return result


def _softmax(o: Any, t: Backward) -> Tensor:
    row = (t.dy * t.output).sum(o.dimension, keepdim=True)
    return torch.sub(t.dy, row, out=t.target).mul_(t.output)


def _log_softmax(o: Any, t: Backward) -> Tensor:
    gradient: Tensor = aten._log_softmax_backward_data(t.dy, t.output, o.dimension, t.dy.dtype)
    return t.dy.copy_(gradient) if t.in_place else gradient


def _subtract(o: Any, t: Backward) -> Tensor:
    if t.shape == t.dy.shape:
        return torch.neg(t.dy, out=t.target)
    summed = _summed(t.dy, t.shape)
    return summed if t.index == 0 else summed.neg_()


def _multiply(o: Any, t: Backward) -> Tensor:
    other = t.kept[1 - t.index]
    if t.shape == t.dy.shape:
        return torch.mul(t.dy, other, out=t.target)
    return _summed(t.dy * other, t.shape)


def _max_pool(o: Any, t: Backward) -> Tensor:
    indices = from_window_offsets(o, t.saved, t.shape[2:]).flatten(2)
    gradient = t.dy.new_zeros((*t.shape[:2], indices.new_empty(t.shape[2:]).numel()))
    return gradient.scatter_add_(2, indices, t.dy.flatten(2)).view(t.shape)


def _only_shape(t: Backward) -> Tensor:
    """Stands for the input where a kernel asks for it but reads its shape alone."""
    return t.dy.new_empty(()).expand(t.shape)


def _average_pool(o: Any, t: Backward) -> Tensor:
    function = aten.avg_pool3d_backward if len(o.kernel) == 3 else aten.avg_pool2d_backward
    dy, x, kernel, stride, padding = t.dy, _only_shape(t), o.kernel, o.stride, o.padding
    if len(o.kernel) == 1:
        dy, x = dy.unsqueeze(-2), x.unsqueeze(-2)
        kernel, stride, padding = (1, *kernel), (1, *stride), (0, *padding)
    result: Tensor = function(dy, x, kernel, stride, padding, o.ceil_mode, o.count_padding, None)
    return result.view(t.shape)


def _adaptive_average_pool(o: Any, t: Backward) -> Tensor:
    rank = len(o.output)
    function = (
        aten._adaptive_avg_pool3d_backward if rank == 3 else aten._adaptive_avg_pool2d_backward
    )
    dy, x = t.dy, _only_shape(t)
    if rank == 1:
        dy, x = dy.unsqueeze(-2), x.unsqueeze(-2)
    result: Tensor = function(dy, x)
    return result.view(t.shape)


def _mean(o: Any, t: Backward) -> Tensor:
    collapsed = [1 if d in o.dimensions else size for d, size in enumerate(t.shape)]
    count = 1
    for d in o.dimensions:
        count *= t.shape[d]
    return (t.dy.view(collapsed) / count).expand(t.shape).clone(memory_format=t.form)


def _permute(o: Any, t: Backward) -> Tensor:
    inverse = sorted(range(len(o.dimensions)), key=o.dimensions.__getitem__)
    return t.dy.permute(inverse).clone(memory_format=t.form)


def _slice(o: Any, t: Backward) -> Tensor:
    whole = t.dy.new_zeros(t.shape) if t.into is None else t.into
    whole[(*(slice(None),) * o.dimension, slice(o.start, o.stop, o.step))] += t.dy
    return whole


def _concatenate(o: Any, t: Backward) -> Tensor:
    d = o.dimension
    start = sum(shape[d] for shape in t.shapes.inputs[: t.index])
    return t.dy.narrow(d, start, t.shape[d]).clone(memory_format=t.form)


def _expand(o: Any, t: Backward) -> Tensor:
    return t.dy.clone() if t.dy.shape == t.shape else _summed(t.dy, t.shape)


def _pad(o: Any, t: Backward) -> Tensor:
    borders = [-size for pair in reversed(o.padding) for size in pair]
    return torch.constant_pad_nd(t.dy, borders)


INPUT_GRADIENT: Mapping[str, InputGradient] = MappingProxyType(
    {
        "linear": _linear,
        "matmul": _matmul,
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
        "hard_swish": _hard_swish,
        "gelu": _gelu,
        "silu": _silu,
        "elu": _elu,
        "sigmoid": _sigmoid,
        "tanh": _tanh,
        "softmax": _softmax,
        "log_softmax": _log_softmax,
        "add": lambda o, t: _summed(t.dy, t.shape),
        "subtract": _subtract,
        "multiply": _multiply,
        "scale": lambda o, t: torch.mul(t.dy, o.factor, out=t.target),
        "max_pool": _max_pool,
        "average_pool": _average_pool,
        "adaptive_average_pool": _adaptive_average_pool,
        "mean": _mean,
        "permute": _permute,
        "slice": _slice,
        "concatenate": _concatenate,
        "expand": _expand,
        "pad": _pad,
    }
)
"""Every operator kind that is run and has inputs, but for those whose gradient takes no more than
that of the output: convolutions, which `costsim.run.execution.convolution` has, and what keeps one
bit an element (`costsim.run.execution.masks`). A view's gradient is its output's own."""
