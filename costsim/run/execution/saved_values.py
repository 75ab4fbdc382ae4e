"""Forward calls that store something beside their output for the gradient.

Masks are in `costsim.run.execution.masks`; here is what must be computed together with the output.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.operators import GroupNorm, LayerNorm, MaxPool
from costsim.ir.operators.reading import Reading
from costsim.run.execution.forward import Operands

SAVING: Reading[[Operands], tuple[Tensor, Tensor]] = Reading("forward function that saves")
"""The output and what is saved, of every operator kind that saves something else than a mask."""

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


@SAVING.of(LayerNorm)
def _layer_norm(o: LayerNorm, t: Operands) -> tuple[Tensor, Tensor]:
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


@SAVING.of(GroupNorm)
def _group_norm(o: GroupNorm, t: Operands) -> tuple[Tensor, Tensor]:
    n, c = t.x.shape[:2]
    weight, bias = _parameters(t, (c,))
    output, mean, deviation = torch.native_group_norm(
        t.x, weight, bias, n, c, t.x[0, 0, ...].numel(), o.groups, o.eps
    )
    return output, torch.stack((mean.flatten(), deviation.flatten()))


@SAVING.of(MaxPool)
def _max_pool(o: MaxPool, t: Operands) -> tuple[Tensor, Tensor]:
    function: Any = _MAX_POOLS[len(o.kernel)]
    output, indices = function(t.x, o.kernel, o.stride, o.padding, o.dilation, o.ceil_mode)
    return output, to_window_offsets(o, indices, t.x.shape[2:])


def to_window_offsets(o: MaxPool, indices: Tensor, input_spatial: Sequence[int]) -> Tensor:
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


def from_window_offsets(o: MaxPool, offsets: Tensor, input_spatial: Sequence[int]) -> Tensor:
    """The inverse of `to_window_offsets`."""
    indices = torch.zeros_like(offsets, dtype=torch.int64)
    weight, rest = 1, offsets.to(torch.int64)
    for d in reversed(range(len(o.kernel))):
        within = rest % o.kernel[d]
        rest = rest.div(o.kernel[d], rounding_mode="floor")
        indices.add_(within.mul_(o.dilation[d]).add_(_starts(o, offsets, d)), alpha=weight)
        weight *= input_spatial[d]
    return indices


def _starts(o: MaxPool, like: Tensor, d: int) -> Tensor:
    """Where the windows start along spatial dimension `d`, in the border perhaps."""
    count = like.shape[2 + d]
    starts = torch.arange(count, device=like.device).mul_(o.stride[d]).sub_(o.padding[d])
    return starts.view(-1, *(1,) * (len(o.kernel) - 1 - d))
