"""Forward calls whose output takes over the memory of one of their inputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.run.execution.forward import FORWARD, Operands

InPlaceFunction: TypeAlias = Callable[[Any, Operands, int], Any]
"""(the call's operator, its tensors, index of the input written over)."""


def affine(o: Any, t: Operands) -> tuple[Tensor, Tensor]:
    """Factor and offset, both [C], of a batch norm with frozen statistics."""
    mean = t.buffers[0]
    factor = normalising_factor(o, t)
    offset = mean * -factor
    return factor, offset if t.bias is None else offset.add_(t.bias)


def normalising_factor(o: Any, t: Operands) -> Tensor:
    """`weight / sqrt(variance + eps)`, [C], in at least 32 bits."""
    variance = t.buffers[1]
    if variance.element_size() < 4:
        variance = variance.float()
    factor = torch.rsqrt(variance + o.eps)
    return factor if t.weight is None else factor.mul_(t.weight)


def by_channel(vector: Tensor, x: Tensor) -> Tensor:
    """A vector [C] as it multiplies `x` [N, C, ...]."""
    return vector.view(-1, *(1,) * (x.ndim - 2))


def _batch_norm(o: Any, t: Operands, index: int) -> None:
    if t.x.element_size() < 4:  # rounded once, not after the product and after the sum
        t.x.copy_(FORWARD["batch_norm"](o, t))
        return
    factor, offset = affine(o, t)
    t.x.mul_(by_channel(factor, t.x)).add_(by_channel(offset, t.x))


def _softmax(o: Any, t: Operands, index: int) -> None:
    t.x.sub_(t.x.amax(o.dimension, keepdim=True)).exp_()
    t.x.div_(t.x.sum(o.dimension, keepdim=True))


def _subtract(o: Any, t: Operands, index: int) -> None:
    torch.sub(*t.inputs, out=t.inputs[index])


def _scale(o: Any, t: Operands, index: int) -> None:
    if o.factor != 1.0:
        t.x.mul_(o.factor)
    if o.offset != 0.0:
        t.x.add_(o.offset)


IN_PLACE: Mapping[str, InPlaceFunction] = MappingProxyType(
    {
        "batch_norm": _batch_norm,
        "relu": lambda o, t, i: t.x.relu_(),
        "leaky_relu": lambda o, t, i: F.leaky_relu_(t.x, o.negative_slope),
        "clamp": lambda o, t, i: t.x.clamp_(o.minimum, o.maximum),
        "hard_sigmoid": lambda o, t, i: F.hardsigmoid(t.x, inplace=True),
        "hard_swish": lambda o, t, i: F.hardswish(t.x, inplace=True),
        "gelu": lambda o, t, i: torch.ops.aten.gelu_(t.x, approximate=o.approximate),
        "silu": lambda o, t, i: F.silu(t.x, inplace=True),
        "elu": lambda o, t, i: F.elu_(t.x, o.alpha),
        "sigmoid": lambda o, t, i: t.x.sigmoid_(),
        "tanh": lambda o, t, i: t.x.tanh_(),
        "softmax": _softmax,
        "log_softmax": lambda o, t, i: t.x.copy_(torch.log_softmax(t.x, o.dimension)),
        "add": lambda o, t, i: t.inputs[i].add_(t.inputs[1 - i]),
        "subtract": _subtract,
        "multiply": lambda o, t, i: t.inputs[i].mul_(t.inputs[1 - i]),
        "scale": _scale,
    }
)
"""Every operator kind with `overwritable_inputs`."""
