"""The norm of a channel's gradient: how far one step of gradient descent would move it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.ir.program import ScoringWork
from costsim.run.criteria.base import Criterion, Request, Target


@dataclass(frozen=True)
class GradientNorm(Criterion):
    """`sqrt(Σ g²)` over the weights of the channel, with g the gradient of the summed loss."""

    name: ClassVar[str] = "gradient_norm"
    work: ClassVar[ScoringWork] = ScoringWork(weight_gradients=True)

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The norm of every channel of every target."""
        from costsim.run.criteria.passes import by_channel, parameter_gradients

        return {
            target: by_channel(gradient.double(), request.graph, *target).norm(dim=1).cpu().numpy()
            for target, (_, gradient) in parameter_gradients(request, self.name).items()
        }
