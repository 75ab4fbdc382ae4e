"""Gradients of the selected channels of a weight, one function an operator kind.

What is not selected is not computed: gradients, inputs and kernels are cut to the channels first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.execution.forward import Operands
from costsim.execution.input_gradient import MANY_PIXELS, is_product
from costsim.execution.layout import has_channels_last, rows_of
from costsim.execution.selection import Channels, Selection
from costsim.operators import Shapes

aten: Any = torch.ops.aten


@dataclass(slots=True)
class WeightBackward:
    """What the weight gradient of one call works on.

    `dy` is the gradient of the whole output; `x` the input, of which only the selected channels
    are there where the operator needs no others (`Need.selected_only`).
    """

    dy: Tensor
    x: Tensor
    saved: Tensor
    shapes: Shapes
    selection: Selection
    own: Operands

    @property
    def channels(self) -> Channels:
        """The selected channels."""
        return self.selection.picked


WeightGradient: TypeAlias = Callable[[Any, WeightBackward], Tensor]
"""(the call's operator, what it works on) to the gradient in the selection's compact form."""


_MANY_TAPS = 9
"""Depthwise kernels with more are differentiated as `_depthwise_by_convolution`."""


def _convolution(o: Any, t: WeightBackward) -> Tensor:
    assert t.own.weight is not None
    weight, n = t.own.weight, len(t.channels.numbers)
    if o.is_depthwise(t.shapes):
        dy = t.channels.of(t.dy, 1)
        taps = weight[0, 0, ...].numel()
        if weight.ndim == 4 and taps > _MANY_TAPS and weight.dtype == torch.float32:
            return _depthwise_by_convolution(o, dy, t.x, weight.shape[2:])
        return _of_kernel(o, dy, t.x, weight.narrow(0, 0, n), n)
    if o.groups > 1:
        return _grouped_convolution(o, t)
    if is_product(o, weight):
        return _by_products(t)
    if t.selection.axis == "output":
        return _of_kernel(o, t.channels.of(t.dy, 1), t.x, weight.narrow(0, 0, n), 1)
    return _of_kernel(o, t.dy, t.x, weight.narrow(1, 0, n), 1)


def _by_products(t: WeightBackward) -> Tensor:
    """Of a pointwise convolution: dy times x transposed, over all pixels of all samples.

    Small images are put side by side; of large ones that copy would cost more than it saves.
    """
    if has_channels_last(t.dy):
        rows = rows_of(t.dy)
        if t.selection.axis == "output":
            rows = t.channels.of(rows, 1)
        return torch.mm(rows.t(), rows_of(t.x)).view(t.selection.shape)
    dy, x = t.dy.flatten(2), t.x.flatten(2)
    if t.selection.axis == "output":
        dy = t.channels.of(dy, 1)
    if len(dy) == 1:
        total = dy[0] @ x[0].t()
    elif dy.shape[2] <= MANY_PIXELS:
        total = dy.transpose(0, 1).flatten(1) @ x.transpose(0, 1).flatten(1).t()
    else:
        total = dy[0] @ x[0].t()
        for more, seen in zip(dy[1:], x[1:], strict=True):
            total.addmm_(more, seen.t())
    return total.view(t.selection.shape)


def _depthwise_by_convolution(o: Any, dy: Tensor, x: Tensor, kernel: Sequence[int]) -> Tensor:
    """A depthwise weight gradient as a depthwise convolution of x with dy as its kernel.

    Tap k of channel c is the sum over positions p of `dy[c, p] * x[c, p * stride + k * dilation]`:
    a correlation whose stride is the dilation and whose dilation is the stride. PyTorch's own
    kernel for this gradient takes up to fifteen times as long.
    """
    n, c = dy.shape[:2]
    # What a stride leaves over at the end would give taps that there are not.
    rest = [
        size + 2 * pad - (out - 1) * stride - (taps - 1) * dilation - 1
        for size, pad, out, stride, taps, dilation in zip(
            x.shape[2:], o.padding, dy.shape[2:], o.stride, kernel, o.dilation, strict=True
        )
    ]
    padding = o.padding
    if any(rest):
        (top, left), (below, beside) = o.padding, rest
        x, padding = F.pad(x, (left, left - beside, top, top - below)), (0, 0)
    images, kernels = x.reshape(1, n * c, *x.shape[2:]), dy.reshape(n * c, 1, *dy.shape[2:])
    samples = F.conv2d(images, kernels, None, o.dilation, padding, o.stride, n * c)
    own = samples.view(n, c, 1, *samples.shape[2:])
    return own[0] if n == 1 else own.sum(0)


def _of_kernel(o: Any, dy: Tensor, x: Tensor, like: Tensor, groups: int) -> Tensor:
    """The gradient of a kernel of the shape of `like`, whose values do not matter."""
    no_shift = (0,) * len(o.stride)
    result: Tensor = torch.ops.aten.convolution_backward(
        dy, x, like, None, o.stride, o.padding, o.dilation, False, no_shift, groups,
        (False, True, False),
    )[1]  # fmt: skip
    return result


def _grouped_convolution(o: Any, t: WeightBackward) -> Tensor:
    """One group after another, each cut to its own selected channels."""
    assert t.own.weight is not None
    weight = t.own.weight
    inputs, outputs = weight.shape[1], weight.shape[0] // o.groups
    a_group = outputs if t.selection.axis == "output" else inputs
    parts, start = [], 0
    for group, members in groupby(t.channels.numbers, key=lambda c: c // a_group):
        inside = [channel - group * a_group for channel in members]
        dy = t.dy.narrow(1, group * outputs, outputs)
        if t.selection.axis == "output":
            x = t.x.narrow(1, group * inputs, inputs)
            like = weight.narrow(0, 0, len(inside))
            parts.append(_of_kernel(o, Channels(inside).of(dy, 1), x, like, 1))
        else:
            x = t.x.narrow(1, start, len(inside))
            like = weight.narrow(0, 0, outputs).narrow(1, 0, len(inside))
            parts.append(_of_kernel(o, dy, x, like, 1).transpose(0, 1))
        start += len(inside)
    return torch.cat(parts)


def _linear(o: Any, t: WeightBackward) -> Tensor:
    dy = t.dy
    if t.selection.axis == "output":
        dy = t.channels.of(dy, dy.ndim - 1)
    return dy.reshape(-1, dy.shape[-1]).t() @ t.x.reshape(-1, t.x.shape[-1])


def _batch_norm(o: Any, t: WeightBackward) -> Tensor:
    mean, variance = (t.channels.of(buffer, 0) for buffer in t.own.buffers)
    dy = t.channels.of(t.dy, 1)
    result: Tensor = aten.native_batch_norm_backward(
        dy, t.x, None, mean, variance, None, None, False, o.eps, (False, True, False)
    )[1]
    return result


def _layer_norm(o: Any, t: WeightBackward) -> Tensor:
    mean, deviation = t.saved.view(2, *t.x.shape[:-1], 1)
    last = t.x.ndim - 1
    x, dy = t.channels.of(t.x, last), t.channels.of(t.dy, last)
    normalised: Tensor = (x - mean).mul_(deviation)
    return normalised.mul_(dy).flatten(0, -2).sum(0)


def _group_norm(o: Any, t: WeightBackward) -> Tensor:
    n, c = t.dy.shape[:2]
    groups = [channel * o.groups // c for channel in t.channels.numbers]
    mean, deviation = t.saved.view(2, n, o.groups, *(1,) * (t.dy.ndim - 2))[:, :, groups]
    dy = t.channels.of(t.dy, 1)
    normalised: Tensor = (t.x - mean).mul_(deviation)
    return normalised.mul_(dy).transpose(0, 1).flatten(1).sum(1)


WEIGHT_GRADIENT: Mapping[str, WeightGradient] = MappingProxyType(
    {
        "convolution": _convolution,
        "linear": _linear,
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
    }
)
"""Every operator kind with selectable channels."""


def bias_gradient(dy: Tensor, bias: Tensor, kind: str) -> Tensor:
    """The gradient of a bias: `dy` summed over all dimensions but those of the bias."""
    if kind == "constant":
        return dy.clone()
    if kind in ("linear", "layer_norm"):
        return dy.reshape(-1, *bias.shape).sum(0)
    return dy.sum([d for d in range(dy.ndim) if d != 1])
