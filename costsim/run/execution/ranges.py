"""The least and the greatest of every value of a graph, for scales of 8 bits."""

from collections.abc import Mapping

import torch
from torch import Tensor

from costsim.ir.graph import LayerGraph
from costsim.run.execution.forward import evaluate


@torch.no_grad()
def value_ranges(
    graph: LayerGraph, tensors: Mapping[str, Tensor], images: Tensor
) -> dict[str, tuple[float, float]]:
    """(least, greatest) of every call's value over `images` `[N, ...]`, N at least one.

    The graph runs at its own batch; a last one that is not full is filled up with the first images.
    """
    names = [call.name for call in graph.calls]
    found: dict[str, tuple[float, float]] = {}
    for part in torch.split(images, graph.batch):
        filling = images[: graph.batch - len(part)].expand(
            graph.batch - len(part), *images.shape[1:]
        )
        _, values = evaluate(graph, tensors, torch.cat([part, filling]), names)
        for name, value in values.items():
            low, high = float(value.min()), float(value.max())
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))
    return found
