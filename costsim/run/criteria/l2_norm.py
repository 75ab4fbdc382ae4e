"""The norm of a channel's weights: what pruning takes first, with no look at the samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.run.criteria.base import Criterion, Request, Target


@dataclass(frozen=True)
class L2Norm(Criterion):
    """`sqrt(Σ w²)` over the weights of the channel."""

    name: ClassVar[str] = "l2_norm"
    uses_samples: ClassVar[bool] = False

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """The norm of every channel of every target."""
        from costsim.run.criteria.passes import by_channel, checked_tensors

        tensors = checked_tensors(request)
        scores = {}
        for target in request.targets:
            weight = tensors[request.parameter(target).name]
            channels = by_channel(weight, request.graph, *target)
            scores[target] = channels.double().norm(dim=1).cpu().numpy()
        return scores
