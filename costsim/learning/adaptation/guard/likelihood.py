"""How well each share of a change does, by the likelihood of images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from costsim.ir.cuts import last_frozen_cut, updated_layers
from costsim.learning.adaptation.loop import Trained
from costsim.learning.adaptation.situation import Situation

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

TEMPERATURES = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Likelihoods are at the best of these: sharper similarities alone are no merit, and no harm."""


@dataclass(frozen=True)
class Judged:
    """How well each share does: the mean log-likelihood of the images it is judged by."""

    shares: tuple[float, ...]
    log_likelihoods: tuple[float, ...]

    @classmethod
    def of(cls, shares: tuple[float, ...], totals: NDArray[np.float64], count: int) -> "Judged":
        """From log-likelihoods `[shares, TEMPERATURES]` added up over `count` images."""
        return cls(shares, tuple((totals.max(axis=1) / count).tolist()))

    def best(self) -> float:
        """The share with the highest likelihood; of equal ones the smallest."""
        return self.shares[int(np.argmax(self.log_likelihoods))]


def support_features(situation: Situation, trained: Trained) -> Tensor:
    """Features `[N, D]` of the support images, by the network as it stands."""
    plan = trained.update.plan
    cut = last_frozen_cut(situation.backbone.graph(1), updated_layers(plan))
    return situation.advance(situation.values_at(cut)[0], cut).flatten(1)


def log_likelihoods(similarity: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Of the labels, the images added up: one for each of `TEMPERATURES`."""
    found = [
        (temperature * similarity).log_softmax(1).gather(1, labels.unsqueeze(1)).sum()
        for temperature in TEMPERATURES
    ]
    return np.array([float(value) for value in found])
