"""The first-order gain: by how much one step of the optimizer is expected to lower the loss.

A step `d` on the weights changes the loss by `g . d` to first order, `g` being its gradient. Of
gradient descent `d = -r g`, so that a channel lowers it by `r Σ g²`; of Adam's first step
`d = -r sign(g)`, hence by `r Σ |g|`. Both sums go over the weights of the channel and add up over
channels, as a solver needs: what a plan gains is what its step would gain. The rate r, the same for
all, is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.ir.program import ScoringWork
from costsim.run.criteria.base import Criterion, Request, Target


@dataclass(frozen=True)
class FirstOrder(Criterion):
    """`Σ g²` over the weights of the channel, with g the gradient of the mean loss."""

    name: ClassVar[str] = "first_order"
    work: ClassVar[ScoringWork] = ScoringWork(weight_gradients=True)

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The gain of every channel of every target under gradient descent."""
        return _powers(request, self.name, 2)


@dataclass(frozen=True)
class FirstOrderAdam(Criterion):
    """`Σ |g|` over the weights of the channel, with g the gradient of the mean loss."""

    name: ClassVar[str] = "first_order_adam"
    work: ClassVar[ScoringWork] = ScoringWork(weight_gradients=True)

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The gain of every channel of every target under Adam."""
        return _powers(request, self.name, 1)


def _powers(request: Request, name: str, power: int) -> Mapping[Target, NDArray[np.float64]]:
    from costsim.run.criteria.passes import by_channel, parameter_gradients

    samples = len(request.images)
    return {
        target: (by_channel(gradient.double(), request.graph, *target) / samples)
        .abs()
        .pow(power)
        .sum(dim=1)
        .cpu()
        .numpy()
        for target, (_, gradient) in parameter_gradients(request, name).items()
    }
