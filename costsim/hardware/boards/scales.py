"""The scales of a step in 8 bits: a published network's own, or those of what it does on images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.c.emission import Quantization, published_quantization, quantize_ranges
from costsim.ir.graph import LayerGraph
from costsim.models.networks.shipped import RANDOM

if TYPE_CHECKING:
    from torch import Tensor


def find_scales(
    graph: LayerGraph,
    tensors: "Mapping[str, Tensor]",
    images: "Callable[[], Tensor]",
    weights: Path | None = None,
    told_of: str = "",
) -> tuple[Quantization, str]:
    """Scales for every value and weight of `graph`, and a sentence on where they are from.

    Where `weights` is a published int8 network, they are that file's. Else they are taken from
    what `tensors` do on `images()` `[N, C, H, W]`, N at least one; `told_of` says of what they are.
    Raises `UnsupportedOperator` for an operator without 8-bit kernels, and `InputError` naming
    `weights`.
    """
    if weights not in (None, RANDOM):
        published = published_quantization(graph, weights)
        if published is not None:
            told = f"scales of 8 bits are those of the published network in {weights.name}"
            return published, told
    from costsim.run.execution.ranges import value_ranges

    found = images()
    ranges = value_ranges(graph, tensors, found)
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    count = len(found)
    told = f"scales of 8 bits are taken from {count} image{'' if count == 1 else 's'}{told_of}"
    return quantize_ranges(graph, arrays, ranges), told
