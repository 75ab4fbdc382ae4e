"""Whether tensors are those that a training program is for."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph

MOST_IN_A_WINDOW = 256
"""Elements of a pooling window: a place in it is kept as one byte."""


def check_tensors(graph: LayerGraph, tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for a tensor that is missing or has another shape."""
    for parameter in graph.parameters:
        if parameter.name not in tensors:
            raise InputError(f"tensor {parameter.name!r} of the layer graph is missing")
        shape = tuple(tensors[parameter.name].shape)
        if shape != parameter.shape:
            raise InputError(
                f"tensor {parameter.name!r} is {shape}; the program is for {parameter.shape}"
            )


def common_type(tensors: Iterable[Tensor]) -> tuple[torch.dtype, torch.device]:
    """The dtype and the device of floating point tensors; `InputError` if there are several."""
    found = {(t.dtype, t.device) for t in tensors if t.is_floating_point()}
    if len(found) > 1:
        raise InputError(
            "the model's tensors differ in dtype or device: "
            + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in found))
        )
    return found.pop() if found else (torch.float32, torch.device("cpu"))


def check_operators(graph: LayerGraph) -> None:
    """Raise `InputError` for a call that cannot be run as its program says."""
    for call in graph.calls:
        if call.operator.saved_places() > MOST_IN_A_WINDOW:
            raise InputError(
                f"call {call.name!r}: a window of more than {MOST_IN_A_WINDOW} elements"
            )


def check_overlap(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise `InputError` for two that share memory: an update of one would be wrong for the other.

    `tensors` are the updated ones, each with its layer.
    """
    spans: list[tuple[int, int, str]] = []
    for layer, tensor in tensors:
        start = tensor.data_ptr()
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        spans.append((start, start + (reach + 1) * tensor.element_size(), layer))
    spans.sort()
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise InputError(
                f"layers {first!r} and {second!r} share memory; update at most one of them"
            )
