"""Scores as they are kept while a task's images are scored."""

from collections.abc import Mapping

import torch
from torch import Tensor

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.program.adaptation import Scored


class Scores:
    """One number of 32 bits for all that is scored of a network, over all its samples.

    Those of output channels are sums of squared slopes, as Fisher's are; of other criteria and
    axes only the room is held, because nothing is chosen by them any more: the plan has chosen.
    """

    def __init__(self, graph: LayerGraph, scored: Scored) -> None:
        self.graph = graph
        self.found = {
            (layer, axis): torch.zeros(count)
            for layer in scored.layers
            for axis in scored.axes
            if (count := graph.selectable(layer, axis))
        }

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(scores.nbytes for scores in self.found.values())

    def __call__(self, call: Call, read: Mapping[str, Tensor]) -> None:
        """Add what a pass shows of the channels of a call's layer; see `Scorer`."""
        kept = self.found.get((call.layer or "", "output"))
        if kept is None or "value" not in read:
            return
        product = read["value"] * read["gradient"]
        axis = call.operator.channel_axis(self.graph.shapes(call), "output") % product.dim()
        others = [d for d in range(1, product.dim()) if d != axis]
        slopes = product.sum(others) if others else product
        kept += slopes.square().sum(0).float()
