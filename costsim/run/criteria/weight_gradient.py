"""Weight times gradient: the first-order change of the loss if a weight were removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.ir.program import ScoringWork
from costsim.run.criteria.base import Criterion, Request, Target


@dataclass(frozen=True)
class WeightGradient(Criterion):
    """`Σ |w g|` over the weights of the channel, with g the gradient of the summed loss.

    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, with the
    absolute value inside the sum.
    """

    name: ClassVar[str] = "weight_gradient"
    work: ClassVar[ScoringWork] = ScoringWork(weight_gradients=True)

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The sum of every channel of every target."""
        from costsim.run.criteria.passes import by_channel, parameter_gradients

        return {
            target: by_channel(weight.double() * gradient, request.graph, *target)
            .abs()
            .sum(dim=1)
            .cpu()
            .numpy()
            for target, (weight, gradient) in parameter_gradients(request, self.name).items()
        }
