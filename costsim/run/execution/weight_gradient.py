"""Gradients of the selected channels of a weight, one function an operator kind.

What is not selected is not computed: gradients, inputs and kernels are cut to the channels first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from costsim.ir.operators import Shapes
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


WeightGradient: TypeAlias = Callable[[Any, WeightBackward], Tensor]
"""(the call's operator, what it works on) to the gradient in the selection's compact form."""


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
    return normalised.mul_(dy).flatten(0, -2).sum(0).to(dy.dtype)


def _group_norm(o: Any, t: WeightBackward) -> Tensor:
    n, c = t.dy.shape[:2]
    groups = [channel * o.groups // c for channel in t.channels.numbers]
    mean, deviation = t.saved.view(2, n, o.groups, *(1,) * (t.dy.ndim - 2))[:, :, groups]
    dy = t.channels.of(t.dy, 1)
    normalised: Tensor = (t.x - mean).mul_(deviation)
    return normalised.mul_(dy).transpose(0, 1).flatten(1).sum(1).to(dy.dtype)


WEIGHT_GRADIENT: Mapping[str, WeightGradient] = MappingProxyType(
    {
        "linear": _linear,
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
    }
)
"""Every operator kind with selectable channels but convolutions, which have a file of their own."""


def bias_gradient(dy: Tensor, bias: Tensor, kind: str) -> Tensor:
    """The gradient of a bias: `dy` summed over all dimensions but those of the bias."""
    if kind == "constant":
        return dy.clone()
    if kind in ("linear", "layer_norm"):
        return dy.reshape(-1, *bias.shape).sum(0)
    return dy.sum([d for d in range(dy.ndim) if d != 1])
