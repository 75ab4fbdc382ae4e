"""FullTrain: every weight and every bias."""

from dataclasses import dataclass

from costsim.ir.plan import UpdatePlan
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation


@dataclass(frozen=True)
class FullTrain(Method):
    """Everything is trained, whatever the budgets."""

    learning_rate: float = 0.0003

    @property
    def name(self) -> str:
        """As in the paper."""
        return "FullTrain"

    def choose(self, situation: Situation) -> Choice:
        """All of the network that its author did not freeze."""
        return Choice(UpdatePlan.full(situation.graph))
