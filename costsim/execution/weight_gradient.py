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

from costsim.execution.forward import Operands
from costsim.execution.selection import Selection, take
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
    def channels(self) -> Sequence[int]:
        """The selected channels."""
        assert self.selection.channels is not None
        return self.selection.channels


WeightGradient: TypeAlias = Callable[[Any, WeightBackward], Tensor]
"""(the call's operator, what it works on) to the gradient in the selection's compact form."""


def _convolution(o: Any, t: WeightBackward) -> Tensor:
    assert t.own.weight is not None
    weight, n = t.own.weight, len(t.channels)
    if o.is_depthwise(t.shapes):
        return _of_kernel(o, take(t.dy, 1, t.channels), t.x, weight.narrow(0, 0, n), n)
    if o.groups > 1:
        return _grouped_convolution(o, t)
    if t.selection.axis == "output":
        return _of_kernel(o, take(t.dy, 1, t.channels), t.x, weight.narrow(0, 0, n), 1)
    return _of_kernel(o, t.dy, t.x, weight.narrow(1, 0, n), 1)


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
    for group, members in groupby(t.channels, key=lambda c: c // a_group):
        inside = [channel - group * a_group for channel in members]
        dy = t.dy.narrow(1, group * outputs, outputs)
        if t.selection.axis == "output":
            x = t.x.narrow(1, group * inputs, inputs)
            like = weight.narrow(0, 0, len(inside))
            parts.append(_of_kernel(o, take(dy, 1, inside), x, like, 1))
        else:
            x = t.x.narrow(1, start, len(inside))
            like = weight.narrow(0, 0, outputs).narrow(1, 0, len(inside))
            parts.append(_of_kernel(o, dy, x, like, 1).transpose(0, 1))
        start += len(inside)
    return torch.cat(parts)


def _linear(o: Any, t: WeightBackward) -> Tensor:
    dy = t.dy
    if t.selection.axis == "output":
        dy = take(dy, dy.ndim - 1, t.channels)
    return dy.reshape(-1, dy.shape[-1]).t() @ t.x.reshape(-1, t.x.shape[-1])


def _batch_norm(o: Any, t: WeightBackward) -> Tensor:
    mean, variance = (take(buffer, 0, t.channels) for buffer in t.own.buffers)
    dy = take(t.dy, 1, t.channels)
    result: Tensor = aten.native_batch_norm_backward(
        dy, t.x, None, mean, variance, None, None, False, o.eps, (False, True, False)
    )[1]
    return result


def _layer_norm(o: Any, t: WeightBackward) -> Tensor:
    mean, deviation = t.saved.view(2, *t.x.shape[:-1], 1)
    last = t.x.ndim - 1
    x, dy = take(t.x, last, t.channels), take(t.dy, last, t.channels)
    normalised: Tensor = (x - mean).mul_(deviation)
    return normalised.mul_(dy).flatten(0, -2).sum(0)


def _group_norm(o: Any, t: WeightBackward) -> Tensor:
    n, c = t.dy.shape[:2]
    groups = [channel * o.groups // c for channel in t.channels]
    mean, deviation = t.saved.view(2, n, o.groups, *(1,) * (t.dy.ndim - 2))[:, :, groups]
    dy = take(t.dy, 1, t.channels)
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
