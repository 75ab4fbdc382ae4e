"""What is asked of the joint choice of channels and recipe, from what was prepared."""

from dataclasses import replace

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import even_cuts
from costsim.ir.program.adaptation import Scored as ScoredLayers
from costsim.ir.program.adaptation import Task
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.planning.joint import JointQuestion
from costsim.planning.passes import SEGMENTS, Choices, Passes
from costsim.planning.posed_problem import Prepared, other_graphs, pose
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.request import PlanRequest
from costsim.planning.task_on_device import Asked
from costsim.planning.ways_of_adapting import Side
from costsim.problem.problem import Problem
from costsim.run.criteria import make_criterion


def joint_question(prepared: Prepared) -> JointQuestion:
    """The question that a request comes to once its model is scored."""
    request = prepared.request
    recipe = planned_recipe(prepared)

    def side(image_interval: int) -> Side:
        """Where a step is over all images that an iteration shows, one over fewer is another."""
        step = step_showing(prepared, image_interval)
        if step == prepared.problem.step:
            return Side(prepared.problem, asked_of(prepared))
        problem = posed(prepared, step)
        return Side(problem, asked_of(replace(prepared, problem=problem)))

    return JointQuestion(
        side,
        recipe,
        Freedom.within_evidence(recipe, pinned=request.pinned),
        request.caches,
    )


def choices(prepared: Prepared) -> Choices:
    """The ways in which samples may go through the network: those of what was pinned alone.

    Numbers of samples that divide those of a step: what fills up a pass would cost as much. A
    network that was exported for one number of samples has no other.
    """
    request, step = prepared.request, prepared.problem.step
    graph_at = None if "micro_batch" in request.pinned else other_graphs(prepared)
    if graph_at is None:
        return Choices((step.samples_a_pass,), _segments(request), lambda _: prepared.problem.graph)
    divisors = [count for count in range(1, step.batch + 1) if step.batch % count == 0]
    return Choices(tuple(divisors), _segments(request), graph_at)


def _segments(request: PlanRequest) -> tuple[int, ...]:
    return (request.segments,) if "recompute" in request.pinned else SEGMENTS


def by_passes(prepared: Prepared, passes: Passes) -> Prepared:
    """The same by steps whose samples go through the network so."""
    before, problem = prepared.request, prepared.problem
    recipe = replace(before.planned_recipe, micro_batch=passes.micro_batch)
    request = replace(before, step=None, recipe=recipe, segments=passes.segments)
    if before.step is not None:
        micro = None if passes.micro_batch == before.step.batch else passes.micro_batch
        request = replace(request, step=replace(before.step, micro_batch=micro))
    graph = problem.graph
    if graph.batch != passes.micro_batch:
        graph_at = other_graphs(prepared)
        assert graph_at is not None
        graph = graph_at(passes.micro_batch)
    step = request.step_for(prepared.scored.task.samples)
    step = replace(step, recompute=even_cuts(graph, passes.segments))
    there = replace(prepared, request=request)
    if step == problem.step:
        return there
    return replace(there, problem=pose(request, graph, step, prepared.scored))


def posed(prepared: Prepared, step: TrainingStep) -> Problem:
    """What a solver is asked of another step over as many samples a pass.

    Where both are of several passes they share a schedule and a cost table.
    """
    request, before = prepared.request, prepared.problem
    if min(step.passes, before.step.passes) < 2:
        return pose(request, before.graph, step, prepared.scored)
    return before.of_step(step, request.budget.resolve(request.device, before.graph, step))


def step_showing(prepared: Prepared, image_interval: int) -> TrainingStep:
    """The step where an iteration shows each image in every so many iterations.

    One over all images that an iteration shows becomes one over as many as it then shows.
    """
    step, recipe = prepared.problem.step, planned_recipe(prepared)
    if recipe.batch is not None:
        return step
    samples, passed = prepared.scored.task.samples, step.samples_a_pass
    shown = replace(recipe, image_interval=image_interval).images_a_step(samples)
    batch = _passes(shown, passed)
    return replace(step, batch=batch, micro_batch=None if batch == passed else passed)


def _passes(images: int, samples_a_pass: int) -> int:
    """Images in whole passes."""
    return -(-images // samples_a_pass) * samples_a_pass


def planned_recipe(prepared: Prepared) -> Recipe:
    """The recipe asked for, with what the step and the request say of it."""
    request, samples = prepared.request, prepared.scored.task.samples
    step = request.step_for(samples)
    shown = _passes(request.planned_recipe.images_a_step(samples), step.samples_a_pass)
    return replace(
        request.planned_recipe,
        optimizer=step.optimizer,
        batch=None if step.batch == shown else step.batch,
        micro_batch=step.samples_a_pass,
        loss=request.loss,
        seed=request.seed,
    )


def asked_of(prepared: Prepared, plan: UpdatePlan | None = None) -> Asked:
    """All else that prices the whole adaptation by `plan`."""
    request, problem, scored = prepared.request, prepared.problem, prepared.scored
    criterion = make_criterion(request.criterion)
    looked_at = None
    if criterion.uses_samples:
        looked_at = ScoredLayers(scored.layers, request.axes, criterion.work)
    return Asked(
        problem.graph,
        plan or UpdatePlan(),
        Task(scored.task.samples, scored.task.ways),
        problem.step,
        request.device,
        request.target,
        looked_at,
        problem.budget,
        request.task_budget,
    )
