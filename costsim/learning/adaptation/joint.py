"""The joint choice of channels and recipe for a task, within budgets of the whole adaptation."""

from dataclasses import replace

from costsim.ir.operators import UpdateKind
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import ScoringWork
from costsim.ir.program.adaptation import Scored, Task
from costsim.learning.adaptation.situation import Situation
from costsim.planning.joint import JointQuestion
from costsim.planning.recipe_freedom import Freedom
from costsim.planning.task_on_device import Asked
from costsim.planning.ways_of_adapting import Side
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem


def joint_question(
    situation: Situation,
    importance: Importance,
    scored: tuple[str, ...],
    scoring: ScoringWork,
    *,
    with_bias: bool,
) -> JointQuestion:
    """What `costsim plan` asks, of this task and by these scores."""
    place, recipe, backbone = situation.place, situation.recipe, situation.backbone
    axes: tuple[UpdateKind, ...] = tuple(dict.fromkeys(one.axis for one in importance.channels))

    def side(image_interval: int) -> Side:
        shown = replace(recipe, image_interval=image_interval)
        step = shown.step(situation.samples, place.bits)
        graph = backbone.graph(step.samples_a_pass)
        target = place.target
        problem = Problem(
            graph,
            step,
            importance,
            place.budget.resolve(place.device, graph, step),
            with_bias=with_bias,
            timer=target.at(step.bits),
            compute_w=target.power.compute.value,
            seed=recipe.seed,
        )
        asked = Asked(
            graph,
            UpdatePlan(),
            Task(situation.samples, situation.task.ways),
            step,
            place.device,
            place.target_name,
            Scored(scored, axes, scoring) if scored else None,
            problem.budget,
            place.task_budget,
        )
        return Side(problem, asked)

    freedom = Freedom.within_evidence(recipe, pinned=place.pinned)
    return JointQuestion(side, recipe, freedom, place.caches)
