"""What the frozen part of a network computes of a task, once for all that is trained on it."""

import time

import torch
from torch import Tensor

from costsim.ir.cuts import cuts
from costsim.learning.training.backbone import PASS
from costsim.learning.training.copies import Copies
from costsim.learning.training.network import Trainable

CACHE_BYTES = 2**30
"""Of what frozen parts compute of the copies, so much is kept here; it changes no result."""


class FrozenValues:
    """Values at the cuts of one network, of the images of one task and their copies.

    Of copies up to `cache_bytes` are kept. `seconds`: what computing them took so far.
    """

    def __init__(self, backbone: Trainable, cache_bytes: int) -> None:
        self.backbone, self.cache_bytes, self.seconds = backbone, cache_bytes, 0.0
        self._values: dict[str, tuple[Tensor, Tensor | None]] = {}

    def at(self, cut: str, copies: Copies) -> tuple[Tensor, Tensor | None]:
        """Those at `cut`: of the images `[N, ...]`, and of all copies `[copies, N, ...]`.

        The latter is None where it would not pay (the cut is the input, copies are shown once) or
        would not fit in `cache_bytes`. `copies` are always those of the same task.
        """
        if cut == self.backbone.graph(1).input:
            return copies.images, None
        if cut not in self._values:
            started = time.perf_counter()
            self._values[cut] = self._computed(cut, copies)
            self.seconds += time.perf_counter() - started
        return self._values[cut]

    def _computed(self, cut: str, copies: Copies) -> tuple[Tensor, Tensor | None]:
        """From the latest cut before this one of which the values are there."""
        graph, recipe = self.backbone.graph(1), copies.recipe
        order = cuts(graph)
        earlier = [c for c in order[: order.index(cut)] if c in self._values]
        start, plain, pool = graph.input, copies.images, None
        if earlier:
            start, (plain, pool) = earlier[-1], self._values[earlier[-1]]
        count = recipe.drawn_copies
        found = advance(self.backbone, plain, start, cut)
        size_bytes = found.element_size() * found.numel() * count
        if count >= recipe.iterations or size_bytes > self.cache_bytes:
            return found, None
        cached = found.new_empty((count, *found.shape))
        everyone = torch.arange(len(copies.images))
        for number in range(count):
            for part in torch.split(everyone, PASS):
                if pool is None:
                    changed = copies.of(torch.full_like(part, number), part)
                    cached[number, part] = advance(self.backbone, changed, graph.input, cut)
                else:
                    cached[number, part] = advance(self.backbone, pool[number, part], start, cut)
        return found, cached


@torch.no_grad()
def advance(backbone: Trainable, values: Tensor, start: str, end: str | None = None) -> Tensor:
    """From the values at the cut `start` to those at the cut `end`, of any number of samples.

    By the model as it stands, for a traced model as many at a time as it was traced for.
    """
    if start == end:
        return values
    size = backbone.pass_size(len(values))
    forward = backbone.forward(size, start, end)
    parts = []
    for part in torch.split(values, size):
        count = len(part)
        if count < size:
            part = torch.cat([part, part[:1].expand(size - count, *part.shape[1:])])
        parts.append(forward(part)[:count])
    return torch.cat(parts)
