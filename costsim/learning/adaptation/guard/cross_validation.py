"""A guard that judges by support images held out of the training."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.learning.adaptation.guard.base import Fit, Guard
from costsim.learning.adaptation.guard.likelihood import (
    SHARES,
    TEMPERATURES,
    Judged,
    log_likelihoods,
    support_features,
)
from costsim.learning.adaptation.loop import Trained
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.classifier import cosine
from costsim.run.criteria.loss import prototypes


@dataclass(frozen=True)
class CrossValidation(Guard):
    """The share that does best on support images held out: each class is divided into `folds`.

    It trains once more for each fold, on the images outside it, and is the honest one: what is
    judged was not learnt from. A class with one image is always learnt from. With several
    `rate_factors` the learning rate is chosen by the same images: each fold is trained at so many
    times the rate given, for each of them.
    """

    folds: int = 2
    shares: tuple[float, ...] = SHARES
    rate_factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise InputError(f"folds is {self.folds}; at least 2 is needed")
        if not self.rate_factors or not all(0 < f < math.inf for f in self.rate_factors):
            raise InputError(f"rate factors are {self.rate_factors}; numbers above 0 are needed")

    @property
    def name(self) -> str:
        """For a table."""
        rates = len(self.rate_factors)
        return f"{self.folds}-fold" + (f", {rates} rates" if rates > 1 else "")

    @property
    def extra_training(self) -> float:
        """Each fold trains on the images of the others, at each rate."""
        return (self.folds - 1.0) * len(self.rate_factors)

    def run(self, situation: Situation, fit: Fit) -> tuple[Trained, float]:
        """See `Guard.run`."""
        folds = divide(situation.task.labels, self.folds, situation.recipe.seed)
        if not folds:
            return fit(None, min(self.rate_factors)), 1.0
        judged = {}
        for factor in self.rate_factors:
            held_out = self._judge_at(factor, folds, situation, fit)
            if held_out is not None:
                judged[factor] = held_out
        if not judged:
            return fit(None, min(self.rate_factors)), 0.0
        factor = max(judged, key=lambda f: (max(judged[f].log_likelihoods), -f))
        return fit(None, factor), judged[factor].best()

    def _judge_at(
        self,
        factor: float,
        folds: list[NDArray[np.int64]],
        situation: Situation,
        fit: Fit,
    ) -> Judged | None:
        """Each share at a learning rate, on the images held out; None if a training diverged."""
        totals = np.zeros((len(self.shares), len(TEMPERATURES)))
        for held in folds:
            out = torch.from_numpy(held)
            rest = torch.tensor(np.setdiff1d(np.arange(situation.samples), held))
            trained = fit(rest, factor)
            if trained.diverged:
                trained.update.restore()
                return None
            after = trained.update.read()
            labels = situation.labels
            for row, share in enumerate(self.shares):
                trained.update.write(trained.update.mix(after, share))
                features = support_features(situation, trained)
                means = prototypes(features[rest], labels[rest])
                totals[row] += log_likelihoods(cosine(features[out], means), labels[out])
            trained.update.restore()
        return Judged.of(self.shares, totals, sum(map(len, folds)))


def divide(labels: NDArray[np.int64], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """The images held out in each fold: of each class with several images its share, at random.

    At least one image of each class is in no fold of its own; folds without images are left out.
    """
    rng = np.random.default_rng([0x464F4C44, seed])
    held: list[list[int]] = [[] for _ in range(folds)]
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        order = members[np.argsort(rng.random(len(members)), kind="stable")]
        if len(members) > 1:
            for place, member in enumerate(order):
                held[(place + label) % folds].append(int(member))
    return [np.array(sorted(fold), dtype=np.int64) for fold in held if fold]
