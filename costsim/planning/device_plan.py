"""Everything that `costsim plan` does for one device."""

from dataclasses import replace

from costsim.base.progress import Progress
from costsim.planning.conclusion import Planned, conclude
from costsim.planning.joint import choose_jointly
from costsim.planning.preparation import prepare
from costsim.planning.question import joint_question
from costsim.planning.request import PlanRequest


def make_plan(request: PlanRequest, progress: Progress | None = None) -> Planned:
    """Choose what to update of a model within the budgets, and price it.

    `progress` is called with what is being done, how much of it is done and how much there is.
    Raises `InputError` for anything in the request that cannot be used.
    """
    if request.explain_with is not None:
        request.check_of_a_step("an explanation (--explain)")
    prepared = prepare(request, progress)
    answer = choose_jointly(joint_question(prepared), request.solver, progress)
    chosen = replace(prepared, problem=answer.problem)
    return conclude(chosen, answer.solution, progress, priced=answer.priced)
