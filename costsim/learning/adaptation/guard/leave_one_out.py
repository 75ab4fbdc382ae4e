"""A guard that judges each support image by the others."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from costsim.learning.adaptation.guard.base import Fit, Guard
from costsim.learning.adaptation.guard.likelihood import (
    SHARES,
    Judged,
    log_likelihoods,
    support_features,
)
from costsim.learning.adaptation.loop import Trained
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.classifier import cosine
from costsim.run.criteria.loss import prototypes


@dataclass(frozen=True)
class LeaveOneOut(Guard):
    """The share that best tells each support image by the class means of the others.

    It costs a forward pass a share, but the images were all learnt from, so that it errs towards
    more change. A class with one image says nothing.
    """

    shares: tuple[float, ...] = SHARES

    @property
    def name(self) -> str:
        """For a table."""
        return "leave-one-out"

    @property
    def extra_training(self) -> float:
        """None; its passes over the images are not priced."""
        return 0.0

    def run(self, situation: Situation, fit: Fit) -> tuple[Trained, float]:
        """See `Guard.run`."""
        trained = fit(None)
        if trained.diverged:
            return trained, 0.0
        labels = situation.labels
        counts = torch.bincount(labels)
        judged = counts[labels] > 1
        if not bool(judged.any()):
            return trained, 1.0
        after = trained.update.read()
        totals = []
        for share in self.shares:
            trained.update.write(trained.update.mix(after, share))
            features = support_features(situation, trained)
            similarity = leave_one_out_similarity(features, labels)
            totals.append(log_likelihoods(similarity[judged], labels[judged]))
        trained.update.write(after)
        return trained, Judged.of(self.shares, np.array(totals), int(judged.sum())).best()


def leave_one_out_similarity(features: Tensor, labels: Tensor) -> Tensor:
    """Cosine similarities `[N, classes]` to class means from which the image itself is left out.

    A class of one image is as its mean is: similar to itself.
    """
    means = prototypes(features, labels)
    counts = torch.bincount(labels).to(features)[labels].unsqueeze(1)
    own = (means[labels] * counts - features) / (counts - 1).clamp(min=1)
    own = torch.where(counts > 1, own, means[labels])
    similarity = cosine(features, means)
    mine = torch.nn.functional.cosine_similarity(features, own, dim=1)
    return similarity.scatter(1, labels.unsqueeze(1), mine.unsqueeze(1))
