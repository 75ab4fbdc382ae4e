"""Plans that look at no score: nothing, the last layer, all biases, everything."""

from dataclasses import dataclass
from typing import ClassVar

from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.problem.budget import at_least, describe
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status


def _answer(problem: Problem, plan: UpdatePlan) -> Answer:
    """The plan if it is within the budgets; otherwise what it would take."""
    exceeded = problem.exceeded(plan)
    if not exceeded:
        return Answer(plan, Status.FEASIBLE)
    reason = "; ".join(
        f"{describe(name, used)} where {describe(name, limit)} is allowed, "
        f"{at_least(name, used)} would do"
        for name, (used, limit) in exceeded.items()
    )
    return Answer(None, Status.INFEASIBLE, reason=f"this plan takes {reason}")


@dataclass(frozen=True, slots=True)
class NoUpdate:
    """Train nothing: the cost of inference."""

    name: ClassVar[str] = "none"

    def __call__(self, problem: Problem) -> Answer:
        return _answer(problem, UpdatePlan())


@dataclass(frozen=True, slots=True)
class LastLayer:
    """All of the last layer that has MACs and is not frozen, its bias with it."""

    name: ClassVar[str] = "last-layer"

    def __call__(self, problem: Problem) -> Answer:
        plan = last_layer_plan(problem.graph)
        if plan is None:
            return Answer(None, Status.INFEASIBLE, reason="no layer with MACs can be updated")
        return _answer(problem, plan)


@dataclass(frozen=True, slots=True)
class BiasOnly:
    """Every bias of the inspected layers and of the norms after them, no weight.

    The biases are those from the first inspected layer to the output.
    """

    name: ClassVar[str] = "bias-only"

    def __call__(self, problem: Problem) -> Answer:
        graph = problem.graph
        names = list(graph.layers)
        first = min(names.index(c.layer) for c in problem.candidates)
        biases = frozenset(name for name in names[first:] if graph.selectable(name, "bias"))
        if not biases:
            told = f"nothing to update: no layer from {names[first]} to the output has a bias"
            return Answer(None, Status.INFEASIBLE, reason=told)
        return _answer(problem, UpdatePlan((), biases))


@dataclass(frozen=True, slots=True)
class Full:
    """Every weight and every bias of the model that its author did not freeze."""

    name: ClassVar[str] = "full"

    def __call__(self, problem: Problem) -> Answer:
        plan = UpdatePlan.full(problem.graph)
        if not plan.subsets and not plan.biases:
            told = "nothing to update: no layer has a weight or a bias that can be"
            return Answer(None, Status.INFEASIBLE, reason=told)
        return _answer(problem, plan)


def last_layer_plan(graph: LayerGraph) -> UpdatePlan | None:
    """All of the last layer that has MACs and is not frozen, its bias with it; None without one."""
    layers = [name for name in graph.layers if _does_macs(graph, name)]
    if not layers:
        return None
    layer = layers[-1]
    channels = tuple(range(graph.selectable_channels(layer, "output")))
    biases = frozenset({layer} if graph.selectable(layer, "bias") else ())
    return UpdatePlan((ChannelSubset(layer, "output", channels),), biases)


def _does_macs(graph: LayerGraph, layer: str) -> bool:
    call = graph[graph.layers[layer].calls[0]]
    if not graph.selectable_channels(layer, "output"):
        return False
    return call.operator.weight_gradient_macs(graph.shapes(call)) > 0
