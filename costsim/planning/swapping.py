"""Where a planned step swaps: what the same training costs in other ways."""

from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.planning.posed_problem import Prepared, other_graphs
from costsim.pricing.ways import PLANNED, SINGLE, Training, Way
from costsim.problem.solution import Solution


def ways_of_training(prepared: Prepared, solution: Solution) -> tuple[Way, ...]:
    """The training of a plan that swaps, in this way and in others; none where nothing swaps.

    As planned; with as many images a pass as RAM takes, and with one; and as stock PyTorch does
    it. What the model allows: a program that was exported for one batch has no other.
    """
    cost = solution.cost
    if solution.plan is None or cost is None or cost.on_device is None or cost.on_device.fits:
        return ()
    request, problem = prepared.request, prepared.problem
    recipe, step = request.planned_recipe, problem.step
    steps = recipe.steps(prepared.scored.task.samples, step.batch)
    training = Training(solution.plan, step, steps, request.device, request.target)
    ways = [training.at(PLANNED, lambda _: problem.graph, step.samples_a_pass)]
    graph_at = other_graphs(prepared)
    if graph_at is not None and not step.recompute:
        fitting = training.fitting(graph_at)
        if fitting is not None:
            ways.append(fitting)
        if fitting is None or fitting.samples_a_pass > 1:
            ways.append(training.at(SINGLE, graph_at, 1))
    if step.passes == 1:
        graph = _with_norms(prepared)
        plan = with_norms(solution.plan, problem.graph, graph)
        ways.append(Training(plan, step, steps, request.device, request.target).stock(graph))
    return tuple(ways)


def _with_norms(prepared: Prepared) -> LayerGraph:
    """The network as its author would train it: a built-in one with batch norm not folded."""
    from costsim.models.networks.build import Network
    from costsim.models.networks.graph import architecture_graph

    module, example = prepared.loaded.module, prepared.loaded.example_input
    if not isinstance(module, Network):
        return prepared.problem.graph
    return architecture_graph(
        module.architecture,
        batch=prepared.problem.step.samples_a_pass,
        resolution=int(example.shape[-1]),
        batch_norm=True,
    )


def with_norms(plan: UpdatePlan, folded: LayerGraph, graph: LayerGraph) -> UpdatePlan:
    """`plan` of a `folded` network on the `graph` of the same one that has its norms apart.

    A bias is that of the norm then; with everything chosen the norms' weights are trained too.
    """
    if graph is folded:
        return plan
    if plan == UpdatePlan.full(folded):
        return UpdatePlan.full(graph)
    found = UpdatePlan(plan.subsets, frozenset(f"{name}_norm" for name in plan.biases))
    found.check(graph)
    return found
