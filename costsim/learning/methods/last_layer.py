"""LastLayer: the last layer that has weights, all of it."""

from dataclasses import dataclass

from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation
from costsim.problem.importance import inspected_layers


@dataclass(frozen=True)
class LastLayer(Method):
    """The weight and the bias of the last layer, whatever the budgets."""

    learning_rate: float = 0.003

    @property
    def name(self) -> str:
        """As in the paper."""
        return "LastLayer"

    def choose(self, situation: Situation) -> Choice:
        """The last layer with MACs whose weight is not frozen."""
        graph = situation.graph
        (layer,) = inspected_layers(graph, 1)
        channels = tuple(range(graph.selectable_channels(layer, "output")))
        bias = {layer} if graph.selectable(layer, "bias") else ()
        plan = UpdatePlan((ChannelSubset(layer, "output", channels),), frozenset(bias))
        return Choice(plan)
