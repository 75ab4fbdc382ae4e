"""A guard that keeps the same share of every change."""

from dataclasses import dataclass

from costsim.base.errors import InputError
from costsim.learning.adaptation.guard.base import Fit, Guard
from costsim.learning.adaptation.loop import Trained
from costsim.learning.adaptation.situation import Situation


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
