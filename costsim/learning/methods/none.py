"""None: the network as it is."""

from dataclasses import dataclass

from costsim.ir.plan import UpdatePlan
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation


@dataclass(frozen=True)
class NoAdaptation(Method):
    """Nothing is trained; the class means alone are of the task."""

    learning_rate: float = 0.0

    @property
    def name(self) -> str:
        """As in the paper."""
        return "None"

    def choose(self, situation: Situation) -> Choice:
        """An empty plan."""
        return Choice(UpdatePlan())
