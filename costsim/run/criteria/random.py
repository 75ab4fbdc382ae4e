"""Scores by lot: the floor that any other criterion must beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from costsim.run.criteria.base import Criterion, Request, Target


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform scores in [0, 1) from the request's seed.

    A layer's scores depend on the seed and its name, not on which other layers are inspected.
    """

    name: ClassVar[str] = "random"
    uses_samples: ClassVar[bool] = False

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """A draw for every channel of every target, one for a bias."""
        return {
            (layer, axis): np.random.default_rng(
                [request.seed, crc32(f"{layer}/{axis}".encode())]
            ).random(request.graph.selectable(layer, axis))
            for layer, axis in request.targets
        }
