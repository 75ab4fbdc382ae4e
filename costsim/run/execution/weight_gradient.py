"""Gradients of the selected channels of a weight, one function an operator kind.

What is not selected is not computed: gradients, inputs and kernels are cut to the channels first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from costsim.ir.operators import BatchNorm, GroupNorm, LayerNorm, Linear, Shapes
from costsim.ir.operators.convolution import TransposedConvolution
from costsim.ir.operators.reading import Reading
from costsim.run.execution.forward import Operands
from costsim.run.execution.selection import Channels, Selection

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


WEIGHT_GRADIENT: Reading[[WeightBackward], Tensor] = Reading("weight gradient")
"""Every operator kind with selectable channels but convolutions, which have a file of their own."""


@WEIGHT_GRADIENT.of(Linear)
def _linear(o: Linear, t: WeightBackward) -> Tensor:
    dy = t.dy
    if t.selection.axis == "output":
        dy = t.channels.of(dy, dy.ndim - 1)
    return dy.reshape(-1, dy.shape[-1]).t() @ t.x.reshape(-1, t.x.shape[-1])


@WEIGHT_GRADIENT.of(TransposedConvolution)
def _transposed_convolution(o: TransposedConvolution, t: WeightBackward) -> Tensor:
    """That of the convolution which it is the transpose of: input and gradient change places."""
    assert t.own.weight is not None
    dy = t.channels.of(t.dy, 1) if t.selection.axis == "output" else t.dy
    kernel, depthwise = t.own.weight.shape[2:], o.is_depthwise(t.shapes)
    shape = (t.x.shape[1], 1 if depthwise else dy.shape[1], *kernel)
    result: Tensor = aten.convolution_backward(
        t.x, dy, dy.new_empty(shape), None, o.stride, o.padding, o.dilation, False,
        (0,) * len(o.stride), t.x.shape[1] if depthwise else 1, (False, True, False),
    )[1]  # fmt: skip
    return result if depthwise else result.transpose(0, 1)


@WEIGHT_GRADIENT.of(BatchNorm)
def _batch_norm(o: BatchNorm, t: WeightBackward) -> Tensor:
    mean, variance = (t.channels.of(buffer, 0) for buffer in t.own.buffers)
    dy = t.channels.of(t.dy, 1)
    result: Tensor = aten.native_batch_norm_backward(
        dy, t.x, None, mean, variance, None, None, False, o.eps, (False, True, False)
    )[1]
    return result


@WEIGHT_GRADIENT.of(LayerNorm)
def _layer_norm(o: LayerNorm, t: WeightBackward) -> Tensor:
    mean, deviation = t.saved.view(2, *t.x.shape[:-1], 1)
    last = t.x.ndim - 1
    x, dy = t.channels.of(t.x, last), t.channels.of(t.dy, last)
    normalised: Tensor = (x - mean).mul_(deviation)
    return normalised.mul_(dy).flatten(0, -2).sum(0).to(dy.dtype)


@WEIGHT_GRADIENT.of(GroupNorm)
def _group_norm(o: GroupNorm, t: WeightBackward) -> Tensor:
    n, c = t.dy.shape[:2]
    groups = [channel * o.groups // c for channel in t.channels.numbers]
    mean, deviation = t.saved.view(2, n, o.groups, *(1,) * (t.dy.ndim - 2))[:, :, groups]
    dy = t.channels.of(t.dy, 1)
    normalised: Tensor = (t.x - mean).mul_(deviation)
    return normalised.mul_(dy).transpose(0, 1).flatten(1).sum(1).to(dy.dtype)


def bias_gradient(dy: Tensor, bias: Tensor, along: Sequence[int]) -> Tensor:
    """The gradient of a bias: `dy` summed over all dimensions but those that the bias is along."""
    others = [d for d in range(dy.ndim) if d not in along]
    if not others:
        return dy.clone()
    if max(others) < min(along):
        return dy.reshape(-1, *bias.shape).sum(0)
    return dy.sum(others)
