"""FullTrain: every weight and every bias."""

from dataclasses import dataclass

from costsim.adaptation.method import Choice, Method
from costsim.adaptation.situation import Situation
from costsim.plan import UpdatePlan


@dataclass(frozen=True)
class FullTrain(Method):
    """Everything is trained, whatever the budgets."""

    learning_rate: float = 0.0003

    @property
    def name(self) -> str:
        """As in the paper."""
        return "FullTrain"

    def choose(self, situation: Situation) -> Choice:
        """All of the network."""
        return Choice(UpdatePlan.full(situation.graph))
