"""BiasOnly: the biases of the last layers; nothing needs to be kept for them but masks."""

from dataclasses import dataclass

from costsim.base.errors import InputError
from costsim.ir.plan import UpdatePlan
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation


@dataclass(frozen=True)
class BiasOnly(Method):
    """The biases of the `last` layers that have one (all of them with None)."""

    learning_rate: float = 0.003
    last: int | None = 22

    @property
    def name(self) -> str:
        """With the number of layers."""
        return "BiasOnly" if self.last is None else f"BiasOnly-{self.last}"

    def choose(self, situation: Situation) -> Choice:
        """Raises `InputError` for a network without biases."""
        graph = situation.graph
        biases = [name for name in graph.layers if graph.selectable(name, "bias")]
        if not biases:
            raise InputError(f"{self.name}: {situation.backbone.name} has no biases to update")
        return Choice(UpdatePlan((), frozenset(biases[-self.last if self.last else None :])))
