"""The interface of a guard, and the one that lets everything through."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from costsim.learning.adaptation.loop import Trained
from costsim.learning.adaptation.situation import Situation


class Fit(Protocol):
    """Trains from the base; the network is left trained. What was trained before is put back."""

    def __call__(self, samples: Tensor | None, rate_factor: float = 1.0) -> Trained:
        """On `samples` of the support images (all for None), at so many times the learning rate."""


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
