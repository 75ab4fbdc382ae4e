"""Rules that keep an adaptation from doing harm, by the support images alone.

Where the network as it is already does best, every change is for the worse. A guard asks how much
of the change to keep: with `w0` the base and `w` what the training made of it, `w0 + s (w - w0)`
for a share s of 0 to 1. It is handed the task without its query images.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costsim.adaptation.loop import Trained
from costsim.adaptation.prefix import last_frozen_cut, updated_layers
from costsim.adaptation.situation import Situation, cosine
from costsim.criteria.loss import prototypes
from costsim.errors import InputError


class Fit(Protocol):
    """Trains from the base; the network is left trained. What was trained before is put back."""

    def __call__(self, samples: Tensor | None, rate_factor: float = 1.0) -> Trained:
        """On `samples` of the support images (all for None), at so many times the learning rate."""


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


class Guard(ABC):
    """How much of a change to keep; subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For a table."""

    @property
    @abstractmethod
    def extra_training(self) -> float:
        """What it trains besides, as a share of one training."""

    @abstractmethod
    def run(self, situation: Situation, fit: Fit) -> tuple[Trained, float]:
        """The training on all images, and the share of its change to keep.

        The situation's task has no query images.
        """


@dataclass(frozen=True)
class NoGuard(Guard):
    """All of the change is kept."""

    @property
    def name(self) -> str:
        """For a table."""
        return "none"

    @property
    def extra_training(self) -> float:
        """Nothing."""
        return 0.0

    def run(self, situation: Situation, fit: Fit) -> tuple[Trained, float]:
        """See `Guard.run`."""
        return fit(None), 1.0


@dataclass(frozen=True)
class Shrinkage(Guard):
    """The same `share` of every change; it costs nothing and looks at nothing.

    Between the weights before and after fine-tuning there often are better ones than either
    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """

    share: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share:g}; allowed is above 0, up to 1")

    @property
    def name(self) -> str:
        """For a table."""
        return "shrink" if self.share == 0.75 else f"shrink to {self.share:g}"

    @property
    def extra_training(self) -> float:
        """Nothing."""
        return 0.0

    def run(self, situation: Situation, fit: Fit) -> tuple[Trained, float]:
        """See `Guard.run`."""
        return fit(None), self.share


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
            features = _support_features(situation, trained)
            similarity = leave_one_out_similarity(features, labels)
            totals.append(_log_likelihoods(similarity[judged], labels[judged]))
        trained.update.write(after)
        return trained, Judged.of(self.shares, np.array(totals), int(judged.sum())).best()


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
        folds = divide(situation.task.labels, self.folds, situation.settings.seed)
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
                features = _support_features(situation, trained)
                means = prototypes(features[rest], labels[rest])
                totals[row] += _log_likelihoods(cosine(features[out], means), labels[out])
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


def _support_features(situation: Situation, trained: Trained) -> Tensor:
    plan = trained.update.plan
    cut = last_frozen_cut(situation.backbone.graph(1), updated_layers(plan))
    return situation.advance(situation.values_at(cut)[0], cut).flatten(1)


def _log_likelihoods(similarity: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Of the labels, the images added up: one for each of `TEMPERATURES`."""
    found = [
        (temperature * similarity).log_softmax(1).gather(1, labels.unsqueeze(1)).sum()
        for temperature in TEMPERATURES
    ]
    return np.array([float(value) for value in found])


GUARDS: Mapping[str, Callable[[], Guard]] = {
    "none": NoGuard,
    "shrink": Shrinkage,
    "leave-one-out": LeaveOneOut,
    "2-fold": CrossValidation,
    "5-fold": lambda: CrossValidation(folds=5),
    "2-fold, 3 rates": lambda: CrossValidation(rate_factors=(1.0, 3.0, 10.0)),
}


def make_guard(name: str) -> Guard:
    """The guard called `name`; raises `InputError` for another name."""
    if name not in GUARDS:
        raise InputError(f"guard {name!r} is unknown; known are {'; '.join(GUARDS)}")
    return GUARDS[name]()


__all__ = [
    "GUARDS",
    "CrossValidation",
    "Guard",
    "Judged",
    "LeaveOneOut",
    "NoGuard",
    "Shrinkage",
    "divide",
    "leave_one_out_similarity",
    "make_guard",
]
