"""Forward calls that store something beside their output for the gradient.

Masks are in `costsim.run.execution.masks`; here is what must be computed together with the output.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.run.execution.forward import Operands

SavingFunction: TypeAlias = Callable[[Any, Operands], tuple[Tensor, Tensor]]
"""(the call's operator, its tensors) to the call's output and what is saved."""

_MAX_POOLS = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}


def in_statistics_type(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """The weight of a norm over `x` [C, ...] in a type that makes torch keep statistics well.

    At least 32 bits: with weights of 16 bits torch would round the statistics to 16 bits too.
    """
    if x.element_size() >= 4 or weight is None:
        return weight
    return weight.float()


def _layer_norm(o: Any, t: Operands) -> tuple[Tensor, Tensor]:
    shape = t.x.shape[-o.dimensions :]
    weight, bias = _parameters(t, shape)
    output, mean, deviation = torch.native_layer_norm(t.x, shape, weight, bias, o.eps)
    return output, torch.stack((mean.flatten(), deviation.flatten()))


def _parameters(t: Operands, shape: Sequence[int]) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a norm, in the type of its statistics."""
    if t.x.element_size() >= 4:
        return t.weight, t.bias
    weight = in_statistics_type(t.weight, t.x)
    if weight is None:
        weight = t.x.new_ones(shape, dtype=torch.float32)
    bias = torch.zeros_like(weight) if t.bias is None else t.bias.float()
    return weight, bias


def _group_norm(o: Any, t: Operands) -> tuple[Tensor, Tensor]:
    n, c = t.x.shape[:2]
    weight, bias = _parameters(t, (c,))
    output, mean, deviation = torch.native_group_norm(
        t.x, weight, bias, n, c, t.x[0, 0, ...].numel(), o.groups, o.eps
    )
    return output, torch.stack((mean.flatten(), deviation.flatten()))


def _max_pool(o: Any, t: Operands) -> tuple[Tensor, Tensor]:
    function: Any = _MAX_POOLS[len(o.kernel)]
    output, indices = function(t.x, o.kernel, o.stride, o.padding, o.dilation, o.ceil_mode)
    return output, to_window_offsets(o, indices, t.x.shape[2:])


SAVING: Mapping[str, SavingFunction] = MappingProxyType(
    {"layer_norm": _layer_norm, "group_norm": _group_norm, "max_pool": _max_pool}
)
"""The operator kinds that save something else than a mask."""


def to_window_offsets(o: Any, indices: Tensor, input_spatial: Sequence[int]) -> Tensor:
    """Places in the whole image (int64, as torch gives them) to places in the window (uint8)."""
    offset = torch.zeros_like(indices)
    weight, rest = 1, indices
    for d in reversed(range(len(o.kernel))):
        position = rest % input_spatial[d]
        rest = rest.div(input_spatial[d], rounding_mode="floor")
        within = position.sub_(_starts(o, indices, d)).div_(o.dilation[d], rounding_mode="floor")
        offset.add_(within, alpha=weight)
        weight *= o.kernel[d]
    return offset.to(torch.uint8)


def from_window_offsets(o: Any, offsets: Tensor, input_spatial: Sequence[int]) -> Tensor:
    """The inverse of `to_window_offsets`."""
    indices = torch.zeros_like(offsets, dtype=torch.int64)
    weight, rest = 1, offsets.to(torch.int64)
    for d in reversed(range(len(o.kernel))):
        within = rest % o.kernel[d]
        rest = rest.div(o.kernel[d], rounding_mode="floor")
        indices.add_(within.mul_(o.dilation[d]).add_(_starts(o, offsets, d)), alpha=weight)
        weight *= input_spatial[d]
    return indices


def _starts(o: Any, like: Tensor, d: int) -> Tensor:
    """Where the windows start along spatial dimension `d`, in the border perhaps."""
    count = like.shape[2 + d]
    starts = torch.arange(count, device=like.device).mul_(o.stride[d]).sub_(o.padding[d])
    return starts.view(-1, *(1,) * (len(o.kernel) - 1 - d))
