"""The memory format of images: where the kernels are faster with channels last.

oneDNN's depthwise and pointwise convolutions take a third to four fifths of their time if the
channels of a pixel lie side by side. A program runs like that as a whole or not at all, because a
mask has its bits in the order of memory.
"""

import torch
from torch import Tensor

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Convolution

RANK = 4
"""Dimensions of a batch of images, [N, C, H, W]."""


def suits_channels_last(graph: LayerGraph, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the images of `graph` can lie with channels last, and had better."""
    has_kernels: bool = torch.backends.mkldnn.is_available()
    fast = has_kernels and dtype == torch.float32 and device.type == "cpu"
    convolves = any(
        isinstance(call.operator, Convolution) and len(call.shape) == RANK for call in graph.calls
    )
    return fast and convolves and all(_is_indifferent(graph, call) for call in graph.calls)


def _is_indifferent(graph: LayerGraph, call: Call) -> bool:
    shapes = [call.shape, *(graph[name].shape for name in call.inputs)]
    images = [shape for shape in shapes if len(shape) == RANK]
    return not images or call.operator.keeps_memory_format(graph.shapes(call))


def memory_format(shape: tuple[int, ...], channels_last: bool) -> torch.memory_format:
    """The format of a tensor of `shape`: only images have their channels last."""
    images = channels_last and len(shape) == RANK
    return torch.channels_last if images else torch.contiguous_format


def input_format(graph: LayerGraph, channels_last: bool) -> torch.memory_format:
    """As it comes, if only convolutions read it: turning it round would take a copy of it."""
    readers = (call for call in graph.calls if graph.input in call.inputs)
    if all(isinstance(call.operator, Convolution) for call in readers):
        return torch.contiguous_format
    return memory_format(graph[graph.input].shape, channels_last)


def has_channels_last(x: Tensor) -> bool:
    """Whether images lie with channels last and not, as single pixels do, both ways at once."""
    last = x.ndim == RANK and x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def rows_of(x: Tensor) -> Tensor:
    """The pixels [N * H * W, C] of images: a view if channels are last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
